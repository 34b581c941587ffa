"""Means over tasks with their intervals: the form of every number of this package that is an average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dynamics.bootstrap import LEVEL, difference_interval, mean_interval, t_interval

#: replicates of the bootstrap
REPLICATES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value : the estimate; NaN if nothing was measured.
    low, high : ends of the interval; NaN where there is none.
    count : number of units that were averaged: tasks, groups of answers, or proposals.
    """

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def share(values: ArrayLike, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Estimate:
    """Average values between 0 and 1 over units; the interval is ``dynamics.bootstrap.mean_interval`` over units.

    Parameters
    ----------
    values : (units,) between 0 and 1; NaN leaves a unit out.
    level, replicates, seed : settings of the bootstrap.

    Notes
    -----
    Units are taken as independent. Proposals of neighbouring steps come from nearly the same policy and often copy each other, so the
    interval says how well this phase of this run is known, and nothing about another run.
    """
    known = _known(values)
    if not len(known):
        return NOTHING
    interval = mean_interval(known[:, None], level, replicates, seed)
    return Estimate(float(known.mean()), float(interval.low[0]), float(interval.high[0]), len(known))


def mean(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Average values of any size over units, with Student's t interval; see ``share`` for what the interval does not say."""
    known = _known(values)
    if not len(known):
        return NOTHING
    value = float(known.mean())
    if len(known) < 2:
        return Estimate(value, math.nan, math.nan, 1)
    low, high = t_interval(value, known.std(ddof=1) / math.sqrt(len(known)), len(known) - 1, level)
    return Estimate(value, float(low), float(high), len(known))


def difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Estimate:
    """Average the paired differences second - first of values between 0 and 1; ``dynamics.bootstrap.difference_interval`` over units.

    Parameters
    ----------
    first, second : (units,) between 0 and 1, of the same units in the same order; NaN in either leaves a unit out.
    """
    pair = np.stack([np.asarray(first, float), np.asarray(second, float)])
    pair = pair[:, ~np.isnan(pair).any(axis=0)]
    if not pair.shape[1]:
        return NOTHING
    interval = difference_interval(pair[0][:, None], pair[1][:, None], level, replicates, seed)
    return Estimate(float((pair[1] - pair[0]).mean()), float(interval.low[0]), float(interval.high[0]), pair.shape[1])


def _known(values: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, float).ravel()
    return array[~np.isnan(array)]
