"""Advantages and losses, as pure functions of rewards and log-probabilities. Log-probabilities and KL are in nats.

Losses are per token. The objective is their sum weighted by ``token_weights``, which are computed over the whole batch, so that
micro-batches add up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from dynamics.errors import InputError

PerSample = Float[np.ndarray, " samples"]
Groups = Int[np.ndarray, " samples"]
#: (tokens,) of each, in the order of samples
PerToken = Float[Tensor, " tokens"]
Values = TypeVar("Values", Float[np.ndarray, " tokens"], PerToken)


@runtime_checkable
class Estimator(Protocol):
    """Advantage estimator: a function of rewards, group ids (one per prompt) and completion lengths, (samples,) each."""

    def __call__(self, rewards: PerSample, groups: Groups, lengths: Groups, /) -> PerSample:
        """Return (samples,) advantages."""


def _group_mean(rewards: PerSample, groups: Groups) -> tuple[Groups, PerSample, Groups]:
    """Return the group index of each sample, and the mean and size of its group."""
    _, index, size = np.unique(groups, return_inverse=True, return_counts=True)
    return index, (np.bincount(index, rewards) / size)[index], size[index]


def grpo(rewards: PerSample, groups: Groups, _lengths: Groups) -> PerSample:
    """Compute (r - mean) / (std + 1e-6) within groups, with the n - 1 std of TRL and DeepSeekMath's code (arXiv 2402.03300).

    The division by std makes advantages depend on difficulty: of four samples, a single correct one gets 1.5, each of two gets 0.87. A
    group with equal rewards gets 0.
    """
    index, mean, size = _group_mean(rewards, groups)
    centred = np.where(_all_equal(rewards, index), 0.0, rewards - mean)
    deviation = np.sqrt(np.bincount(index, centred**2)[index] / np.maximum(size - 1, 1))
    return np.asarray(np.where(deviation > 0, centred / (deviation + 1e-6), 0.0))


def dr_grpo(rewards: PerSample, groups: Groups, _lengths: Groups) -> PerSample:
    """Subtract the mean of the group (arXiv 2503.20783). Groups with a solve rate near 1/2 have the largest advantages."""
    index, mean, _ = _group_mean(rewards, groups)
    return np.asarray(np.where(_all_equal(rewards, index), 0.0, rewards - mean))


def rloo(rewards: PerSample, groups: Groups, lengths: Groups) -> PerSample:
    """Subtract the mean of the other samples of the group (arXiv 2402.14740): dr_grpo times n / (n - 1); 0 for a group of one sample."""
    size = _group_mean(rewards, groups)[2]
    return np.asarray(dr_grpo(rewards, groups, lengths) * size / np.maximum(size - 1, 1))


def reinforce_pp(rewards: PerSample, _groups: Groups, lengths: Groups) -> PerSample:
    """(r - m) / s over the batch, with samples weighted by length, as in verl's masked whitening (REINFORCE++, arXiv 2501.03262).

    The mean advantage is 0 over tokens, but not over samples. It differs from ``reinforce++-sequence`` if rewards correlate with length.
    """
    return _whitened(rewards, lengths.astype(float))


def reinforce_pp_sequence(rewards: PerSample, _groups: Groups, _lengths: Groups) -> PerSample:
    """(r - m) / s over the batch, with equal weights for samples."""
    return _whitened(rewards, np.ones(len(rewards)))


def reinforce_pp_baseline(rewards: PerSample, groups: Groups, lengths: Groups) -> PerSample:
    """Subtract the mean of the group, then whiten over the batch as ``reinforce_pp`` does (REINFORCE++-baseline, arXiv 2501.03262).

    verl calls it ``reinforce_plus_plus_baseline``, OpenRLHF ``reinforce_baseline``. Unlike in GRPO all groups are divided by one standard
    deviation, that of what is left after centring. As in verl, a group of one sample has no baseline: if all groups are of one sample, this
    is ``reinforce++``. The mean that whitening subtracts is over tokens, so samples of a group with equal rewards share a small advantage
    unless reward and length are independent.
    """
    index, mean, size = _group_mean(rewards, groups)
    centred = np.where(_all_equal(rewards, index), 0.0, rewards - mean)
    return _whitened(np.where(size > 1, centred, rewards), lengths.astype(float))


def reinforce(rewards: PerSample, _groups: Groups, _lengths: Groups) -> PerSample:
    """Return the rewards, without a baseline: with rewards of 0 and 1, no sample gets a negative advantage."""
    return np.asarray(rewards, float)


def _whitened(rewards: PerSample, weights: PerSample) -> PerSample:
    """Subtract the weighted mean and divide by the weighted population standard deviation; 0 if all rewards are equal."""
    if np.all(rewards == rewards[0]) or not weights.sum():
        return np.zeros(len(rewards))
    mean = np.average(rewards, weights=weights)
    return np.asarray((rewards - mean) / (np.sqrt(np.average((rewards - mean) ** 2, weights=weights)) + 1e-8))


def _all_equal(rewards: PerSample, index: Groups) -> Bool[np.ndarray, " samples"]:
    """Whether all rewards in the group of a sample are equal; the computed mean could differ from them by rounding."""
    low, high = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(low, index, rewards)
    np.maximum.at(high, index, rewards)
    return np.asarray((low == high)[index])


ADVANTAGES: dict[str, Estimator] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce++": reinforce_pp,
    "reinforce++-sequence": reinforce_pp_sequence,
    "reinforce++-baseline": reinforce_pp_baseline,
    "reinforce": reinforce,
}


def advantages(name: str, rewards: ArrayLike, groups: ArrayLike, lengths: ArrayLike) -> PerSample:
    """Estimate the advantage of each sample.

    Parameters
    ----------
    name : of the estimator, a key of ``ADVANTAGES``.
    rewards : (samples,).
    groups : (samples,) integers, equal for the samples of one prompt.
    lengths : (samples,) completion lengths in tokens.

    Returns
    -------
    (samples,) float64.
    """
    if name not in ADVANTAGES:
        raise InputError(f"advantage {name!r}: unknown; there are {', '.join(ADVANTAGES)}")
    rewards = np.asarray(rewards, float)
    if not len(rewards):
        raise InputError("no samples: an empty group has no advantage; sample at least one completion")
    if not np.isfinite(rewards).all():
        raise InputError(f"the reward of sample {int(np.argmin(np.isfinite(rewards)))} is not finite; the verifier must give a number")
    return ADVANTAGES[name](rewards, np.asarray(groups), np.asarray(lengths))


def task_relative_reinforce_plus_plus(
    name: str, rewards: ArrayLike, groups: ArrayLike, lengths: ArrayLike, roles: Sequence[str], tasks: Sequence[str]
) -> PerSample:
    """Estimate advantages apart for each role and task (TRR++, task-relative REINFORCE++, of Absolute Zero, arXiv 2505.03335).

    Parameters
    ----------
    name, rewards, groups, lengths : as of ``advantages``; the estimator is REINFORCE++ in the paper.
    roles, tasks : (samples,) each, e.g. proposer and deduction; every pair has a baseline of its own.

    Returns
    -------
    (samples,) float64.
    """
    rewards, groups, lengths = np.asarray(rewards, float), np.asarray(groups), np.asarray(lengths)
    pairs = np.array([f"{role} {task}" for role, task in zip(roles, tasks, strict=True)])
    values = np.zeros(len(rewards))
    for pair in dict.fromkeys(pairs.tolist()):
        index = np.flatnonzero(pairs == pair)
        values[index] = advantages(name, rewards[index], groups[index], lengths[index])
    return values


def token_weights(name: str, lengths: ArrayLike, limit: int, roles: Sequence[str] = (), tasks: Sequence[str] = ()) -> PerSample:
    """Compute the weight of the tokens of each sample in the objective.

    ``token-mean``: 1 / number of tokens in the batch, so long samples have more weight (DAPO, arXiv 2503.14476). ``sequence-mean``:
    1 / (samples x length), so tokens of long samples have less weight, the length bias of GRPO. ``constant``: 1 / (samples x limit),
    which has neither effect (Dr. GRPO, arXiv 2503.20783). ``role-task-mean``: 1 / (pairs x tokens of the pair), so that each pair of role
    and task has the same weight, whatever its number of tokens. The public code of Absolute Zero does so in effect: it averages each
    micro-batch by its tokens, and then micro-batches, which hold samples of one pair, the same number for each.

    Parameters
    ----------
    name : one of ``AGGREGATIONS``.
    lengths : (samples,) completion lengths in tokens.
    limit : maximum completion length in tokens.
    roles, tasks : (samples,) each, for ``role-task-mean``; pairs without a token do not count.

    Returns
    -------
    (samples,) weight of each token of the sample.
    """
    lengths = np.asarray(lengths, float)
    if name not in AGGREGATIONS:
        raise InputError(f"loss {name!r}: unknown; there are {', '.join(AGGREGATIONS)}")
    if not lengths.sum():
        raise InputError("the batch has no completion tokens: nothing to train on")
    count = len(lengths)
    if name == "token-mean":
        return np.full(count, 1 / lengths.sum())
    if name == "constant":
        return np.full(count, 1 / (count * limit))
    if name == "role-task-mean":
        _, pair = np.unique([f"{role} {task}" for role, task in zip(roles, tasks, strict=True)], return_inverse=True)
        tokens = np.bincount(pair, lengths)
        return 1 / (np.count_nonzero(tokens) * np.maximum(tokens, 1)[pair])
    return np.where(lengths > 0, 1 / (count * np.maximum(lengths, 1)), 0.0)


AGGREGATIONS = ("token-mean", "sequence-mean", "constant", "role-task-mean")


def policy_loss(logp: PerToken, old: PerToken, advantage: PerToken, low: float = 0.2, high: float = 0.2, dual: float = 0.0) -> PerToken:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(logp - old) (PPO, arXiv 1707.06347).

    At r = 1, as in the first update on a batch, its gradient is that of -A logp, independent of clipping. Where A < 0 and r has grown, the
    loss is unbounded; dual clipping bounds it by -dual A (arXiv 1912.09729; ``clip_ratio_c`` in verl).

    Parameters
    ----------
    logp, old : (tokens,) log-probabilities under the current policy and the policy before the update, in nats.
    advantage : (tokens,) advantage of the token's sample.
    low, high : the ratio is clipped at 1 - low and at 1 + high.
    dual : bound of the ratio for negative advantages, above 1; 0 for none.
    """
    ratio = torch.exp(logp - old)
    bounded = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return -(torch.where(advantage < 0, torch.maximum(bounded, dual * advantage), bounded) if dual else bounded)


def clipped(
    logp: PerToken, old: PerToken, advantage: PerToken, low: float = 0.2, high: float = 0.2
) -> tuple[Bool[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """Mark the tokens whose gradient of ``policy_loss`` is removed by clipping, at the lower and at the upper end of the ratio."""
    ratio = torch.exp(logp - old)
    return (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0)


def sequence_coefficients(logp: PerSample, old: PerSample, advantage: PerSample, low: float = 0.2, high: float = 0.2) -> PerSample:
    """Compute A r of each completion where min(r A, clip(r, 1 - low, 1 + high) A) has a gradient, and 0 where clipping removes it.

    The ratio is of whole completions, r = exp(logp - old) with mean log-probabilities of the tokens, as in the public code of SPC
    (arXiv 2504.19162) and in GSPO (arXiv 2507.18071). The gradient of r A is A r times the gradient of the mean log-probability, so that a
    log-likelihood with these coefficients, held fixed, has the gradient of the objective. Its value is not that of the objective.

    Parameters
    ----------
    logp, old : (samples,) mean log-probability of the tokens under the current policy and under the reference, nats.
    advantage : (samples,).
    low, high : the ratio is clipped at 1 - low and at 1 + high.

    Returns
    -------
    (samples,) float64.
    """
    ratio = np.exp(logp - old)
    removed = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return np.asarray(np.where(removed, 0.0, advantage * ratio), float)


def dual_clipped(logp: PerToken, old: PerToken, advantage: PerToken, dual: float) -> Bool[Tensor, " tokens"]:
    """Mark the tokens whose gradient of ``policy_loss`` is removed by dual clipping; none if ``dual`` is 0."""
    return (torch.exp(logp - old) > dual) & (advantage < 0) & (dual > 0)


def kl_k1(logp: PerToken, reference_logp: PerToken) -> PerToken:
    """Log p - log q of tokens drawn from p: unbiased for KL(p || q), of high variance, negative for many tokens."""
    return logp - reference_logp


def kl_k2(logp: PerToken, reference_logp: PerToken) -> PerToken:
    """Half the square of log p - log q: never negative, biased."""
    return (logp - reference_logp) ** 2 / 2


def kl_k3(logp: Values, reference_logp: Values) -> Values:
    """Estimate KL(p || q) by q / p - 1 - log(q / p), unbiased where p covers q and never negative (Schulman, 2020).

    Its gradient is not that of the divergence.

    Parameters
    ----------
    logp, reference_logp : (tokens,) log p and log q of each token, drawn from p, in nats; numpy arrays or torch tensors.

    Returns
    -------
    (tokens,) nats, an array or a tensor like the input.
    """
    log_ratio = reference_logp - logp
    ratio_minus_1 = torch.expm1(log_ratio) if isinstance(log_ratio, Tensor) else np.expm1(log_ratio)
    return ratio_minus_1 - log_ratio


def covariance(logp: PerToken, advantage: PerToken) -> PerToken:
    """(log p - mean)(A - mean) of each token, with means over the batch; it drives the entropy change of a step (arXiv 2505.22617)."""
    return (logp - logp.mean()) * (advantage - advantage.mean())


def clip_cov_mask(
    cov: PerToken, ratio: float, low: float = 1.0, high: float = 5.0, generator: np.random.Generator | None = None
) -> Bool[Tensor, " tokens"]:
    """Select the tokens whose gradient is dropped (Clip-Cov): random ones of those with low <= covariance <= high.

    They are floor(ratio x tokens), at least one, as in verl's ``compute_policy_loss_clip_cov``; all within the bounds if these are fewer,
    which can be none: the covariance of most tokens is below 1.

    Parameters
    ----------
    cov : (tokens,) result of ``covariance``.
    ratio : fraction of the tokens.
    low, high : bounds of the covariance.
    generator : random generator; if None, a new generator with seed 0.
    """
    inside = torch.nonzero((cov >= low) & (cov <= high)).flatten().cpu().numpy()
    count = min(max(1, int(ratio * len(cov))) if ratio else 0, len(inside))
    mask = torch.zeros(len(cov), dtype=torch.bool)
    if count:
        mask[torch.from_numpy((generator or np.random.default_rng(0)).choice(inside, count, replace=False))] = True
    return mask.to(cov.device)


def kl_cov_mask(cov: PerToken, ratio: float) -> Bool[Tensor, " tokens"]:
    """Select the tokens that get a KL penalty (KL-Cov): the floor(ratio x tokens), at least one, of highest covariance."""
    mask = torch.zeros(len(cov), dtype=torch.bool, device=cov.device)
    if ratio and len(cov):
        mask[torch.topk(cov, max(1, int(ratio * len(cov)))).indices] = True
    return mask
