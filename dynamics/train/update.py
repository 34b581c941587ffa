"""One optimizer step on one batch: weighted log-likelihood, accumulated over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dynamics.errors import InputError
from dynamics.train import objectives
from dynamics.train.batch import Batch, completion_offsets, token_indices
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.player import Player
from dynamics.train.policy import Piece, Policy
from dynamics.train.rng import stream


@dataclass
class Tokens:
    """Values of each completion token of a batch, for the metrics.

    Attributes
    ----------
    sample : (tokens,) index of the sample; tokens are in the order of samples.
    logp : (tokens,) log-probability at the batch's temperature, nats.
    entropy, surprisal : (tokens,) at temperature 1, nats.
    loss : (tokens,) loss times the token's weight in the objective.
    clipped_low, clipped_high, clipped_dual : (tokens,) 1 where clipping of the probability ratio at its lower or upper end, or dual
        clipping, removes the gradient.
    """

    sample: Float[np.ndarray, " tokens"]
    logp: Float[np.ndarray, " tokens"]
    entropy: Float[np.ndarray, " tokens"]
    surprisal: Float[np.ndarray, " tokens"]
    loss: Float[np.ndarray, " tokens"]
    clipped_low: Float[np.ndarray, " tokens"]
    clipped_high: Float[np.ndarray, " tokens"]
    clipped_dual: Float[np.ndarray, " tokens"]


@dataclass(frozen=True)
class Before:
    """Values computed before an update; None if the objective does not need them.

    Attributes
    ----------
    old, reference : (tokens,) log-probabilities of the policy before the update and of the base model, in the order of samples, nats.
    dropped, penalised : (tokens,) bool, tokens whose gradient is dropped (Clip-Cov), and tokens with a KL penalty to ``old`` (KL-Cov).
    coefficients : (samples,) of the log-likelihood, for a ratio of whole completions; computed anew for each update on a batch.
    """

    old: Float[torch.Tensor, " tokens"] | None = None
    reference: Float[torch.Tensor, " tokens"] | None = None
    dropped: Bool[torch.Tensor, " tokens"] | None = None
    penalised: Bool[torch.Tensor, " tokens"] | None = None
    coefficients: Float[np.ndarray, " samples"] | None = None


def gradient(policy: Policy, batch: Batch, config: TrainConfig, before: Before) -> Tokens:
    """Add the gradient of the objective to the parameters of ``policy.model``.

    Token weights are computed over the whole batch, so the split into micro-batches affects only the order of sums. Samples that are not
    trained are computed without gradient, for their metrics only, and so are samples with an advantage of 0 unless the objective has other
    terms.

    Parameters
    ----------
    policy
        Model whose gradients are accumulated.
    batch
        Completions and their advantages.
    config
        Settings of the objective.
    before
        Result of ``prepare`` for this batch.

    Returns
    -------
    Tokens
        Values of all completion tokens.
    """
    offsets = completion_offsets(batch)
    count = int(offsets[-1])
    weights = objectives.token_weights(config.loss_aggregation, batch.lengths, config.max_new_tokens, batch.roles, batch.tasks)
    tokens = Tokens(*(np.zeros(count) for _ in range(8)))
    learns = learning(batch, config)
    if batch.sequence_ratio:
        logp = policy.logprobs_of(batch, config.max_tokens_per_microbatch)
        before = replace(before, coefficients=_coefficients(logp.double().cpu().numpy(), batch, config))
    for chosen, with_gradient in ((np.flatnonzero(learns).tolist(), True), (np.flatnonzero(~learns).tolist(), False)):
        for rows in policy.pack(batch, chosen, config.max_tokens_per_microbatch):
            with torch.set_grad_enabled(with_gradient):
                for piece in policy.pieces(rows, config.max_tokens_per_microbatch, batch.temperature):
                    _add(piece, tokens, batch, config, before, weights, token_indices(piece.rows, offsets))
    _weigh(tokens, batch, weights)
    return tokens


def _weigh(tokens: Tokens, batch: Batch, weights: Float[np.ndarray, " samples"]) -> None:
    """Multiply losses by the weights of their tokens; samples that are not trained have none."""
    sample = tokens.sample.astype(int)
    tokens.loss *= weights[sample]
    if batch.trained is not None:
        tokens.loss[~batch.trained[sample]] = 0.0


def slopes(
    values: Float[torch.Tensor, "3 tokens"], batch: Batch, config: TrainConfig, before: Before
) -> tuple[Tokens, Float[np.ndarray, " tokens"]]:
    """Compute the derivative of the objective by each log-probability, where a model's values are known but not its graph.

    The gradient of the objective is the sum of the gradients of the log-probabilities, each times its derivative, as long as the weights
    are those of ``values`` and the objective has no entropy bonus, which is no function of the log-probabilities of the samples.

    Parameters
    ----------
    values
        Log-probabilities, entropies and surprisals of the completion tokens under the current weights, as from ``Policy.measure``.
    batch
        Completions and their advantages.
    config
        Settings of the objective.
    before
        Result of ``prepare`` for this batch.

    Returns
    -------
    Values of all completion tokens as from ``gradient``, and (tokens,) derivatives.
    """
    if isinstance(config, PolicyGradientConfig) and config.entropy_coef:
        raise ValueError("an entropy bonus has a gradient that the derivatives by log-probabilities do not give")
    offsets = completion_offsets(batch)
    weights = objectives.token_weights(config.loss_aggregation, batch.lengths, config.max_new_tokens, batch.roles, batch.tasks)
    tokens = Tokens(*(np.zeros(int(offsets[-1])) for _ in range(8)))
    logp, entropy, surprisal = values.double().cpu()
    if batch.sequence_ratio:
        before = replace(before, coefficients=_coefficients(logp.numpy(), batch, config))
    before = replace(
        before,
        old=None if before.old is None else before.old.double().cpu(),
        reference=None if before.reference is None else before.reference.double().cpu(),
        dropped=None if before.dropped is None else before.dropped.cpu(),
        penalised=None if before.penalised is None else before.penalised.cpu(),
    )
    logp = logp.clone().requires_grad_()
    sample = np.repeat(np.arange(len(batch.completions)), batch.lengths)
    index = np.arange(len(sample))
    loss = _enter(tokens, batch, config, before, sample, index, (logp, entropy, surprisal))
    learns = torch.from_numpy((weights * learning(batch, config))[sample])
    (slope,) = torch.autograd.grad((loss * learns).sum(), logp)
    _weigh(tokens, batch, weights)
    return tokens, slope.numpy()


def learning(batch: Batch, config: TrainConfig) -> Bool[np.ndarray, " samples"]:
    """Tell which samples have a gradient: those that are trained; with an advantage of 0 only if the objective has other terms."""
    all_learn = isinstance(config, PolicyGradientConfig) and bool(config.kl_coef or config.entropy_coef or config.kl_cov)
    learns = batch.advantages != 0 if not all_learn else np.ones(len(batch.completions), bool)
    return learns if batch.trained is None else learns & batch.trained


def _add(
    piece: Piece,
    tokens: Tokens,
    batch: Batch,
    config: TrainConfig,
    before: Before,
    weights: Float[np.ndarray, " samples"],
    index: Int[np.ndarray, " _"],
) -> None:
    """Add the gradient of a piece, if gradients are enabled, and enter its values into ``tokens`` at ``index``."""
    loss = _enter(tokens, batch, config, before, piece.rows.sample, index, piece.values)
    if torch.is_grad_enabled():
        piece.backward((loss * torch.from_numpy(weights[piece.rows.sample]).to(loss)).sum())


def _enter(
    tokens: Tokens,
    batch: Batch,
    config: TrainConfig,
    before: Before,
    sample: Int[np.ndarray, " _"],
    index: Int[np.ndarray, " _"],
    values: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Enter the values of tokens of these samples into ``tokens`` at ``index``; return their losses, (tokens,), unweighted."""
    logp, entropy, surprisal = values
    advantage = torch.from_numpy((batch.advantages if before.coefficients is None else before.coefficients)[sample]).to(logp)
    imitated = None if batch.supervised is None else torch.from_numpy(batch.supervised[sample]).to(logp.device)
    loss, clipped = _loss(config, before, index, logp, entropy, advantage, imitated)
    for name, value in (("logp", logp), ("entropy", entropy), ("surprisal", surprisal), ("loss", loss)):
        getattr(tokens, name)[index] = value.detach().double().cpu().numpy()
    tokens.sample[index] = sample
    tokens.clipped_low[index], tokens.clipped_high[index], tokens.clipped_dual[index] = clipped.cpu().numpy()
    if before.coefficients is not None:  # whole completions are clipped
        removed = (before.coefficients[sample] == 0) * np.sign(batch.advantages[sample])
        tokens.clipped_low[index], tokens.clipped_high[index] = removed < 0, removed > 0
    return loss


def _loss(
    config: TrainConfig,
    before: Before,
    index: Int[np.ndarray, " tokens"],
    logp: Float[torch.Tensor, " tokens"],
    entropy: Float[torch.Tensor, " tokens"],
    advantage: Float[torch.Tensor, " tokens"],
    imitated: Bool[torch.Tensor, " tokens"] | None,
) -> tuple[Float[torch.Tensor, " tokens"], Bool[torch.Tensor, "3 tokens"]]:
    """Loss of the tokens with these indices in the batch, and masks of those clipped at the lower and upper end and by dual clipping.

    Tokens that are ``imitated``, and all where the coefficients are those of whole completions, have no probability ratio.
    """
    if not isinstance(config, PolicyGradientConfig):
        return -advantage * logp, torch.zeros(3, len(logp), dtype=torch.bool, device=logp.device)
    old = logp.detach() if before.old is None or before.coefficients is not None else before.old[index]
    if imitated is not None:
        old = torch.where(imitated, logp.detach(), old)
    loss = objectives.policy_loss(logp, old, advantage, config.clip_ratio_low, config.clip_ratio_high, config.clip_ratio_c)
    low, high = objectives.clipped(logp.detach(), old, advantage, config.clip_ratio_low, config.clip_ratio_high)
    dual = objectives.dual_clipped(logp.detach(), old, advantage, config.clip_ratio_c)
    if before.dropped is not None:
        loss = torch.where(before.dropped[index], loss.detach(), loss)
    if before.penalised is not None:
        loss = loss + torch.where(before.penalised[index], (logp - old).abs(), torch.zeros_like(logp))
    if before.reference is not None:
        loss = loss + config.kl_coef * objectives.kl_k3(logp, before.reference[index])
    if config.entropy_coef:
        loss = loss - config.entropy_coef * entropy
    return loss, torch.stack([low, high, dual])


def _coefficients(logp: Float[np.ndarray, " tokens"], batch: Batch, config: TrainConfig) -> Float[np.ndarray, " samples"]:
    """Compute the coefficients of the log-likelihood for a ratio of whole completions; those of imitated ones are their advantages."""
    if batch.behaviour is None or not isinstance(config, PolicyGradientConfig):
        raise ValueError("a ratio needs the log-probabilities of a reference, and a policy gradient")
    lengths = np.maximum(batch.lengths, 1)
    sample = np.repeat(np.arange(len(lengths)), batch.lengths)
    reference = np.concatenate(list(batch.behaviour)).astype(float)
    now, old = (np.bincount(sample, values, len(lengths)) / lengths for values in (logp, reference))
    found = objectives.sequence_coefficients(now, old, batch.advantages, config.clip_ratio_low, config.clip_ratio_high)
    return found if batch.supervised is None else np.where(batch.supervised, batch.advantages, found)


def prepare(policy: Policy, reference: Policy | None, batch: Batch, config: TrainConfig, step: int) -> Before:
    """Compute the values that the objective needs from before the update. Old log-probabilities are those of the trainer, not the sampler.

    Parameters
    ----------
    policy
        The policy before the update.
    reference
        The base model if there is a KL penalty, else None.
    batch
        Batch of the update.
    config
        Settings of the objective.
    step
        Number of the step, for the random stream.
    """
    if not isinstance(config, PolicyGradientConfig):
        return Before()
    covariance = config.clip_cov or config.kl_cov
    old = policy.logprobs_of(batch, config.max_tokens_per_microbatch) if config.num_iterations > 1 or covariance else None
    dropped = penalised = None
    if covariance and old is not None:
        trained = np.ones(len(batch.completions), bool) if batch.trained is None else batch.trained
        among = torch.from_numpy(np.repeat(trained, batch.lengths)).to(old.device)
        advantage = torch.from_numpy(np.repeat(batch.advantages, batch.lengths)).to(old)
        product = objectives.covariance(old[among], advantage[among])
        if config.clip_cov:
            mask = objectives.clip_cov_mask(product, config.clip_cov, generator=stream(config.seed, "clip_cov", step))
            dropped = torch.zeros_like(among).masked_scatter(among, mask)
        if config.kl_cov:
            penalised = torch.zeros_like(among).masked_scatter(among, objectives.kl_cov_mask(product, config.kl_cov))
    base = reference.logprobs_of(batch, config.max_tokens_per_microbatch) if reference is not None else None
    return Before(old, base, dropped, penalised)


def make_optimizer(policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
    """Make AdamW for the master weights of a policy; see ``optimizer_of``."""
    return optimizer_of(policy.masters.values(), config)


def optimizer_of(weights: Iterable[torch.Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    """Make AdamW for weights; with ``decay_matrices_only``, those of fewer than two dimensions are in a group without decay."""
    masters = list(weights)
    groups: list[dict[str, Any]] = [{"params": masters}]
    if config.decay_matrices_only:
        groups = [{"params": [value for value in masters if value.ndim >= 2]}]
        groups.append({"params": [value for value in masters if value.ndim < 2], "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups, config.learning_rate, (config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay, fused=True
    )


def make_player(name: str, policy: Policy, config: TrainConfig) -> Player:
    """Make a player of a policy, with an optimizer that has the settings of the run."""
    return Player(name, policy, make_optimizer(policy, config))


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, tokens: Tokens, batch: Batch) -> float:
    """Clip the gradient and take an optimizer step; raise InputError, without a step, if the gradient or the loss is not finite.

    Parameters
    ----------
    policy, optimizer
        The model to update, and its optimizer.
    config
        Settings of learning rate and clipping.
    step
        Number of the step, counted from 1.
    tokens
        Result of ``gradient``.
    batch
        The batch, for error messages.

    Returns
    -------
    float
        L2 norm of the gradient before clipping.
    """
    norm = clipped_norm(policy, config)
    if not math.isfinite(norm) or not np.isfinite(tokens.loss).all():
        optimizer.zero_grad()
        raise not_finite(step, tokens, batch)
    apply(policy, optimizer, config, step)
    return norm


def clipped_norm(policy: Policy, config: TrainConfig) -> float:
    """Clip the gradient, and return its L2 norm before that."""
    policy.move_gradients()
    return float(torch.nn.utils.clip_grad_norm_(policy.masters.values(), config.max_grad_norm or math.inf))


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Set the learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rate(config, step)


def not_finite(step: int, tokens: Tokens, batch: Batch) -> InputError:
    """Make the error of a step whose gradient or loss is not finite."""
    samples = tokens.sample[~np.isfinite(tokens.loss)]
    names = sorted({batch.names[int(sample)] for sample in samples})[:3] or sorted(set(batch.names))[:3]
    return InputError(
        f"step {step}: the {'loss' if len(samples) else 'gradient'} is not finite, in a batch with {', '.join(names)}; "
        "the weights of the previous step are kept, and --resume continues from them; a smaller --learning-rate may help"
    )


def apply(policy: Policy, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Take an optimizer step on the gradients of the master weights."""
    set_rate(optimizer, config, step)
    optimizer.step()
    optimizer.zero_grad()
    policy.update_model()


def rate(config: TrainConfig, step: int) -> float:
    """Return the factor of the learning rate schedule, including warm-up, at a step counted from 1."""
    warmup = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    progress = (step - 1) / max(1, config.steps)
    schedulers: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: 1 - progress,
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * progress)),
    }
    return warmup * schedulers[config.lr_scheduler]()
