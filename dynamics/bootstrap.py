"""Bootstrap intervals: for means over problems, and for paired differences of such means.

What is resampled: problems, each with all of its samples. A problem's estimate varies because the problem was drawn and because its
samples were; the spread between problems contains both, so one level of resampling covers both, and resampling the samples as well
would count their noise twice. Intervals are pointwise: 95 % for each column by itself, not for all of them at once.

A plain bootstrap of 100 problems is too sure of itself where nearly all are solved or nearly none: 95 % intervals were measured to hold
the truth as rarely as 43-78 % of the time. So every replicate draws from the problems and from one more, imagined, of which half is
solved always and half never (for a pair of models they agree on three quarters of it), as Agresti and Coull (1998) do for one
proportion; and percentiles are widened for the number of problems as a t interval is (Hesterberg 2015). Coverage is tested by simulation.

``resampled_counts`` and ``percentile_interval`` are the plain bootstrap, for means that are no shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dynamics._moved import moved_names

__getattr__ = moved_names(__name__)

REPLICATES = 10_000
LEVEL = 0.95
#: what the imagined problem is, as (first model, second model): share of it
IMAGINED = {(0.0, 0.0): 3 / 8, (1.0, 1.0): 3 / 8, (0.0, 1.0): 1 / 8, (1.0, 0.0): 1 / 8}
#: replicates formed at once, to bound memory
BATCH = 512


@dataclass(frozen=True)
class Interval:
    """An interval of each column.

    Attributes
    ----------
    low, high : (columns,) ends; NaN where nothing was estimated.
    """

    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]


def resampled_counts(counts: Int[np.ndarray, " items"], replicates: int, rng: np.random.Generator) -> Int[np.ndarray, "replicates items"]:
    """Draw as many items as there are, with replacement, in every replicate.

    Parameters
    ----------
    counts : how many items of each kind there are.
    replicates : how often to draw.
    rng : that draws.

    Returns
    -------
    How often each kind was drawn.
    """
    total = counts.sum()
    return rng.multinomial(total, counts / total, size=replicates)


def percentile_interval(
    replicates: Float[np.ndarray, "replicates ..."], tail: float, method: Any = "linear"
) -> tuple[Float[np.ndarray, " ..."] | np.float64, Float[np.ndarray, " ..."] | np.float64]:
    """Give the quantiles ``tail`` and ``1 - tail`` over the replicates, NaN left out; ``method`` as ``numpy.quantile`` has it."""
    low, high = np.nanquantile(replicates, [tail, 1 - tail], axis=0, method=method)
    return low, high


def mean_interval(
    values: Float[np.ndarray, "problems columns"], level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0
) -> Interval:
    """Estimate an interval of the mean over problems, column by column.

    Parameters
    ----------
    values : in [0, 1]; NaN where a problem says nothing about a column, which is then left out of it.
    level : of the interval, between 0 and 1.
    replicates : of the bootstrap.
    seed : of the bootstrap; the same seed and number of problems give the same replicates.

    Notes
    -----
    NaN for fewer than two problems. Where every problem has the same value at 0 or 1, the bound that holds for any distribution on
    [0, 1], 1 - (alpha / 2)^(1 / problems) away, is used if it is wider. Below about 30 problems intervals err on the wide side.
    """
    imagined = np.array([first for first, _ in IMAGINED])
    counts = (~np.isnan(values)).sum(axis=0)
    interval = _widened(_replicate_means(values, imagined, replicates, seed), counts, level)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(values, axis=0) / np.where(counts, counts, np.nan)
        unseen = 1 - ((1 - level) / 2) ** (1 / np.maximum(counts, 1))
        low = np.where(mean == 1, np.minimum(interval.low, 1 - unseen), np.minimum(interval.low, mean))
        high = np.where(mean == 0, np.maximum(interval.high, unseen), np.maximum(interval.high, mean))
    return Interval(np.clip(low, 0, 1), np.clip(high, 0, 1))


def difference_interval(
    first: Float[np.ndarray, "problems columns"],
    second: Float[np.ndarray, "problems columns"],
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Estimate an interval of mean(second) - mean(first) over the same problems, row by row the same problem: paired.

    A problem counts in a column only where both have a value. Parameters as for ``mean_interval``. Two overlapping intervals of
    ``mean_interval`` are no test of a difference; this interval is.
    """
    differences = second - first
    counts = (~np.isnan(differences)).sum(axis=0)
    interval = _widened(difference_replicates(differences, replicates, seed), counts, level)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(differences, axis=0) / np.where(counts, counts, np.nan)
    return Interval(np.minimum(interval.low, mean), np.maximum(interval.high, mean))


def difference_replicates(
    differences: Float[np.ndarray, "problems columns"], replicates: int, seed: int
) -> Float[np.ndarray, "replicates columns"]:
    """Form the replicates of ``difference_interval``: means of paired differences over resampled problems."""
    imagined = np.array([second - first for first, second in IMAGINED])
    return _replicate_means(differences, imagined, replicates, seed)


def _replicate_means(
    values: Float[np.ndarray, "problems columns"], imagined: Float[np.ndarray, " kinds"], replicates: int, seed: int
) -> Float[np.ndarray, "replicates columns"]:
    """Form means over resampled problems, NaN where a replicate has no problem with a value."""
    known = ~np.isnan(values)
    filled = np.vstack([np.where(known, values, 0.0), np.repeat(imagined[:, None], values.shape[1], axis=1)])
    counted = None if known.all() else np.vstack([known, np.ones((len(imagined), values.shape[1]))])
    parts = []
    for size, rng in _batches(len(values), replicates, seed):
        weights = _draw(len(values), size, rng)
        sums = weights @ filled
        with np.errstate(invalid="ignore"):
            parts.append(sums / (weights @ counted if counted is not None else len(values)))
    return np.concatenate(parts)


def _batches(problems: int, replicates: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """Give sizes and random streams of the batches. A stream depends on seed and batch alone, so all measures see the same replicates."""
    for batch, start in enumerate(range(0, replicates, BATCH)):
        yield min(BATCH, replicates - start), np.random.default_rng([seed, problems, batch])


def _draw(problems: int, size: int, rng: np.random.Generator) -> Float[np.ndarray, "size items"]:
    """Count how often each problem, and each kind of the imagined one, is in a replicate of ``problems`` draws."""
    kinds = len(IMAGINED)
    points = rng.random((size, problems)) * (problems + 1)
    beyond = np.searchsorted(np.cumsum(list(IMAGINED.values()))[:-1], points - problems, side="right") + problems
    drawn = np.where(points < problems, points.astype(np.int64), beyond)
    drawn += np.arange(size)[:, None] * (problems + kinds)
    return np.bincount(drawn.ravel(), minlength=size * (problems + kinds)).reshape(size, problems + kinds).astype(np.float64)


def _widened(replicated: Float[np.ndarray, "replicates columns"], problems: Int[np.ndarray, " columns"], level: float) -> Interval:
    """Form the percentile interval of each column, widened for its number of problems."""
    from scipy.special import ndtr, stdtrit  # scipy.stats has the same under other names, and takes a second to import

    low, high = np.full(replicated.shape[1], np.nan), np.full(replicated.shape[1], np.nan)
    for count in np.unique(problems):
        if count < 2:
            continue
        tail = float(ndtr(stdtrit(count - 1, (1 - level) / 2) * math.sqrt(count / (count - 1))))
        columns = problems == count
        low[columns], high[columns] = percentile_interval(replicated[:, columns], tail)
    return Interval(low, high)
