"""Find the steps at which the level of a curve changes abruptly.

The mean is fitted as a piecewise constant function by optimal partitioning (Jackson et al. 2005) with a BIC-like penalty per change. Curves
of training are neither white noise nor constant between changes, so three things come before:

- the noise is taken for an autoregressive process of order 1, whose coefficient and scale are estimated from medians of differences, which
  changes of level hardly touch; the curve is whitened with it (AR1Seg, Chakar et al. 2017);
- spikes, values far from the running median, are cut back to a limit and counted;
- a smooth curve would be cut into stairs: changes are reported only if they describe the curve better, by the same criterion, than a sum
  of the first cosines does.

Measured error rate: see ``FALSE_ALARMS``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

#: longest series that is partitioned; a longer one is averaged in stretches of equal length first
LONGEST = 500
#: shortest series in which changes are looked for
SHORTEST = 20
#: smallest number of values between two changes
LEAST = 5
#: penalty of a change in multiples of log n: for its position, its level, and as many again for the choice among all positions
PENALTY = 4.0
#: number of cosines of the smooth alternative
COSINES = 12
#: half width of the running median, and distance from it in standard deviations beyond which a value is a spike
HALF_WINDOW, SPIKE = 3, 5.0
#: a median of absolute values of a normal variable is this many standard deviations
MEDIAN = 0.6744897501960817
#: largest coefficient of the noise: nearer to 1 it is a random walk, which has changes everywhere
LARGEST_COEFFICIENT = 0.98
#: largest share of series of noise without any change in which a change is reported. Measured on 300 series each of 50, 200 and 1,000
#: values with coefficients of 0, 0.5, 0.8 and 0.95: 0 to 2 %. A jump of five standard deviations in the middle of 200 values is found in
#: 100 % of series of white noise, in 80 % with a coefficient of 0.5 and in 55 % with 0.8. The slow tests measure this again.
FALSE_ALARMS = 0.02


@dataclass(frozen=True)
class Noise:
    """Autoregressive noise of order 1.

    Attributes
    ----------
    scale : standard deviation of a value.
    coefficient : correlation of neighbours, at least 0.
    """

    scale: float
    coefficient: float

    @property
    def innovation(self) -> float:
        """Standard deviation of what is new in a value."""
        return self.scale * math.sqrt(1 - self.coefficient**2)

    @property
    def long_run(self) -> float:
        """Standard deviation of white noise whose means over long stretches vary as much."""
        return self.scale * math.sqrt((1 + self.coefficient) / (1 - self.coefficient))


@dataclass(frozen=True)
class Change:
    """An abrupt change of level.

    Attributes
    ----------
    step : the first one on the new level.
    before, after : mean from the previous change and to the next one.
    low, high : 95 % interval of ``after - before`` for a change at a given step; too narrow because the step was chosen by the data.
    """

    step: int
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True)
class Changes:
    """What was found in a curve.

    Attributes
    ----------
    changes : in the order of steps.
    smooth : whether the curve is described better by a smooth function, so that none is reported.
    spikes : number of values far from the running median.
    resolution : number of values that were averaged: a step is known no better.
    noise : of the averaged values.
    """

    changes: tuple[Change, ...]
    smooth: bool
    spikes: int
    resolution: int
    noise: Noise


def estimate_noise(values: Float[np.ndarray, " steps"], largest: float = LARGEST_COEFFICIENT) -> Noise:
    """Estimate the noise of a curve from the medians of absolute differences of values one and two steps apart.

    With noise of coefficient r, squared differences one and two steps apart have the ratio 1 : 1 + r, whatever the level is. If most
    differences are 0, their root mean square is used instead, and the coefficient is 0. ``largest`` is the largest coefficient.
    """
    if len(values) < 3:
        return Noise(0.0, 0.0)
    one, two = np.abs(np.diff(values)), np.abs(values[2:] - values[:-2])
    first, second = float(np.median(one)) / MEDIAN, float(np.median(two)) / MEDIAN
    if first == 0:
        return Noise(float(np.sqrt((one**2).mean() / 2)), 0.0)
    coefficient = min(max((second / first) ** 2 - 1, 0.0), largest)
    return Noise(first / math.sqrt(2 * (1 - coefficient)), coefficient)


def running_median(values: Float[np.ndarray, " steps"], half: int = HALF_WINDOW) -> Float[np.ndarray, " steps"]:
    """Compute the median of each value and its ``half`` neighbours on either side; at the ends of those that exist."""
    padded = np.pad(values, half, constant_values=np.nan)
    result: np.ndarray = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    return result


def without_spikes(values: Float[np.ndarray, " steps"], noise: Noise) -> tuple[Float[np.ndarray, " steps"], int]:
    """Cut spikes back to the limit; return the curve and the number of spikes."""
    middle = running_median(values)
    limit = SPIKE * noise.scale
    far = np.abs(values - middle) > limit if limit > 0 else np.zeros(len(values), bool)
    return np.where(far, np.clip(values, middle - limit, middle + limit), values), int(far.sum())


def find_changes(steps: Sequence[int] | Int[np.ndarray, " steps"], values: Float[np.ndarray, " steps"]) -> Changes:
    """Find abrupt changes of level.

    Parameters
    ----------
    steps : ascending.
    values : finite, one a step.
    """
    steps = np.asarray(steps)
    noise = estimate_noise(values)
    cut, spikes = without_spikes(values, noise)
    resolution = math.ceil(len(cut) / LONGEST)
    if resolution > 1:
        whole = len(cut) - len(cut) % resolution
        cut, steps = cut[:whole].reshape(-1, resolution).mean(axis=1), steps[:whole:resolution]
        noise = estimate_noise(cut)
    if len(cut) < SHORTEST or noise.scale == 0:
        return Changes((), False, spikes, resolution, noise)
    whitened = (cut[1:] - noise.coefficient * cut[:-1]) / noise.innovation
    starts, misfit = partition(whitened, PENALTY * math.log(len(whitened)), LEAST)
    if not starts:
        return Changes((), False, spikes, resolution, noise)
    score = misfit + PENALTY * math.log(len(whitened)) * len(starts)
    if smooth_misfit(whitened) <= score:
        return Changes((), True, spikes, resolution, noise)
    borders = [0, *(start + 1 for start in starts), len(cut)]
    return Changes(tuple(_described(cut, steps, borders, noise)), False, spikes, resolution, noise)


def _described(cut: Float[np.ndarray, " steps"], steps: Int[np.ndarray, " steps"], borders: Sequence[int], noise: Noise) -> list[Change]:
    changes = []
    for first, start, stop in zip(borders[:-2], borders[1:-1], borders[2:], strict=True):
        before, after = float(cut[first:start].mean()), float(cut[start:stop].mean())
        error = 1.96 * noise.long_run * math.sqrt(1 / (start - first) + 1 / (stop - start))
        changes.append(Change(int(steps[start]), before, after, after - before - error, after - before + error))
    return changes


def partition(values: Float[np.ndarray, " steps"], penalty: float, least: int) -> tuple[list[int], float]:
    """Split a series into stretches of constant mean, with the smallest sum of squares and penalties.

    Parameters
    ----------
    values : the series.
    penalty : of each change.
    least : smallest length of a stretch.

    Returns
    -------
    starts : index of the first value of each stretch but the first.
    misfit : sum of squared distances from the means.
    """
    count = len(values)
    centred = values - values.mean() if count else values
    sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (centred, centred**2))
    cost = np.full(count + 1, np.inf)
    cost[0] = -penalty
    previous = np.zeros(count + 1, int)
    for stop in range(least, count + 1):
        starts = np.arange(0, stop - least + 1)
        misfit = squares[stop] - squares[starts] - (sums[stop] - sums[starts]) ** 2 / (stop - starts)
        total = cost[starts] + misfit + penalty
        best = int(total.argmin())
        cost[stop], previous[stop] = total[best], best
    found: list[int] = []
    stop = count
    while previous[stop] > 0:
        stop = int(previous[stop])
        found.append(stop)
    return found[::-1], float(cost[count] - penalty * len(found)) if count >= least else 0.0


def smooth_misfit(values: Float[np.ndarray, " steps"], cosines: int = COSINES) -> float:
    """Compute the smallest sum of squares and penalties of a sum of the first cosines, of any number of them; a cosine costs log n."""
    count = len(values)
    numbers = np.arange(1, min(cosines, count // 4) + 1)
    basis = np.cos(np.pi * numbers[:, None] * (np.arange(count) + 0.5) / count) * math.sqrt(2 / count)
    centred = values - values.mean()
    left = float((centred**2).sum()) - np.concatenate([[0.0], np.cumsum((basis @ centred) ** 2)])
    return float((left + math.log(count) * np.arange(len(left))).min())
