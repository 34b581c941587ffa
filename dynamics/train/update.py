"""One optimizer step on one batch: weighted log-likelihood, in micro-batches that change nothing but memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.errors import InputError
from dynamics.train import objectives
from dynamics.train.batch import Batch, completion_offsets, pack_rows, token_indices
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.policy import Policy
from dynamics.train.rng import stream

Floats = np.ndarray[Any, Any]


@dataclass
class Tokens:
    """What was found of every completion token of a batch, (tokens,) in the order of samples: the numbers that metrics are made of."""

    sample: Floats
    logp: Floats
    entropy: Floats
    surprisal: Floats
    loss: Floats
    clipped_low: Floats
    clipped_high: Floats


@dataclass(frozen=True)
class Before:
    """Log-probabilities taken before an update, (tokens,) in the order of samples; None where nothing needs them."""

    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    dropped: torch.Tensor | None = None
    penalised: torch.Tensor | None = None


def gradient(policy: Policy, batch: Batch, config: TrainConfig, before: Before) -> Tokens:
    """Add the gradient of the objective to the parameters of ``policy.model``.

    The weight of a token comes from the whole batch, so how it is cut changes no more than the order of sums. Samples that weigh nothing
    - all of a group equally good, and no term but the advantage - are computed without gradient, for their entropy alone.
    """
    offsets = completion_offsets(batch)
    count = int(offsets[-1])
    weights = objectives.token_weights(config.loss, batch.lengths, config.max_new_tokens)
    found = Tokens(*(np.zeros(count) for _ in range(7)))
    always = isinstance(config, PolicyGradientConfig) and bool(config.kl or config.entropy_bonus or config.kl_cov)
    alive = [sample for sample in range(len(batch.completions)) if always or batch.advantages[sample] != 0]
    idle = [sample for sample in range(len(batch.completions)) if not (always or batch.advantages[sample] != 0)]
    for samples, learning in ((alive, True), (idle, False)):
        for rows in pack_rows(batch, samples, config.micro_tokens, policy.shares):
            at = token_indices(rows, offsets)
            with torch.set_grad_enabled(learning):
                logp, entropy, surprisal = policy.logprobs(rows, batch.temperature)
                token = {
                    "advantage": torch.from_numpy(batch.advantages[rows.sample]).to(logp),
                    "weight": torch.from_numpy(weights[rows.sample]).to(logp),
                }
                loss, low, high = _loss(config, before, at, logp, entropy, token["advantage"])
                if learning:
                    (loss * token["weight"]).sum().backward()
            for name, value in (("logp", logp), ("entropy", entropy), ("surprisal", surprisal), ("loss", loss)):
                getattr(found, name)[at] = value.detach().double().cpu().numpy()
            found.sample[at] = rows.sample
            found.clipped_low[at], found.clipped_high[at] = low.cpu().numpy(), high.cpu().numpy()
    found.loss *= weights[found.sample.astype(int)]
    return found


def _loss(config: TrainConfig, before: Before, at: Floats, logp: Any, entropy: Any, advantage: Any) -> tuple[Any, Any, Any]:
    """(tokens,) loss, and which tokens were clipped."""
    never = torch.zeros(len(logp), dtype=torch.bool, device=logp.device)
    if not isinstance(config, PolicyGradientConfig):
        return -advantage * logp, never, never
    old = logp.detach() if before.old is None else before.old[at]
    loss = objectives.policy_loss(logp, old, advantage, config.clip_low, config.clip_high)
    low, high = objectives.clipped(logp.detach(), old, advantage, config.clip_low, config.clip_high)
    if before.dropped is not None:
        loss = torch.where(before.dropped[at], loss.detach(), loss)
    if before.penalised is not None:
        loss = loss + torch.where(before.penalised[at], (logp - old).abs(), torch.zeros_like(logp))
    if before.reference is not None:
        loss = loss + config.kl * objectives.kl_k3(logp, before.reference[at])
    if config.entropy_bonus:
        loss = loss - config.entropy_bonus * entropy
    return loss, low, high


def prepare(policy: Policy, reference: Policy | None, batch: Batch, config: TrainConfig, step: int) -> Before:
    """What the objective needs from before the update. Old log-probabilities are the trainer's own, never the sampler's."""
    if not isinstance(config, PolicyGradientConfig):
        return Before()
    covariance = config.clip_cov or config.kl_cov
    old = policy.logprobs_of(batch, config.micro_tokens) if config.updates > 1 or covariance else None
    dropped = penalised = None
    if covariance and old is not None:
        advantage = torch.from_numpy(np.repeat(batch.advantages, batch.lengths)).to(old)
        product = objectives.covariance(old, advantage)
        if config.clip_cov:
            dropped = objectives.clip_cov_mask(product, config.clip_cov, generator=stream(config.seed, "clip_cov", step))
        if config.kl_cov:
            penalised = objectives.kl_cov_mask(product, config.kl_cov)
    return Before(old, reference.logprobs_of(batch, config.micro_tokens) if reference is not None else None, dropped, penalised)


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, found: Tokens, batch: Batch) -> float:
    """Clip and move; gives the L2 norm of the gradient before clipping. Nothing moves if it or the loss is not finite."""
    policy.move_gradients()
    norm = float(torch.nn.utils.clip_grad_norm_(policy.masters.values(), config.clip or math.inf))
    if not math.isfinite(norm) or not np.isfinite(found.loss).all():
        bad = found.sample[~np.isfinite(found.loss)]
        names = sorted({batch.names[int(one)] for one in bad})[:3] or sorted(set(batch.names))[:3]
        optimizer.zero_grad()
        raise InputError(
            f"step {step}: the {'loss' if len(bad) else 'gradient'} is not finite, in a batch with {', '.join(names)}; "
            "the weights are as after the step before, from which --resume goes on; a smaller --learning-rate may help"
        )
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rate(config, step)
    optimizer.step()
    optimizer.zero_grad()
    policy.update_model()
    return norm


def rate(config: TrainConfig, step: int) -> float:
    """Of the learning rate at a step, from 1."""
    rising = min(1.0, step / config.warmup) if config.warmup else 1.0
    done = (step - 1) / max(1, config.steps)
    shapes: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: 1 - done,
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * done)),
    }
    return rising * shapes[config.schedule]()


def token_metrics(found: Tokens, batch: Batch) -> dict[str, Any]:
    """Means over tokens: entropy over the whole vocabulary and surprisal of what was sampled, at temperature 1, by role and task."""
    sample = found.sample.astype(int)
    metrics: dict[str, Any] = {
        "loss": float(found.loss.sum()),
        "entropy": float(found.entropy.mean()),
        "nll_sampled": float(found.surprisal.mean()),
        "tokens": len(sample),
    }
    for label in ("roles", "tasks"):
        owners = np.array(getattr(batch, label))[sample]
        for owner in sorted(set(owners.tolist())) if label == "roles" or len(set(owners.tolist())) > 1 else []:
            mine = owners == owner
            metrics[f"{owner}/entropy"] = float(found.entropy[mine].mean())
            metrics[f"{owner}/nll_sampled"] = float(found.surprisal[mine].mean())
    if len(set(batch.roles)) > 1:
        cells = np.array([f"{role}/{task}" for role, task in zip(batch.roles, batch.tasks, strict=True)])[sample]
        for cell in sorted(set(cells.tolist())):
            metrics[f"{cell}/entropy"] = float(found.entropy[cells == cell].mean())
            metrics[f"{cell}/nll_sampled"] = float(found.surprisal[cells == cell].mean())
    if batch.behaviour is not None:
        metrics["clip/low"], metrics["clip/high"] = float(found.clipped_low.mean()), float(found.clipped_high.mean())
    return metrics


def mismatch(logp: Floats, batch: Batch) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the trainer's for the same tokens: rounding, unless something is wrong."""
    if batch.behaviour is None:
        return {}
    behaviour = np.concatenate(list(batch.behaviour)).astype(float)
    return {
        "sampler/kl": float(objectives.kl_k3(behaviour, logp).mean()),
        "sampler/max_difference": float(np.abs(logp - behaviour).max()),
    }
