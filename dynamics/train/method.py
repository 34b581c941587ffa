"""The interface of a training method: a batch for each step, and the state that a resumed run needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynamics.runs.directory import RunDirectory
from dynamics.train.batch import Batch
from dynamics.train.config import TrainConfig
from dynamics.train.player import ONLY, Player
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts
from dynamics.train.update import make_player


class Part(NamedTuple):
    """A batch on which one player is updated."""

    player: str
    batch: Batch


@dataclass(frozen=True)
class StepData:
    """What a step trains on, with metrics and rollouts to record.

    Attributes
    ----------
    parts : batches in the order of the updates. A player may have several; one that has none keeps its weights.
    metrics : added to the metrics of the step in ``metrics.jsonl``.
    rollouts : rows of ``rollouts/step_N.jsonl``, one per completion.
    """

    parts: Sequence[Part]
    metrics: dict[str, Any] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(batch: Batch, metrics: dict[str, Any] | None = None, rollouts: list[dict[str, Any]] | None = None) -> StepData:
        """Return the data of a method with one player."""
        return StepData([Part(ONLY, batch)], metrics or {}, rollouts or [])

    @property
    def batch(self) -> Batch:
        """The batch, of a step with one part."""
        (part,) = self.parts
        return part.batch


class Method:
    """A training method: supplies batches to the loop. Only ``next_batch`` must be implemented.

    Attributes
    ----------
    record_every : steps between measurements of the weights, by default.
    base : the untrained model, if the method computes with it; it must stay as it is.
    players : those that learn, by name; made by ``make_players``, if the method does not make them itself.
    graded : name of the player that is evaluated, and whose checkpoints are those of the run.
    """

    record_every = 1
    base: Policy | None = None
    players: Mapping[str, Player] = {}
    graded = ONLY
    #: whether the graded player is chosen anew, by ``choose_graded``, before each checkpoint
    graded_by_validation = False
    #: steps after which a checkpoint is saved in any case
    milestones: frozenset[int] = frozenset()

    def make_players(self, policy: Policy, config: TrainConfig) -> Mapping[str, Player]:
        """Return the players; a method that makes none has one, the model of the run."""
        self.players = self.players or {ONLY: make_player(ONLY, policy, config)}
        return self.players

    def player_of(self, role: str) -> str:
        """Return the name of the player that is asked the probe prompts of a role."""
        del role
        return self.graded

    def choose_graded(self, measure: Callable[[Policy], float]) -> None:
        """Choose the graded player before a checkpoint, where ``graded_by_validation``.

        ``measure`` returns the share of validation problems that a policy answers correctly.
        """

    def next_batch(self, step: int) -> StepData:
        """Return the batch of a step, counted from 1."""
        raise NotImplementedError

    def after_update(self, step: int) -> None:
        """Do what remains of a step once the players are updated, such as replacing some of them."""

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
