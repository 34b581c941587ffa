"""Intervals and tests of a difference that was measured with a few seeds on a fixed set of programs, their power, and Holm's correction.

Every seed is asked the same problems, so seeds and programs are crossed: the difference of seed s on program p is

    effect + seed effect + program effect + rest (their interaction, and the noise of sampling),

and the effect that is asked for is that on new seeds and new programs. Two errors follow from the data. The one over seeds is Student's:
the standard deviation of the means of the seeds. The one over programs is that of the cluster bootstrap: programs are drawn with
replacement, each with all its problems, and the seeds are averaged. Each alone is too narrow, and so is the wider of the two.

The interval of a verdict adds them in quadrature, each with its own quantile of Student's t:

    effect +- sqrt((t[seeds - 1] error over seeds)^2 + (t[programs - 1] error between programs)^2)

(Banerjee 1961, for sums of variances that are estimated apart). The error between programs is that over programs without the rest, which
the error over seeds contains already; but the interval is never narrower than that over programs, which protects from seeds that agree
exactly. For normal effects of any size it covers as often as stated, or more: the chance to cover is the expectation of a concave function
of a sum, weighted by the shares of the two in the true variance, so it is not below the weighted sum of their own chances (Jensen). What
Satterthwaite's degrees of freedom, the wider of the two intervals and a hierarchical bootstrap give instead is measured by
``python -m analyses.simulation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dynamics.bootstrap import PSEUDO_PROBLEM, difference_replicates, percentile_interval, resampled_counts

Array = np.ndarray[Any, np.dtype[Any]]

#: error rate of a family of rows, and of one interval
ALPHA = 0.05
#: chance with which a study is to decide, where its size is computed
POWER = 0.8
#: largest number of seeds that is looked at
MOST_SEEDS = 200
#: replicates of the hierarchical bootstrap
REPLICATES = 2000


@dataclass(frozen=True)
class Effect:
    """A difference and the errors of its two sources.

    Attributes
    ----------
    value : mean over seeds and problems; arrays have one entry for each study or row.
    seed_error : standard error over seeds; NaN with one seed.
    program_error : standard error over programs, by the cluster bootstrap; NaN with one program.
    rest_error : the part that both contain, as a standard error.
    seeds : number of seeds.
    programs : effective number of programs (Kish); infinite where each seed has its own.
    """

    value: Array
    seed_error: Array
    program_error: Array
    rest_error: Array
    seeds: int
    programs: float

    def half_width(self, alpha: ArrayLike = ALPHA) -> Array:
        """Half of the interval that misses the effect with a probability of at most ``alpha``; NaN with one seed or one program."""
        return _half_width(self.seed_error, self.program_error, self.rest_error, self.seeds, self.programs, alpha)

    def interval(self, alpha: float = ALPHA) -> tuple[Array, Array]:
        """Return the ends of the interval that covers with a probability of at least 1 - ``alpha``."""
        half = self.half_width(alpha)
        return self.value - half, self.value + half

    def p(self, null: float = 0.0) -> Array:
        """Two-sided p-value of the effect ``null``: the smallest alpha whose interval leaves it out. NaN where there is no interval."""
        distance = np.abs(self.value - null)
        low, high = np.full(distance.shape, math.log(1e-12)), np.zeros(distance.shape)
        for _ in range(32):
            middle = (low + high) / 2
            outside = distance > self.half_width(np.exp(middle))
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        p = np.where(distance > 0, np.exp(high), 1.0)
        return np.where(np.isfinite(self.half_width()), p, np.nan)

    def p_above(self, null: float) -> Array:
        """One-sided p-value against effects of at most ``null``: half of the two-sided one if the effect is above, else one minus that."""
        half = self.p(null) / 2
        return np.where(self.value > null, half, 1 - half)

    def p_equivalent(self, margin: float) -> Array:
        """P-value of "at least ``margin`` apart" (two one-sided tests, Schuirmann 1987): small if the effect is inside the margin."""
        return np.maximum(self.p_above(-margin), 1 - self.p_above(margin))

    def p_beyond(self, margin: float) -> Array:
        """P-value of "at most ``margin`` apart": small if the effect is beyond the margin, on either side."""
        above, below = self.p_above(margin), 1 - self.p_above(-margin)
        return np.where(np.abs(self.value) > margin, np.minimum(2 * np.minimum(above, below), 1.0), 1.0 + 0.0 * above)


def _half_width(seed_error: Array, program_error: Array, rest_error: Array, seeds: int, programs: float, alpha: ArrayLike) -> Array:
    if seeds < 2 or programs < 2:
        return np.full(np.broadcast_shapes(np.shape(seed_error), np.shape(alpha)), np.nan)
    of_programs = _quantile(programs - 1, alpha)
    between = np.sqrt(np.maximum(program_error**2 - rest_error**2, 0.0))
    both = np.hypot(_quantile(seeds - 1, alpha) * seed_error, of_programs * between)
    return np.asarray(np.maximum(both, of_programs * program_error))


def _quantile(freedom: float, alpha: ArrayLike) -> Array:
    """Compute the quantile 1 - alpha / 2 of Student's t."""
    from scipy.special import stdtrit  # scipy.stats has the same under another name, and takes a second to import

    return np.asarray(-stdtrit(freedom, np.asarray(alpha, float) / 2))


def kish(sizes: ArrayLike) -> float:
    """Kish's effective number of programs: (sum of n)^2 / sum of n^2, n the number of problems of a program."""
    counts = np.asarray(sizes, float)
    return float(counts.sum() ** 2 / (counts**2).sum()) if counts.size else 0.0


def by_program(differences: ArrayLike, programs: ArrayLike) -> tuple[Array, Array]:
    """Average differences over the problems of each program.

    Parameters
    ----------
    differences : (..., seeds, problems) paired differences.
    programs : (problems,) number of the program of each problem, from 0.

    Returns
    -------
    (..., seeds, programs) contributions, of which the mean over programs is that over problems, and which vary as the mean over problems of
    resampled programs does (to first order, where programs differ in their number of problems); and (programs,) the numbers of problems.
    """
    values, numbers = np.asarray(differences, float), np.asarray(programs)
    sizes = np.bincount(numbers)
    if (sizes == 1).all():
        return values[..., np.argsort(numbers)], sizes
    sums = np.add.reduceat(values[..., np.argsort(numbers, kind="stable")], np.append(0, np.cumsum(sizes)[:-1]), axis=-1)
    mean = values.mean(axis=-1, keepdims=True)
    return (sums - mean * sizes) / sizes.mean() + mean, sizes


def effect(differences: ArrayLike, programs: ArrayLike, proportions: bool = True) -> Effect:
    """Estimate a difference, with its errors over seeds and over programs.

    Parameters
    ----------
    differences : (..., seeds, problems) differences, paired by seed and problem; row i of every seed is the same problem.
    programs : (problems,) number of the program of each problem, from 0.
    proportions : whether the differences are those of values in [0, 1]. Then each resampling of programs can draw a pseudo-program too, as
        in ``dynamics.bootstrap``, so that a set on which no program changed does not give an interval without width.

    Notes
    -----
    The error over programs is the limit of the cluster bootstrap's standard deviation for many replicates, which has a closed form. With
    one seed nothing is known of the variation between seeds: there is no interval for the method, and none is given.
    """
    cells, sizes = by_program(differences, programs)
    *_, seeds, count = cells.shape
    of_seeds, of_programs = cells.mean(axis=-1), cells.mean(axis=-2)
    value = of_seeds.mean(axis=-1)
    nothing = np.full(value.shape, np.nan)
    seed_error = of_seeds.std(axis=-1, ddof=1) / math.sqrt(seeds) if seeds > 1 else nothing
    program_error = _bootstrap_error(of_programs, proportions) if count > 1 else nothing
    rest_error = nothing
    if seeds > 1 and count > 1:
        rest = cells - of_seeds[..., None] - of_programs[..., None, :] + value[..., None, None]
        rest_error = np.sqrt((rest**2).sum(axis=(-2, -1)) / ((seeds - 1) * (count - 1)) / (seeds * count))
    return Effect(value, seed_error, program_error, rest_error, seeds, kish(sizes))


def effect_of_seeds(differences: ArrayLike) -> Effect:
    """Estimate a difference of which each seed has one value from items of its own, such as the programs that it proposed: Student's t.

    Parameters
    ----------
    differences : (..., seeds) the difference of each seed.

    Notes
    -----
    Seeds whose values agree exactly, as a few proposals of each can, say nothing of their spread: there is no interval.
    """
    values = np.asarray(differences, float)
    seeds = values.shape[-1]
    nothing = np.full(values.shape[:-1], np.nan)
    error = values.std(axis=-1, ddof=1) / math.sqrt(seeds) if seeds > 1 else nothing
    error = np.where(error > 1e-12 * np.abs(values).max(axis=-1), error, np.nan)
    return Effect(values.mean(axis=-1), error, np.zeros(nothing.shape), np.zeros(nothing.shape), seeds, math.inf)


def _bootstrap_error(values: Array, proportions: bool) -> Array:
    """Compute the standard deviation of the mean over resampled values (..., values), widened for their number."""
    count = values.shape[-1]
    if not proportions:
        return np.asarray(values.std(axis=-1, ddof=1) / math.sqrt(count))
    pseudo = np.array([second - first for first, second in PSEUDO_PROBLEM])
    chance = np.array(list(PSEUDO_PROBLEM.values()))
    first = (values.sum(axis=-1) + chance @ pseudo) / (count + 1)
    second = ((values**2).sum(axis=-1) + chance @ pseudo**2) / (count + 1)
    return np.asarray(np.sqrt((second - first**2) / (count - 1)))


# other constructions, for comparison


def seed_interval(found: Effect, alpha: float = ALPHA) -> tuple[Array, Array]:
    """Student's interval over seeds alone: it holds the programs fixed, except for what their interaction with seeds shows of them."""
    half = _quantile(found.seeds - 1, alpha) * found.seed_error
    return found.value - half, found.value + half


def program_interval(found: Effect, alpha: float = ALPHA) -> tuple[Array, Array]:
    """Interval of the cluster bootstrap over programs alone: it is about these seeds."""
    half = _quantile(found.programs - 1, alpha) * found.program_error
    return found.value - half, found.value + half


def hull(found: Effect, alpha: float = ALPHA) -> tuple[Array, Array]:
    """Compute the smallest interval that holds the two above."""
    (low, high), (other_low, other_high) = seed_interval(found, alpha), program_interval(found, alpha)
    return np.minimum(low, other_low), np.maximum(high, other_high)


def satterthwaite(found: Effect, alpha: float = ALPHA) -> tuple[Array, Array]:
    """Interval by the unbiased sum of variances with Satterthwaite's degrees of freedom: too narrow where few seeds happen to agree."""
    parts = (found.seed_error**2, found.program_error**2, found.rest_error**2)
    freedom = (found.seeds - 1, found.programs - 1, (found.seeds - 1) * (found.programs - 1))
    variance = np.maximum(parts[0] + parts[1] - parts[2], np.maximum(parts[0], parts[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = variance**2 / sum(part**2 / number for part, number in zip(parts, freedom, strict=True))
    half = _quantile(np.fmax(total, 1), alpha) * np.sqrt(variance)
    return found.value - half, found.value + half


def hierarchical_interval(
    differences: ArrayLike, programs: ArrayLike, alpha: float = ALPHA, replicates: int = REPLICATES, seed: int = 0
) -> tuple[Array, Array]:
    """Percentile interval of a hierarchical bootstrap: seeds and programs are both drawn with replacement, the programs once for all seeds.

    With three seeds a ninth of the replicates has one seed only, and the spread of their means is two thirds of the variance: it covers too
    rarely, and no verdict rests on it. See ``effect`` for the parameters; the pseudo-program is not drawn.
    """
    cells, _ = by_program(differences, programs)
    rng = np.random.default_rng([seed, *cells.shape[-2:]])
    *_, seeds, count = cells.shape
    drawn_seeds = resampled_counts(np.ones(seeds, int), replicates, rng) / seeds
    drawn_programs = resampled_counts(np.ones(count, int), replicates, rng) / count
    means = np.einsum("...sr,rs->...r", cells @ drawn_programs.T, drawn_seeds)
    low, high = percentile_interval(np.moveaxis(means, -1, 0), alpha / 2)
    return np.asarray(low), np.asarray(high)


def percentile_program_interval(differences: ArrayLike, programs: ArrayLike, alpha: float = ALPHA) -> tuple[Array, Array]:
    """Percentile interval of the cluster bootstrap over programs, by drawing: what ``program_interval`` has in closed form."""
    cells, _ = by_program(differences, programs)
    means = cells.mean(axis=-2)
    columns = means.reshape(-1, means.shape[-1]).T
    replicated = difference_replicates(columns, REPLICATES, 0)
    low, high = percentile_interval(replicated, alpha / 2)
    return np.asarray(low).reshape(means.shape[:-1]), np.asarray(high).reshape(means.shape[:-1])


# families


def holm(p: ArrayLike) -> Array:
    """Adjust p-values for their number by Holm's method (1979), along the last axis.

    A row is decided at a family-wise error rate alpha if its adjusted value is at most alpha. A row that was not measured (NaN) stays NaN
    and counts as a row: what was planned does not become surer when a part of it fails.
    """
    values = np.asarray(p, float)
    filled = np.where(np.isnan(values), 1.0, values)
    order = np.argsort(filled, axis=-1, kind="stable")
    rows = values.shape[-1]
    stepped = np.take_along_axis(filled, order, axis=-1) * np.arange(rows, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    adjusted = np.empty_like(filled)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return np.where(np.isnan(values), np.nan, adjusted)


# power


@lru_cache(maxsize=256)
def _spread_of_variance(freedom: int) -> Array:
    """Quantiles of a variance estimate of mean 1 with these degrees of freedom: a rule of integration."""
    from scipy.special import gammaincinv

    shares = (np.arange(400) + 0.5) / 400
    return np.asarray(gammaincinv(freedom / 2, shares) * 2 / freedom)


@dataclass(frozen=True)
class Spread:
    """The true spread of a planned study, taken from the estimates of another one.

    Attributes
    ----------
    seeds : variance of the mean of one seed on all programs, its noise included.
    programs : variance of the mean over programs, with infinitely many seeds.
    rest : the noise in the mean of one seed.
    count : effective number of programs.
    """

    seeds: float
    programs: float
    rest: float
    count: float

    @classmethod
    def of(cls, found: Effect) -> Spread:
        """Take the spread from an estimate (of one row)."""
        rest = float(found.rest_error) ** 2
        between = max(float(found.program_error) ** 2 - rest, 0.0)
        return cls(float(found.seed_error) ** 2 * found.seeds, between, rest * found.seeds, found.programs)

    def power(self, size: float, seeds: int, alpha: float = ALPHA, margin: float | None = None) -> float:
        """Chance of a verdict in the direction of a true effect of ``size``; with a margin, of "the same".

        It holds for normal effects. The error over programs is taken as known, that over seeds as estimated from ``seeds`` seeds.
        """
        from scipy.special import ndtr

        if seeds < 2:
            return 0.0
        shared = self.rest / seeds
        of_programs = self.programs + shared
        error = math.sqrt(max(self.seeds / seeds, shared) + self.programs) or 1e-300
        estimated = np.sqrt(self.seeds / seeds * _spread_of_variance(seeds - 1))
        level = alpha if margin is None else 2 * alpha
        half = _half_width(estimated, np.asarray(math.sqrt(of_programs)), np.asarray(math.sqrt(shared)), seeds, self.count, level)
        if margin is None:
            return float(ndtr((abs(size) - half) / error).mean())
        inside = ndtr((margin - half - size) / error) - ndtr((half - margin - size) / error)
        return float(np.where(half < margin, inside, 0.0).mean())

    def seeds_needed(self, size: float, alpha: float = ALPHA, margin: float | None = None) -> int | None:
        """Smallest number of seeds with a power of ``POWER``; None if ``MOST_SEEDS`` are not enough: it takes more programs."""

        def enough(seeds: int) -> bool:
            return self.power(size, seeds, alpha, margin) >= POWER

        return _first(enough, 2, MOST_SEEDS)

    def detectable(self, seeds: int, alpha: float = ALPHA, equivalence: bool = False) -> float:
        """Smallest true effect with a power of ``POWER``; for a claim of equivalence, the smallest margin with it if there is no effect."""
        if seeds < 2:
            return math.nan
        low, high = 0.0, 1e-9
        while self._decides(high, seeds, alpha, equivalence) < POWER:
            low, high = high, 2 * high
            if high > 1e12:
                return math.nan
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self._decides(middle, seeds, alpha, equivalence) >= POWER else (middle, high)
        return high

    def _decides(self, size: float, seeds: int, alpha: float, equivalence: bool) -> float:
        return self.power(0.0, seeds, alpha, size) if equivalence else self.power(size, seeds, alpha)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Find the smallest number from low to high for which a condition holds that stays true once it is."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
