"""The interface of a training method: a batch for each step, and the state that a resumed run needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from dynamics.runs.directory import RunDirectory
from dynamics.train.batch import Batch
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts


@dataclass(frozen=True)
class StepData:
    """The batch of a step, with metrics and rollouts to record.

    Attributes
    ----------
    batch : training data of the step.
    metrics : added to the metrics of the step in ``metrics.jsonl``.
    rollouts : rows of ``rollouts/step_N.jsonl``, one per completion.
    """

    batch: Batch
    metrics: dict[str, Any] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)


class Method:
    """A training method: supplies batches to the loop. Only ``next_batch`` must be implemented.

    Attributes
    ----------
    record_every : steps between measurements of the weights, by default.
    base : the untrained model, if the method computes with it; it must stay as it is.
    """

    record_every = 1
    base: Policy | None = None

    def next_batch(self, step: int) -> StepData:
        """Return the batch of a step, counted from 1."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return the JSON-serialisable state that ``load`` restores in a resumed run."""
        return {}

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now, also after later steps."""
        state = self.state()
        return lambda: state

    def inputs(self) -> Iterable[bytes]:
        """Return what the batches are made of, by which a resumed run notices that it has changed."""
        return ()

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""

    def probe_prompts(self) -> ProbePrompts:
        """Return fixed prompts for the entropy measurement: token ids and maximum completion length by role."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Return fields to add to ``run.json``."""
        return {}

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Run measurements that need the complete run (``directory``) or the base model (``load_base``)."""

    def close(self) -> None:
        """Stop the processes of the method."""
