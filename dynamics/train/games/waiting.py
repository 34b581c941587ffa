"""Groups of turns that wait: a bounded queue for each role carries what a step had too much of to steps that have too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamics.train.games.game import Turn


@dataclass(frozen=True)
class Group:
    """Turns that are compared with each other.

    Attributes
    ----------
    step : in which they were sampled.
    turns : of one baseline.
    """

    step: int
    turns: tuple[Turn, ...]

    @property
    def informs(self) -> bool:
        """Whether its rewards differ; otherwise estimators that compare the samples of a prompt give it no gradient."""
        return len({turn.reward for turn in self.turns}) > 1

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, with the rows of the rollouts."""
        return {"step": self.step, "turns": [turn.to_json() | {"row": turn.row} for turn in self.turns]}

    @staticmethod
    def from_json(kept: dict[str, Any]) -> Group:
        """Convert from the JSON of ``to_json``."""
        turns = [({**turn}, turn["row"]) for turn in kept["turns"]]
        return Group(kept["step"], tuple(replace(Turn.from_json({**turn, "row": {}}), row=row) for turn, row in turns))


@dataclass(frozen=True)
class Chosen:
    """What a role trains on in a step.

    Attributes
    ----------
    now : groups of this step that are trained on, or have no gradient anyway.
    later : groups of this step that wait.
    waited : groups of earlier steps that are trained on now.
    dropped : number of groups that were given up, because they are too old or too many.
    """

    now: list[Group]
    later: list[Group]
    waited: list[Group]
    dropped: int


class WaitingGroups:
    """A queue of groups for each role, first in, first out.

    A role trains on at most a quota of informative groups in a step. What it has beyond the quota waits; what it lacks is filled with
    groups that waited, the oldest first. Groups whose rewards are all equal never wait: they have no gradient, now or later. So no group
    is trained on twice, and none is older than ``oldest`` steps.

    Parameters
    ----------
    limit : groups of a role that can wait; the oldest are dropped. 0: nothing waits, and there is no quota.
    oldest : steps after which a group is dropped.
    """

    def __init__(self, limit: int, oldest: int):
        self.limit, self.oldest = limit, oldest
        self.groups: dict[str, list[Group]] = {}

    def choose(self, role: str, fresh: Sequence[Group], quota: int, step: int) -> Chosen:
        """Choose the groups that a role trains on in a step, of which ``fresh`` were sampled now."""
        if not self.limit:
            return Chosen(list(fresh), [], [], 0)
        waiting = self.groups.get(role, [])
        kept = [group for group in waiting if step - group.step <= self.oldest]
        informing = [group for group in fresh if group.informs]
        later = informing[quota:]
        lacking = max(0, quota - len(informing))
        queue = kept[lacking:] + later
        self.groups[role] = queue[-self.limit :]
        dropped = len(waiting) - len(kept) + len(queue) - len(self.groups[role])
        now = [group for group in fresh if not any(group is other for other in later)]
        return Chosen(now, later, kept[:lacking], dropped)

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now."""
        groups = {role: list(waiting) for role, waiting in self.groups.items()}
        return lambda: {role: [group.to_json() for group in waiting] for role, waiting in groups.items()}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.groups = {role: list(map(Group.from_json, waiting)) for role, waiting in kept.items()}
