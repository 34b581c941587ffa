"""Which problems a step asks: each once per epoch, but those that are mastered rarely."""

from __future__ import annotations

from typing import Any

from dynamics.train.rng import stream


class Visits:
    """The order of problems, with those demoted that were always solved when they were last asked.

    Without demotion the order is that of RLVR, ``data_order.chosen``. A mastered problem is asked at its place only with a small
    probability; otherwise the next one takes its place. One wrong answer makes it a problem like the others again.

    Parameters
    ----------
    count : of problems.
    seed : of the run.
    needed : consecutive visits in which all answers are right after which a problem is mastered; 0: none ever is.
    rate : probability with which a mastered problem is asked.

    Attributes
    ----------
    place : in the order, of the next problem.
    streaks : consecutive visits in which all answers were right, by problem; those without one are left out.
    """

    def __init__(self, count: int, seed: int, needed: int, rate: float):
        self.count, self.seed, self.needed, self.rate = count, seed, needed, rate
        self.place = 0
        self.streaks: dict[int, int] = {}
        self._epoch: tuple[int, list[int]] = (-1, [])

    def is_mastered(self, problem: int) -> bool:
        """Whether a problem is mastered."""
        return bool(self.needed) and self.streaks.get(problem, 0) >= self.needed

    @property
    def mastered(self) -> int:
        """Number of mastered problems."""
        return sum(map(self.is_mastered, self.streaks))

    def next(self, wanted: int) -> tuple[list[int], int]:
        """Return the next problems, and how many mastered ones were passed over.

        If nearly all are mastered, these are asked all the same, rather than waiting for the others.
        """
        chosen: list[int] = []
        passed: list[int] = []
        while len(chosen) < wanted:
            if len(passed) >= max(self.count, wanted):
                chosen += passed[: wanted - len(chosen)]
                break
            problem = self._at(self.place)
            skipped = self.is_mastered(problem) and stream(self.seed, "mastered", self.place).random() >= self.rate
            (passed if skipped else chosen).append(problem)
            self.place += 1
        return chosen, len(passed)

    def _at(self, place: int) -> int:
        epoch, offset = divmod(place, self.count)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, stream(self.seed, "order", epoch).permutation(self.count).tolist())
        return self._epoch[1][offset]

    def saw(self, problem: int, all_right: bool) -> None:
        """Note whether all answers to a problem were right."""
        if all_right:
            self.streaks[problem] = self.streaks.get(problem, 0) + 1
        else:
            self.streaks.pop(problem, None)

    def state(self) -> dict[str, Any]:
        """Return the state."""
        return {"place": self.place, "streaks": sorted(self.streaks.items())}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.place, self.streaks = kept["place"], dict(map(tuple, kept["streaks"]))
