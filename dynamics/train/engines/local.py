"""One process: the reference for all others, and the default."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dynamics.errors import InputError
from dynamics.train import update
from dynamics.train.batch import Batch
from dynamics.train.engines.iterations import iterate
from dynamics.train.engines.protocol import Start
from dynamics.train.player import Player
from dynamics.train.policy import Policy
from dynamics.train.updates import Update


class Local:
    """Computes updates in this process; see ``protocol.Engine``."""

    leads = True

    def __init__(self) -> None:
        self.changed = False

    def follow(self) -> bool:
        """Not be called: there is nobody to follow."""
        raise RuntimeError("the only process leads")

    def begin(self, start: Start, players: Mapping[str, Player], base: Policy | None) -> None:
        """Take the settings; nothing is shared."""
        del players, base
        self.config = start.config

    def update(self, player: Player, reference: Policy | None, batch: Batch, step: int) -> Update:
        """Take the optimizer steps of a player on a batch."""
        config = self.config

        def take(before: update.Before) -> tuple[update.Tokens, float]:
            tokens = update.gradient(player.policy, batch, config, before)
            changed, self.changed = self.changed, True
            try:
                return tokens, update.optimizer_step(player.policy, player.optimizer, config, step, tokens, batch)
            except InputError:  # no step was taken
                self.changed = changed
                raise

        return iterate(player, reference, batch, config, step, take)

    def collected(self) -> AbstractContextManager[None]:
        """Do nothing: it is here."""
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        """Return that there is one process."""
        return {"name": "local", "processes": 1}

    def close(self) -> None:
        """Do nothing."""
