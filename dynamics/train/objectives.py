"""Advantages and losses, as pure functions of rewards and log-probabilities. Log-probabilities and KL in nats.

A loss here is per token, and ``token_weights`` says what each token weighs in a whole batch: the objective is their weighted sum, and a
micro-batch adds its own part of it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch

from dynamics.errors import InputError

Floats = np.ndarray[Any, Any]
Values = TypeVar("Values", np.ndarray[Any, Any], torch.Tensor)


def _group_mean(rewards: Floats, groups: Floats) -> tuple[Floats, Floats, Floats]:
    """(samples,) of each: index of the group, its mean, its size."""
    _, place, size = np.unique(groups, return_inverse=True, return_counts=True)
    return place, (np.bincount(place, rewards) / size)[place], size[place]


def grpo(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """(r - mean of the group) / (its standard deviation + 1e-6), with n - 1 as TRL and DeepSeekMath's code have it (arXiv 2402.03300).

    Dividing weighs groups by difficulty: of four samples, a single correct one gets 1.5, each of two 0.87. A group of equals gets 0.
    """
    place, mean, size = _group_mean(rewards, groups)
    centred = np.where(_all_equal(rewards, place), 0.0, rewards - mean)
    spread = np.sqrt(np.bincount(place, centred**2)[place] / np.maximum(size - 1, 1))
    return np.asarray(np.where(spread > 0, centred / (spread + 1e-6), 0.0))


def dr_grpo(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """r - mean of the group (arXiv 2503.20783). Groups near half solved weigh most, those near the ends least."""
    place, mean, _ = _group_mean(rewards, groups)
    return np.asarray(np.where(_all_equal(rewards, place), 0.0, rewards - mean))


def rloo(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """r - mean of the other samples of the group (arXiv 2402.14740): dr_grpo times n / (n - 1). A group of one gets 0."""
    size = _group_mean(rewards, groups)[2]
    return np.asarray(dr_grpo(rewards, groups, lengths) * size / np.maximum(size - 1, 1))


def reinforce_pp(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """(r - m) / s over the batch, each sample counted once a token, as verl's masked whitening does (REINFORCE++, arXiv 2501.03262).

    The mean over tokens is then 0 and that over samples is not: if long answers are the wrong ones, most samples get less than they
    would by ``reinforce++-sequence``.
    """
    return _whitened(rewards, lengths.astype(float))


def reinforce_pp_sequence(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """(r - m) / s over the batch, each sample counted once."""
    return _whitened(rewards, np.ones(len(rewards)))


def reinforce(rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """The reward as it is: no baseline, so that with rewards of 0 and 1 nothing is ever pushed down."""
    return np.asarray(rewards, float)


def _whitened(rewards: Floats, weights: Floats) -> Floats:
    """Population variance; 0 where all are equal."""
    if np.all(rewards == rewards[0]) or not weights.sum():
        return np.zeros(len(rewards))
    mean = np.average(rewards, weights=weights)
    return np.asarray((rewards - mean) / (np.sqrt(np.average((rewards - mean) ** 2, weights=weights)) + 1e-8))


def _all_equal(rewards: Floats, place: Floats) -> Floats:
    """(samples,) whether all rewards of a sample's group are the same number; their computed mean may differ from it by rounding."""
    low, high = np.full(place.max() + 1, np.inf), np.full(place.max() + 1, -np.inf)
    np.minimum.at(low, place, rewards)
    np.maximum.at(high, place, rewards)
    return np.asarray((low == high)[place])


ADVANTAGES = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce++": reinforce_pp,
    "reinforce++-sequence": reinforce_pp_sequence,
    "reinforce": reinforce,
}


def advantages(name: str, rewards: Floats, groups: Floats, lengths: Floats) -> Floats:
    """Advantage of each sample, by the estimator's name.

    Parameters
    ----------
    rewards : (samples,).
    groups : (samples,) whole numbers; samples of one prompt share theirs.
    lengths : (samples,) tokens.
    """
    if name not in ADVANTAGES:
        raise InputError(f"advantage {name!r}: unknown; there are {', '.join(ADVANTAGES)}")
    rewards = np.asarray(rewards, float)
    if not len(rewards):
        raise InputError("no samples: an empty group has no advantage; sample at least one completion")
    if not np.isfinite(rewards).all():
        raise InputError(f"the reward of sample {int(np.argmin(np.isfinite(rewards)))} is not finite; the verifier must give a number")
    return ADVANTAGES[name](rewards, np.asarray(groups), np.asarray(lengths))


def token_weights(name: str, lengths: Floats, limit: int) -> Floats:
    """(samples,) what each token of a sample weighs in the objective.

    ``token-mean``: 1 / tokens of the batch, so long samples weigh more (DAPO, arXiv 2503.14476). ``sequence-mean``: 1 / (samples x
    length), so a token of a long sample weighs less, which is GRPO's length bias. ``constant``: 1 / (samples x limit), without either
    (Dr. GRPO, arXiv 2503.20783).
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
    return np.where(lengths > 0, 1 / (count * np.maximum(lengths, 1)), 0.0)


AGGREGATIONS = ("token-mean", "sequence-mean", "constant")


def policy_loss(logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, low: float = 0.2, high: float = 0.2) -> torch.Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(logp - old), all (tokens,) (PPO, arXiv 1707.06347).

    At r = 1, as in the first update on a batch, its gradient is that of -A logp whatever the clipping.
    """
    ratio = torch.exp(logp - old)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def clipped(
    logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, low: float = 0.2, high: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens,) bool each: which tokens have no gradient because the ratio fell too low, or rose too high."""
    ratio = torch.exp(logp - old)
    return (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0)


def kl_k1(logp: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """log p - log q of tokens drawn from p: unbiased for KL(p || q), of high variance, negative for many tokens."""
    return logp - reference


def kl_k2(logp: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Half the square of log p - log q: never negative, biased."""
    return (logp - reference) ** 2 / 2


def kl_k3(logp: Values, reference_logp: Values) -> Values:
    """q / p - 1 - log(q / p) of tokens drawn from p: unbiased for KL(p || q) where p covers q, and never negative (Schulman, 2020).

    Its gradient is not that of the KL divergence.

    Parameters
    ----------
    logp, reference_logp : (tokens,) log p and log q of each token, in nats; numpy arrays or torch tensors.

    Returns
    -------
    (tokens,) nats, of the kind that was given.
    """
    log_ratio = reference_logp - logp
    if isinstance(log_ratio, torch.Tensor):
        return torch.expm1(log_ratio) - log_ratio
    return np.expm1(log_ratio) - log_ratio


def covariance(logp: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """(log p - its mean)(A - its mean) of each token over the batch; what moves entropy in a step (arXiv 2505.22617)."""
    return (logp - logp.mean()) * (advantage - advantage.mean())


def clip_cov_mask(
    cov: torch.Tensor, ratio: float, low: float = 1.0, high: float = 5.0, generator: np.random.Generator | None = None
) -> torch.Tensor:
    """(tokens,) bool: floor(ratio x tokens) at random among those with low <= covariance <= high, whose gradient is dropped (Clip-Cov)."""
    inside = torch.nonzero((cov >= low) & (cov <= high)).flatten().cpu().numpy()
    count = min(int(ratio * len(cov)), len(inside))
    mask = torch.zeros(len(cov), dtype=torch.bool)
    if count:
        mask[torch.from_numpy((generator or np.random.default_rng(0)).choice(inside, count, replace=False))] = True
    return mask.to(cov.device)


def kl_cov_mask(cov: torch.Tensor, ratio: float) -> torch.Tensor:
    """(tokens,) bool: the floor(ratio x tokens), at least one, of the highest covariance, which get a KL penalty (KL-Cov)."""
    mask = torch.zeros(len(cov), dtype=torch.bool, device=cov.device)
    if ratio:
        mask[torch.topk(cov, max(1, int(ratio * len(cov)))).indices] = True
    return mask
