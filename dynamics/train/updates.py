"""What was computed in the update of a player on a batch, for the metrics of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from dynamics.train.batch import Batch
from dynamics.train.token_metrics import clip_metrics
from dynamics.train.update import Tokens


@dataclass(frozen=True)
class Update:
    """The update of a player on a batch, or several that were joined.

    Attributes
    ----------
    batch : of the update.
    first : values of its tokens in the first optimizer step.
    norm : of the gradient in the first optimizer step, before clipping; of joined updates, that of the last.
    last : (tokens,) log-probabilities in the last optimizer step, nats.
    clips : clip fractions of the last optimizer step, where they are not those of the first.
    learns : (samples,) which samples have a gradient.
    iterations : number of optimizer steps.
    dropped, reference : (tokens,) as in ``update.Before``, if they were needed.
    """

    batch: Batch
    first: Tokens
    norm: float
    last: Float[np.ndarray, " tokens"]
    clips: dict[str, float]
    learns: Bool[np.ndarray, " samples"]
    iterations: int
    dropped: Bool[torch.Tensor, " tokens"] | None
    reference: Float[torch.Tensor, " tokens"] | None

    def joined_with(self, others: Sequence[Update]) -> Update:
        """Join the samples of several updates, in their order."""
        if not others:
            return self
        all_ = [self, *others]
        offsets = np.cumsum([0, *(len(one.batch.completions) for one in all_)])
        names = [field.name for field in fields(Tokens) if field.name != "sample"]
        values = {name: np.concatenate([getattr(one.first, name) for one in all_]) for name in names}
        sample = np.concatenate([one.first.sample + offset for one, offset in zip(all_, offsets, strict=False)])
        return Update(
            joined([one.batch for one in all_]),
            Tokens(sample, **values),
            all_[-1].norm,
            np.concatenate([one.last for one in all_]),
            {key: float(np.mean([one.clips[key] for one in all_ if key in one.clips])) for key in self.clips},
            np.concatenate([one.learns for one in all_]),
            self.iterations,
            None if self.dropped is None else torch.cat([one.dropped for one in all_ if one.dropped is not None]),
            None if self.reference is None else torch.cat([one.reference for one in all_ if one.reference is not None]),
        )

    def of_player(self) -> dict[str, Any]:
        """Return the metrics that differ from player to player."""
        tokens = self.first
        metrics = {"grad_norm": self.norm, "entropy": float(tokens.entropy.mean()), "nll_sampled": float(tokens.surprisal.mean())}
        return metrics | {"tokens": len(tokens.logp), "loss": float(tokens.loss.sum())} | (clip_metrics(tokens) | self.clips)


def joined(batches: Sequence[Batch]) -> Batch:
    """Join batches into one, whose samples and prompts are theirs, in their order; for metrics, not for training."""
    starts = np.cumsum([0, *(len(batch.prompts) for batch in batches)])
    behaviour = [batch.behaviour for batch in batches if batch.behaviour is not None]
    return Batch(
        [prompt for batch in batches for prompt in batch.prompts],
        [completion for batch in batches for completion in batch.completions],
        np.concatenate([batch.prompt_of + start for batch, start in zip(batches, starts, strict=False)]),
        np.concatenate([batch.advantages for batch in batches]),
        [role for batch in batches for role in batch.roles],
        [task for batch in batches for task in batch.tasks],
        [name for batch in batches for name in batch.names],
        [values for one in behaviour for values in one] if len(behaviour) == len(batches) else None,
        batches[0].temperature,
        _joined([batch.trained for batch in batches], batches, True),
        _joined([batch.supervised for batch in batches], batches, False),
        any(batch.sequence_ratio for batch in batches),
    )


def _joined(masks: Sequence[Bool[np.ndarray, " _"] | None], batches: Sequence[Batch], default: bool) -> Bool[np.ndarray, " samples"] | None:
    """Join masks, of which None stands for ``default`` everywhere; None if all are."""
    if all(mask is None for mask in masks):
        return None
    whole = [np.full(len(batch.completions), default) if mask is None else mask for mask, batch in zip(masks, batches, strict=True)]
    return np.concatenate(whole)
