"""What the loop asks of a method of training: a batch for every step, and what it needs to go on after it was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dynamics.runs.directory import RunDirectory
from dynamics.train.batch import Batch
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts


@dataclass(frozen=True)
class StepData:
    """A batch with what is to be recorded of how it came about.

    Attributes
    ----------
    batch : what the step trains on.
    metrics : added to the line of the step in ``metrics.jsonl``.
    rollouts : rows of ``rollouts/step_N.jsonl``, one a completion.
    """

    batch: Batch
    metrics: dict[str, Any] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)


class Method:
    """Where batches come from. What it needs beside the step to go on is its ``state``.

    All but ``next_batch`` is a no-op unless a method has something to do there.
    """

    record_every = 1

    def next_batch(self, step: int) -> StepData:
        """Make the batch of a step, from 1."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what ``load`` needs after a restart, as JSON."""
        return {}

    def load(self, kept: dict[str, Any]) -> None:
        """Go on from a state."""

    def probe_prompts(self) -> ProbePrompts:
        """Choose prompts that stay the same: role -> token ids, and the longest completion."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Say what ``run.json`` should hold of it."""
        return {}

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Measure what needs the whole run (``directory``) or the model that it began with, which ``load_base`` gives."""

    def close(self) -> None:
        """Let go of processes."""
