"""How much a curve of one run changed from its start to its end, with an interval for the noise between steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.bootstrap import LEVEL, percentile_interval, t_interval
from dynamics.report.change_points import estimate_noise

#: the start and the end are this share of the steps each, but at least so many, if there are twice as many
SHARE, LEAST = 0.1, 10
#: fewer values on a side give no interval
FEWEST = 5
REPLICATES = 2000
#: values that differ by less than this share of the largest are one value, but for rounding
CONSTANT = 1e-12
#: largest coefficient of the noise that is believed: larger estimates on short curves are mostly chance
LARGEST_COEFFICIENT = 0.8
#: coverage of the intervals, measured on 200 curves each of 20 to 2,000 values of autoregressive noise: from, to. At least 93 % with a
#: coefficient of 0 or 0.5; the least is that of 20 values with 0.8. The slow tests measure it again.
COVERAGE = (0.85, 1.0)


@dataclass(frozen=True)
class Trend:
    """The change of a curve.

    Attributes
    ----------
    first, last : mean of the start and of the end.
    low, high : interval of ``last - first``; NaN where there are too few values.
    window : number of values of the start, and of the end.
    values : number of values of the curve.
    """

    first: float
    last: float
    low: float
    high: float
    window: int
    values: int

    @property
    def change(self) -> float:
        """Difference of the end from the start."""
        return self.last - self.first

    @property
    def rises(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high < 0


def window_length(count: int) -> int:
    """Return the number of values that are the start, and the end, of a curve: a tenth, but at least 10, or half of a short curve."""
    return max(1, min(max(math.ceil(SHARE * count), LEAST), count // 2)) if count else 0


def trend(values: Float[np.ndarray, " steps"], seed: int = 0, replicates: int = REPLICATES) -> Trend:
    """Compare the mean of the end of a curve with that of its start.

    Parameters
    ----------
    values : finite, in the order of steps.
    seed, replicates : of the bootstrap.

    Notes
    -----
    Neighbouring steps are alike. So the interval is the wider one at each end of two: a moving block bootstrap of both stretches, whose
    blocks are as long as the square root of the stretch, with percentiles widened for few blocks; and that of autoregressive noise, which
    is estimated on the whole curve. It covers the noise between the steps of this run only. Measured coverage: ``COVERAGE``.
    """
    count, window = len(values), window_length(len(values))
    if not count:
        return Trend(math.nan, math.nan, math.nan, math.nan, 0, 0)
    if np.ptp(values) <= CONSTANT * np.abs(values).max():
        return Trend(float(values[0]), float(values[0]), *((0.0, 0.0) if window >= FEWEST else (math.nan, math.nan)), window, count)
    start, end = values[:window], values[count - window :]
    low = high = math.nan
    if window >= FEWEST:
        rng = np.random.default_rng([seed, count])
        drawn = block_means(end, replicates, rng) - block_means(start, replicates, rng)
        low, high = (float(value) for value in percentile_interval(drawn, _tail(window)))
        error = estimate_noise(values, LARGEST_COEFFICIENT).long_run * math.sqrt(2 / window)
        ends = t_interval(end.mean() - start.mean(), error, 2 * window - 2)
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return Trend(float(start.mean()), float(end.mean()), low, high, window, count)


def block_length(count: int) -> int:
    """Return the length of the blocks of a stretch of ``count`` values."""
    return max(1, round(math.sqrt(count)))


def block_means(values: Float[np.ndarray, " steps"], replicates: int, rng: np.random.Generator) -> Float[np.ndarray, " replicates"]:
    """Draw means of a stretch from blocks of neighbours, which may overlap; blocks go on from the end at the start."""
    length = block_length(len(values))
    blocks = math.ceil(len(values) / length)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: length - 1]]))])
    means = (sums[length:] - sums[:-length]) / length
    drawn: np.ndarray = means[rng.integers(0, len(means), (replicates, blocks))].mean(axis=1)
    return drawn


def _tail(window: int) -> float:
    """Return the probability outside each end, smaller for few blocks."""
    from scipy.special import ndtr, stdtrit

    blocks = window / block_length(window)
    return float(ndtr(stdtrit(2 * blocks - 2, (1 - LEVEL) / 2) * math.sqrt(blocks / (blocks - 1))))
