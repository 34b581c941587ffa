"""Token metrics of a step for ``metrics.jsonl``: entropy and surprisal by role and task, clip fractions, divergences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from dynamics.train import objectives
from dynamics.train.batch import Batch
from dynamics.train.token_kinds import TokenKinds, entropy_by_kind
from dynamics.train.update import Tokens


def token_metrics(tokens: Tokens, batch: Batch, kinds: TokenKinds) -> dict[str, Any]:
    """Average full-vocabulary entropy and surprisal of the sampled tokens, at temperature 1, in total, by role, task and kind of token."""
    sample = tokens.sample.astype(int)
    metrics: dict[str, Any] = {
        "loss": float(tokens.loss.sum()),
        "entropy": float(tokens.entropy.mean()),
        "nll_sampled": float(tokens.surprisal.mean()),
        "tokens": len(sample),
    }
    if batch.trained is not None:
        metrics["tokens_trained"] = int(batch.lengths[batch.trained].sum())
    roles = np.array(batch.roles)
    metrics |= _means_by(tokens, roles[sample])
    for role in sorted(set(batch.roles)):
        chosen = [ids for ids, of in zip(batch.completions, batch.roles, strict=True) if of == role]
        metrics |= entropy_by_kind(tokens.entropy[roles[sample] == role], chosen, kinds, role)
    if len(set(tasks := np.array(batch.tasks)[sample].tolist())) > 1:
        metrics |= _means_by(tokens, np.array(tasks))
    if len(set(batch.roles)) > 1:
        cells = np.array([f"{role}/{task}" for role, task in zip(batch.roles, batch.tasks, strict=True)])[sample]
        metrics |= _means_by(tokens, cells)
    if batch.behaviour is not None:
        metrics |= clip_metrics(tokens)
    return metrics


def counts(batch: Batch, learns: Bool[np.ndarray, " samples"], updates: int) -> dict[str, int]:
    """Count what a step trains on, for the table of matching.

    Parameters
    ----------
    batch : of the step.
    learns : (samples,) whether a sample has a gradient, see ``update.learning``.
    updates : number of optimizer steps on the batch.
    """
    trained = np.ones(len(batch.completions), bool) if batch.trained is None else batch.trained
    found = {"completions_trained": int(trained.sum()), "tokens_with_gradient": int(batch.lengths[learns].sum()) * updates}
    if "proposer" in batch.roles:
        found["proposals_trained"] = int((trained & (np.array(batch.roles) == "proposer")).sum())
    return found


def _means_by(tokens: Tokens, labels: Shaped[np.ndarray, " tokens"]) -> dict[str, float]:
    """Average entropy and surprisal over the tokens of each label, (tokens,) text."""
    means = {}
    for label in sorted(set(labels.tolist())):
        chosen = labels == label
        means[f"{label}/entropy"] = float(tokens.entropy[chosen].mean())
        means[f"{label}/nll_sampled"] = float(tokens.surprisal[chosen].mean())
    return means


def clip_metrics(tokens: Tokens) -> dict[str, float]:
    """Compute the fractions of tokens whose probability ratio was clipped, at the lower and at the upper end."""
    return {"clip/low": float(tokens.clipped_low.mean()), "clip/high": float(tokens.clipped_high.mean())}


def kl_to_reference(logp: Float[np.ndarray, " tokens"], reference: Float[torch.Tensor, " tokens"]) -> float:
    """Estimate the KL divergence to the base model by k3, averaged over tokens, in nats.

    Parameters
    ----------
    logp : (tokens,) log-probabilities of the policy, float64.
    reference : (tokens,) log-probabilities of the base model.
    """
    return float(objectives.kl_k3(torch.from_numpy(logp).to(reference), reference).mean())


def mismatch(logp: Float[np.ndarray, " tokens"], batch: Batch) -> dict[str, float]:
    """Compare the log-probabilities of sampler and trainer for the same tokens; they should differ by rounding only.

    Parameters
    ----------
    logp : (tokens,) log-probabilities of the trainer, in the order of samples, nats.
    batch : sampled completions, with the log-probabilities of the sampler.
    """
    if batch.behaviour is None or batch.sequence_ratio:  # then they are those of a reference
        return {}
    behaviour = np.concatenate(list(batch.behaviour)).astype(float)
    return {
        "sampler/kl": float(objectives.kl_k3(behaviour, logp).mean()),
        "sampler/max_difference": float(np.abs(logp - behaviour).max()),
    }
