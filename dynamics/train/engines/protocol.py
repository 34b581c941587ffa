"""What the loop asks of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dynamics.train.batch import Batch
from dynamics.train.config import TrainConfig
from dynamics.train.player import Player
from dynamics.train.policy import Policy
from dynamics.train.updates import Update


@dataclass(frozen=True)
class Start:
    """What every process of a run must know to hold the same players.

    Attributes
    ----------
    method, config : of the run.
    threads, compute : number of threads of each process, and dtype of forward and backward passes.
    checksum : of the weights of the base, see ``state.weights_checksum``.
    """

    method: str
    config: TrainConfig
    threads: int
    compute: str
    checksum: str


class Engine(Protocol):
    """Computes updates of players.

    Attributes
    ----------
    changed : whether weights were changed since the loop last set it to False, also by an update that then failed.
    """

    changed: bool

    @property
    def leads(self) -> bool:
        """Whether this process runs the loop; the others ``follow``."""

    def follow(self) -> bool:
        """Carry out what the leading process asks for until the run ends; return whether it ended well."""

    def begin(self, start: Start, players: Mapping[str, Player], base: Policy | None) -> None:
        """Share the players, and the base if anything computes with it, once their state is loaded."""

    def update(self, player: Player, reference: Policy | None, batch: Batch, step: int) -> Update:
        """Take the optimizer steps of a player on a batch; ``InputError``, without a step, if the gradient or the loss is not finite."""

    def collected(self) -> AbstractContextManager[None]:
        """Have the whole state of every optimizer in this process, to be saved."""

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it."""

    def close(self) -> None:
        """End the other processes."""
