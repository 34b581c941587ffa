"""Intervals for means over problems, for paired differences of such means, and for where two curves cross.

What is resampled: problems, each with all of its samples. A problem's estimate varies because the problem was drawn and because its
samples were; the spread between problems contains both, so one level of resampling covers both, and resampling the samples as well
would count their noise twice. Intervals are pointwise: 95 % for each k by itself, not for the whole curve at once.

A plain bootstrap of 100 problems is too sure of itself where nearly all are solved or nearly none: 95 % intervals were measured to hold
the truth as rarely as 43-78 % of the time. So every replicate draws from the problems and from one more, imagined, of which half is
solved always and half never (for a pair of models they agree on three quarters of it), as Agresti and Coull (1998) do for one
proportion; and percentiles are widened for the number of problems as a t interval is (Hesterberg 2015). Coverage is tested by simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

REPLICATES = 10_000
LEVEL = 0.95
#: what the imagined problem is, as (first model, second model): share of it
IMAGINED = {(0.0, 0.0): 3 / 8, (1.0, 1.0): 3 / 8, (0.0, 1.0): 1 / 8, (1.0, 0.0): 1 / 8}
#: replicates formed at once, to bound memory
BATCH = 512


@dataclass(frozen=True)
class Interval:
    """``low`` and ``high`` have the shape of what was estimated; NaN where nothing was."""

    low: Floats
    high: Floats


def _batches(problems: int, replicates: int, seed: int) -> list[tuple[int, np.random.Generator]]:
    """Sizes and random streams of the batches; a stream depends on seed and place alone, so all measures see the same replicates."""
    sizes = [min(BATCH, replicates - start) for start in range(0, replicates, BATCH)]
    return [(size, np.random.default_rng([seed, problems, place])) for place, size in enumerate(sizes)]


def _draw(problems: int, size: int, rng: np.random.Generator) -> Floats:
    """(size, problems + 4) how often each problem, and each kind of the imagined one, is in a replicate of ``problems`` draws."""
    kinds = len(IMAGINED)
    spots = rng.random((size, problems)) * (problems + 1)
    beyond = np.searchsorted(np.cumsum(list(IMAGINED.values()))[:-1], spots - problems, side="right") + problems
    chosen = np.where(spots < problems, spots.astype(np.int64), beyond)
    chosen += np.arange(size)[:, None] * (problems + kinds)
    return np.bincount(chosen.ravel(), minlength=size * (problems + kinds)).reshape(size, problems + kinds).astype(np.float64)


def _replicate(values: Floats, imagined: Floats, replicates: int, seed: int) -> Floats:
    """(replicates, K) means over resampled problems of ``values`` (problems, K), NaN where a problem has none."""
    there = ~np.isnan(values)
    filled = np.vstack([np.where(there, values, 0.0), np.repeat(imagined[:, None], values.shape[1], axis=1)])
    ragged = not there.all()
    counted = np.vstack([there, np.ones((len(imagined), values.shape[1]))]) if ragged else None
    parts = []
    for size, rng in _batches(len(values), replicates, seed):
        weights = _draw(len(values), size, rng)
        sums = weights @ filled
        with np.errstate(invalid="ignore"):
            parts.append(sums / (weights @ counted if counted is not None else len(values)))
    return np.concatenate(parts)


def _percentiles(replicated: Floats, problems: NDArray[np.int64], level: float) -> Interval:
    """Percentile interval of each column, widened for its number of problems."""
    from scipy.stats import norm, t

    low, high = np.full(replicated.shape[1], np.nan), np.full(replicated.shape[1], np.nan)
    for count in np.unique(problems):
        if count < 2:
            continue
        tail = float(norm.cdf(t.ppf((1 - level) / 2, count - 1) * math.sqrt(count / (count - 1))))
        columns = problems == count
        low[columns], high[columns] = np.nanquantile(replicated[:, columns], [tail, 1 - tail], axis=0)
    return Interval(low, high)


def mean_interval(values: Floats, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Interval:
    """The interval of the mean over problems, column by column.

    Parameters
    ----------
    values : (problems, K) in [0, 1]; NaN where a problem says nothing about a column, which is then left out of it.
    level, replicates, seed : of the bootstrap.

    Notes
    -----
    NaN for fewer than two problems. Where every problem has the same value at 0 or 1, the bound that holds for any distribution on
    [0, 1], 1 - (alpha / 2)^(1 / problems) away, is used if it is wider. Below about 30 problems intervals err on the wide side.
    """
    imagined = np.array([first for first, _ in IMAGINED])
    counts = (~np.isnan(values)).sum(axis=0)
    found = _percentiles(_replicate(values, imagined, replicates, seed), counts, level)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(values, axis=0) / np.where(counts, counts, np.nan)
        unseen = 1 - ((1 - level) / 2) ** (1 / np.maximum(counts, 1))
        low = np.where(mean == 1, np.minimum(found.low, 1 - unseen), np.minimum(found.low, mean))
        high = np.where(mean == 0, np.maximum(found.high, unseen), np.maximum(found.high, mean))
    return Interval(np.clip(low, 0, 1), np.clip(high, 0, 1))


def difference_interval(first: Floats, second: Floats, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Interval:
    """The interval of mean(second) - mean(first) over the same problems, row by row the same problem: paired.

    A problem counts in a column only where both have a value. Parameters as for ``mean_interval``. Two overlapping intervals of
    ``mean_interval`` are no test of a difference; this interval is.
    """
    differences = second - first
    found = _percentiles(_difference_replicates(differences, replicates, seed), (~np.isnan(differences)).sum(axis=0), level)
    with np.errstate(invalid="ignore"):
        counts = (~np.isnan(differences)).sum(axis=0)
        mean = np.nansum(differences, axis=0) / np.where(counts, counts, np.nan)
    return Interval(np.minimum(found.low, mean), np.maximum(found.high, mean))


def _difference_replicates(differences: Floats, replicates: int, seed: int) -> Floats:
    imagined = np.array([second - first for first, second in IMAGINED])
    return _replicate(differences, imagined, replicates, seed)


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
    largest : the largest k looked at.
    """

    leader: int
    k: int | None
    low: int | None
    high: int | None
    none: float
    at_once: float
    again: list[int]
    largest: int


def crossing_ks(largest: int) -> NDArray[np.int64]:
    """Where a crossing is looked for: every k up to 128, then steps of 2 %."""
    dense = np.arange(1, min(largest, 128) + 1)
    if largest <= 128:
        return dense
    steps = math.ceil(math.log(largest / 128) / math.log(1.02))
    return np.unique(np.concatenate([dense, np.round(np.geomspace(128, largest, steps + 1)).astype(np.int64)]))


def crossing(
    ks: NDArray[np.int64], first: Floats, second: Floats, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0
) -> Crossing | None:
    """The crossing of two pass@k curves over the same problems.

    Parameters
    ----------
    ks : (K,) rising. first, second : (problems, K), a row a problem, NaN where k > n.

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
    mean = np.where(np.abs(mean) < 1e-12, 0.0, mean)  # level, but for rounding
    if not mean.any():
        return None
    sign = math.copysign(1.0, mean[np.flatnonzero(mean)[0]])
    lead = mean * sign  # of the leader at small k
    changes = [int(ks[place]) for place in _changes(lead)]
    replicated = _difference_replicates(differences, replicates, seed) * sign
    behind = replicated < 0
    met = behind.any(axis=1)
    when = np.where(met, ks[behind.argmax(axis=1)].astype(float), np.inf)
    tail = (1 - level) / 2
    low, high = np.quantile(when, [tail, 1 - tail], method="inverted_cdf")
    return Crossing(
        leader=1 if sign > 0 else 0,
        k=changes[0] if changes else None,
        low=int(low) if math.isfinite(low) else None,
        high=int(high) if math.isfinite(high) else None,
        none=float(1 - met.mean()),
        at_once=float(behind[:, 0].mean()),
        again=changes[1:],
        largest=int(ks[-1]),
    )


def _changes(lead: Floats) -> list[int]:
    """Places at which the sign differs from that of the last non-zero before."""
    places, last = [], 1.0
    for place, value in enumerate(lead):
        if value * last < 0:
            places.append(place)
            last = -last
    return places
