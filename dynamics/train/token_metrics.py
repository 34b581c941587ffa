"""What a step writes into ``metrics.jsonl`` from its tokens: entropy and surprisal by role and task, clipping, divergences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from dynamics.train import objectives
from dynamics.train.batch import Batch
from dynamics.train.update import Tokens


def token_metrics(tokens: Tokens, batch: Batch) -> dict[str, Any]:
    """Average over tokens: entropy over the whole vocabulary and surprisal of what was sampled, at temperature 1, by role and task."""
    sample = tokens.sample.astype(int)
    metrics: dict[str, Any] = {
        "loss": float(tokens.loss.sum()),
        "entropy": float(tokens.entropy.mean()),
        "nll_sampled": float(tokens.surprisal.mean()),
        "tokens": len(sample),
    }
    metrics |= _means_by(tokens, np.array(batch.roles)[sample])
    if len(set(tasks := np.array(batch.tasks)[sample].tolist())) > 1:
        metrics |= _means_by(tokens, np.array(tasks))
    if len(set(batch.roles)) > 1:
        cells = np.array([f"{role}/{task}" for role, task in zip(batch.roles, batch.tasks, strict=True)])[sample]
        metrics |= _means_by(tokens, cells)
    if batch.behaviour is not None:
        metrics |= clip_metrics(tokens)
    return metrics


def _means_by(tokens: Tokens, labels: Shaped[np.ndarray, " tokens"]) -> dict[str, float]:
    """Average entropy and surprisal over the tokens of each label, (tokens,) text."""
    means = {}
    for label in sorted(set(labels.tolist())):
        chosen = labels == label
        means[f"{label}/entropy"] = float(tokens.entropy[chosen].mean())
        means[f"{label}/nll_sampled"] = float(tokens.surprisal[chosen].mean())
    return means


def clip_metrics(tokens: Tokens) -> dict[str, float]:
    """Count which shares of the tokens were clipped, too low and too high."""
    return {"clip/low": float(tokens.clipped_low.mean()), "clip/high": float(tokens.clipped_high.mean())}


def kl_to_reference(logp: Float[np.ndarray, " tokens"], reference: Float[torch.Tensor, " tokens"]) -> float:
    """Estimate the KL divergence to the base by k3, the mean over tokens, nats.

    Parameters
    ----------
    logp : (tokens,) log-probabilities of the policy, float64.
    reference : (tokens,) log-probabilities of the base.
    """
    return float(objectives.kl_k3(torch.from_numpy(logp).to(reference), reference).mean())


def mismatch(logp: Float[np.ndarray, " tokens"], batch: Batch) -> dict[str, float]:
    """Compare the sampler's log-probabilities with the trainer's of the same tokens: rounding, unless something is wrong.

    Parameters
    ----------
    logp : (tokens,) the trainer's, in the order of samples, nats.
    batch : what was sampled, with the sampler's.
    """
    if batch.behaviour is None:
        return {}
    behaviour = np.concatenate(list(batch.behaviour)).astype(float)
    return {
        "sampler/kl": float(objectives.kl_k3(behaviour, logp).mean()),
        "sampler/max_difference": float(np.abs(logp - behaviour).max()),
    }
