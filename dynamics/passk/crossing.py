"""Where two pass@k curves cross, with a bootstrap interval over problems (see ``dynamics.bootstrap``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dynamics.bootstrap import LEVEL, REPLICATES, difference_replicates, percentile_interval

#: every k up to this is looked at; beyond, steps of ``STEP``
DENSE = 128
STEP = 1.02
#: a mean difference below this is rounding
LEVEL_CURVES = 1e-12


@dataclass(frozen=True)
class Crossing:
    """Where the curve that is behind at k = 1 gets ahead.

    Attributes
    ----------
    leader : 0 if the first curve is ahead at small k, 1 if the second is.
    k : the smallest k at which the other is ahead; None if there is none up to ``largest``.
    low, high : percentile interval of k. ``high`` is None where it lies beyond ``largest``, ``low`` too if there is no crossing in
        nearly all replicates.
    none : share of replicates in which the other is never ahead up to ``largest``.
    at_once : share in which it is ahead from k = 1 on, so that nothing crosses.
    again : every further k at which the estimated curves change places.
    largest : the largest k that was looked at.
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
    ks : rising.
    first, second : pass@k, a row a problem, NaN where k > n.
    level, replicates, seed : of the bootstrap.

    Returns
    -------
    None if the two are level at every k. The order at small k is that of the estimates; in a replicate the crossing is the smallest k
    at which the curve that should be behind is ahead.

    Notes
    -----
    Near a touch of two curves k is uncertain over a wide range: read ``low`` and ``high``, not ``k``. With ragged n the set of problems
    changes with k, and the curves can cross for that reason alone.
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
    """Find the indices at which the sign differs from that of the last non-zero value before."""
    changes, last = [], 1.0
    for index, value in enumerate(lead):
        if value * last < 0:
            changes.append(index)
            last = -last
    return changes
