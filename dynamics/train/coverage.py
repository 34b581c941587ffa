"""Coverage: how many different programs a run has met, and how many of a pool."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

#: characters of the digests of programs that a state keeps; two of a million programs have the same one with a probability of 1e-7
DIGEST = 16


class Coverage:
    """The programs that were met so far.

    Parameters
    ----------
    pool : programs of which the share that was met is counted; none if empty.
    met : digests of programs, from ``kept`` of an earlier state.

    Notes
    -----
    A program is known by a text that the same program always has, such as its normal form.
    """

    def __init__(self, pool: Collection[str] = (), met: Iterable[str] = ()):
        self._pool = frozenset(map(_digest, pool))
        self._met = dict.fromkeys(met)

    def kept(self) -> list[str]:
        """Return what a state keeps: digests, in the order in which they were met."""
        return list(self._met)

    def add(self, programs: Sequence[str]) -> dict[str, float]:
        """Add the programs of a step.

        Returns
        -------
        coverage/programs : number of different programs so far.
        coverage/new : share of the programs of the step that no earlier step had; absent if the step has none.
        coverage/pool : share of the pool that was met so far; absent without a pool.
        """
        digests = list(map(_digest, programs))
        metrics: dict[str, float] = {}
        if digests:
            metrics["coverage/new"] = sum(digest not in self._met for digest in digests) / len(digests)
        self._met |= dict.fromkeys(digests)
        metrics["coverage/programs"] = len(self._met)
        if self._pool:
            metrics["coverage/pool"] = len(self._pool & self._met.keys()) / len(self._pool)
        return metrics


class PoolCoverage:
    """Coverage of training problems whose order is a function of the step alone, and with it the coverage.

    Parameters
    ----------
    order : returns the indices of the problems of a step, such as ``data_order.of_step`` of the settings of a run.
    programs : the program of each problem.
    """

    def __init__(self, order: Callable[[int], Sequence[int]], programs: Sequence[str]):
        self._order, self._programs = order, programs
        self._coverage, self._step = Coverage(programs), 0

    def after(self, step: int) -> dict[str, float]:
        """Return ``Coverage.add`` of a step, given all steps before."""
        if step <= self._step:
            self._coverage, self._step = Coverage(self._programs), 0
        metrics: dict[str, float] = {}
        while self._step < step:
            self._step += 1
            metrics = self._coverage.add([self._programs[index] for index in self._order(self._step)])
        return metrics


def unseen_mass(programs: Sequence[str]) -> float:
    """Estimate by Good and Turing how likely another program would be none of these: the share of those that are there once.

    Parameters
    ----------
    programs : drawn independently from one distribution; at least one.

    Notes
    -----
    Good 1953, Biometrika 40. The estimate is of the distribution from which these were drawn, so of one step: the policy of the next step
    is another. With n draws its standard error is at most about 1 / sqrt(n).

    Examples
    --------
    >>> unseen_mass(["a", "b", "b", "c"])
    0.5
    """
    counts = Counter(programs)
    return sum(count == 1 for count in counts.values()) / len(programs)


def _digest(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()[:DIGEST]
