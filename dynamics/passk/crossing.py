"""Where two pass@k curves cross, with a bootstrap interval over problems (see ``dynamics.bootstrap``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dynamics.bootstrap import LEVEL, REPLICATES, difference_replicates, percentile_interval

#: every k up to this is examined; beyond, k grows by factors of ``STEP``
DENSE = 128
STEP = 1.02
#: a mean difference below this is rounding
LEVEL_CURVES = 1e-12


@dataclass(frozen=True)
class Crossing:
    """The crossing of two curves: the k at which the curve that is lower at small k overtakes the other.

    Attributes
    ----------
    leader : 0 if the first curve is higher at small k, 1 if the second is.
    k : the smallest k at which the other curve is higher; None if there is none up to ``largest``.
    low, high : percentile interval of k; None for an end beyond ``largest``.
    none : fraction of replicates in which the other curve is never higher up to ``largest``.
    at_once : fraction of replicates in which the other curve is higher already at the smallest k, so that the order is reversed.
    again : every further k at which the order of the estimated curves changes.
    largest : the largest k examined.
    """

    leader: int
    k: int | None
    low: int | None
    high: int | None
    none: float
    at_once: float
    again: list[int]
    largest: int


def crossing_ks(largest: int) -> Int[np.ndarray, " ks"]:
    """List the k at which to look for a crossing: every k up to 128, then steps of 2 %."""
    dense = np.arange(1, min(largest, DENSE) + 1)
    if largest <= DENSE:
        return dense
    steps = math.ceil(math.log(largest / DENSE) / math.log(STEP))
    return np.unique(np.concatenate([dense, np.round(np.geomspace(DENSE, largest, steps + 1)).astype(np.int64)]))


def crossing(
    ks: Int[np.ndarray, " ks"],
    first: Float[np.ndarray, "problems ks"],
    second: Float[np.ndarray, "problems ks"],
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Crossing | None:
    """Find the crossing of two pass@k curves over the same problems.

    Parameters
    ----------
    ks : increasing.
    first, second : (problems, ks) pass@k, NaN where k > n.
    level, replicates, seed : of the bootstrap.

    Returns
    -------
    The crossing, or None if the curves are equal at every k. The order at small k is that of the estimates. The crossing of a replicate
    is the smallest k at which the order is reversed.

    Notes
    -----
    If the curves nearly touch, k is uncertain over a wide range: use ``low`` and ``high`` rather than ``k``. If n differs between
    problems, the set of problems changes with k, and the curves can cross for that reason alone.
    """
    differences = second - first
    counts = (~np.isnan(differences)).sum(axis=0)
    ks, differences = ks[counts > 0], differences[:, counts > 0]
    mean = np.nanmean(differences, axis=0) if len(ks) else np.zeros(0)
    mean = np.where(np.abs(mean) < LEVEL_CURVES, 0.0, mean)
    if not mean.any():
        return None
    sign = math.copysign(1.0, mean[np.flatnonzero(mean)[0]])
    lead = mean * sign  # of the leader at small k
    changes = [int(ks[index]) for index in _sign_changes(lead)]
    behind = difference_replicates(differences, replicates, seed) * sign < 0
    crosses = behind.any(axis=1)
    crossing_k = np.where(crosses, ks[behind.argmax(axis=1)].astype(float), np.inf)
    low, high = percentile_interval(crossing_k, (1 - level) / 2, "inverted_cdf")
    return Crossing(
        leader=1 if sign > 0 else 0,
        k=changes[0] if changes else None,
        low=int(low) if math.isfinite(low) else None,
        high=int(high) if math.isfinite(high) else None,
        none=float(1 - crosses.mean()),
        at_once=float(behind[:, 0].mean()),
        again=changes[1:],
        largest=int(ks[-1]),
    )


def _sign_changes(lead: Float[np.ndarray, " ks"]) -> list[int]:
    """Return the indices at which the sign differs from that of the previous non-zero value."""
    changes, last = [], 1.0
    for index, value in enumerate(lead):
        if value * last < 0:
            changes.append(index)
            last = -last
    return changes
