"""Extrapolation of pass@k beyond n with a beta-binomial model (empirical Bayes).

An unbiased estimate of pass@k needs k <= n. Beyond n, this module assumes that a sample solves problem i with probability p_i, and that
the p_i follow a Beta(a, b) distribution, with a and b fitted by maximum likelihood. A problem with c of n correct samples is then solved
by k fresh samples with the posterior mean of 1 - (1 - p)^k, which is above 0 also for c = 0. For large k the unsolved fraction falls like
k^-a, so the extrapolation depends mostly on the few problems with p near 0.

Do not mix these predictions with estimates. They are wrong if the p_i do not follow a Beta distribution, for example if some problems
cannot be solved at all. ``validate`` checks the model on the known samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from dynamics.bootstrap import percentile_interval, resampled_counts
from dynamics.errors import InputError
from dynamics.passk.estimators import curves

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

REPLICATES = 400
#: bounds of the fit, for the logit of the mean and the log of a + b; beyond them, the distribution is one or two points
BOUNDS = ((-12.0, 12.0), (-12.0, 14.0))


@dataclass(frozen=True)
class Fit:
    """A Beta(a, b) distribution."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """Mean of the distribution."""
        return self.a / (self.a + self.b)


@dataclass(frozen=True)
class Extrapolation:
    """Predicted pass@k for k beyond n.

    Attributes
    ----------
    ks : values of k.
    pass_at_k : predictions.
    low, high : bootstrap intervals over problems, with a new fit in each replicate.
    fit : the fitted distribution.
    """

    ks: Int[np.ndarray, " ks"]
    pass_at_k: Float[np.ndarray, " ks"]
    low: Float[np.ndarray, " ks"]
    high: Float[np.ndarray, " ks"]
    fit: Fit


@dataclass(frozen=True)
class Validation:
    """A prediction of pass@k from ``kept`` samples per problem, and the unbiased estimate from all samples.

    Attributes
    ----------
    kept : number of samples per problem that the prediction uses.
    k : of the predicted pass@k.
    predicted, low, high : the prediction and its interval.
    measured : the unbiased estimate from all samples.
    """

    kept: int
    k: int
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def inside(self) -> bool:
        """Whether the estimate lies in the interval of the prediction."""
        return self.low <= self.measured <= self.high


def fit(n: ArrayLike, c: ArrayLike, weights: ArrayLike | None = None) -> Fit:
    """Fit a Beta distribution of solve probabilities by maximum likelihood.

    Parameters
    ----------
    n, c : (problems,) number of graded and of correct samples.
    weights : (problems,) weight of each problem; 1 if None.

    Raises
    ------
    InputError : there are no samples.
    """
    n, c = np.asarray(n, float), np.asarray(c, float)
    times = np.ones(len(n)) if weights is None else np.asarray(weights, float)
    counted = (n > 0) & (times > 0)
    if not counted.any():
        raise InputError("no graded samples: there is nothing to fit")
    return _fit(n[counted], c[counted], times[counted], None)


def _fit(
    n: Float[np.ndarray, " problems"],
    c: Float[np.ndarray, " problems"],
    times: Float[np.ndarray, " problems"],
    start: Float[np.ndarray, 2] | None,
) -> Fit:
    from scipy.optimize import minimize
    from scipy.special import betaln, digamma

    total = times.sum()

    def cost(at: Float[np.ndarray, 2]) -> tuple[float, Float[np.ndarray, 2]]:
        """Compute the mean negative log-likelihood and its gradient in (logit of the mean, log of a + b)."""
        mean, size = 1 / (1 + np.exp(-at[0])), np.exp(at[1])
        a, b = mean * size, (1 - mean) * size
        value = -(times * (betaln(a + c, b + n - c) - betaln(a, b))).sum() / total
        common = digamma(a + b) - digamma(a + b + n)
        by_a = -(times * (digamma(a + c) - digamma(a) + common)).sum() / total
        by_b = -(times * (digamma(b + n - c) - digamma(b) + common)).sum() / total
        return value, np.array([(by_a - by_b) * mean * (1 - mean) * size, by_a * a + by_b * b])

    if start is None:
        mean = min(max((times * c).sum() / (times * n).sum(), 0.01), 0.99)
        start = np.array([np.log(mean / (1 - mean)), 0.0])
    optimum = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=BOUNDS)
    mean, size = 1 / (1 + np.exp(-optimum.x[0])), np.exp(optimum.x[1])
    return Fit(float(mean * size), float((1 - mean) * size))


def predict(model: Fit, n: ArrayLike, c: ArrayLike, ks: ArrayLike) -> Float[np.ndarray, "problems ks"]:
    """Predict pass@k of each problem: the posterior mean of 1 - (1 - p)^k given c of n correct samples.

    Parameters
    ----------
    model : distribution of solve probabilities.
    n, c : (problems,) number of graded and of correct samples.
    ks : (ks,) number of fresh samples.

    Returns
    -------
    (problems, ks): 1 - B(a + c, b + n - c + k) / B(a + c, b + n - c).
    """
    from scipy.special import gammaln

    n, c = np.asarray(n, float)[:, None], np.asarray(c, float)[:, None]
    k = np.asarray(ks, float)[None, :]
    missed, whole = model.b + n - c, model.a + model.b + n
    return -np.expm1(gammaln(missed + k) - gammaln(missed) - gammaln(whole + k) + gammaln(whole))


def extrapolate(
    n: ArrayLike, c: ArrayLike, ks: ArrayLike, level: float = 0.95, replicates: int = REPLICATES, seed: int = 0
) -> Extrapolation:
    """Predict pass@k averaged over problems, with a bootstrap interval.

    Parameters
    ----------
    n, c : (problems,) number of graded and of correct samples.
    ks : (ks,) any k of at least 1.
    level, replicates, seed : of the bootstrap, which refits the model in each replicate.

    Notes
    -----
    The interval assumes that the model is correct.
    """
    n, c, ks = np.asarray(n, np.int64), np.asarray(c, np.int64), np.asarray(ks, np.int64)
    pairs, times = np.unique(np.stack([n, c], 1)[n > 0], axis=0, return_counts=True)
    if not len(pairs):
        raise InputError("no graded samples: there is nothing to extrapolate from")
    model = fit(pairs[:, 0], pairs[:, 1], times)
    start = np.array([np.log(model.a / model.b), np.log(model.a + model.b)])
    rng = np.random.default_rng([seed, len(n)])
    drawn = resampled_counts(times, replicates, rng)
    curve = np.empty((replicates, len(ks)))
    for row, count in enumerate(drawn):
        drawn_pairs = count > 0
        n_drawn, c_drawn = pairs[drawn_pairs].T.astype(float)
        refitted = _fit(n_drawn, c_drawn, count[drawn_pairs].astype(float), start)
        curve[row] = _average(refitted, pairs[drawn_pairs], count[drawn_pairs], ks)
    low, high = percentile_interval(curve, (1 - level) / 2)
    value = _average(model, pairs, times, ks)
    return Extrapolation(ks, value, np.minimum(low, value), np.maximum(high, value), model)


def _average(
    model: Fit, pairs: Int[np.ndarray, "pairs 2"], times: Int[np.ndarray, " pairs"], ks: Int[np.ndarray, " ks"]
) -> Float[np.ndarray, " ks"]:
    """Average the predictions over problems, given the distinct pairs (n, c) and how many problems have each."""
    return times @ predict(model, pairs[:, 0], pairs[:, 1], ks) / times.sum()


def validate(n: ArrayLike, c: ArrayLike, level: float = 0.95, replicates: int = REPLICATES, seed: int = 0) -> Validation | None:
    """Predict pass@k at k = n / 2 from an eighth of the samples, and compare with the unbiased estimate from all samples.

    With n the smallest number of samples of a problem, n // 8 samples of each problem are kept, drawn from ``seed``. The interval is that
    of the prediction from these samples; the problems are the same on both sides. None if n is below 16.
    """
    n, c = np.asarray(n, np.int64), np.asarray(c, np.int64)
    least = int(n.min()) if len(n) else 0
    if least < 16:
        return None
    kept, k = least // 8, least // 2
    thinned = np.random.default_rng([seed, 1]).hypergeometric(c, n - c, kept)
    prediction = extrapolate(np.full(len(n), kept), thinned, [k], level, replicates, seed)
    measured = float(curves(n, c, [k]).mean())
    return Validation(kept, k, float(prediction.pass_at_k[0]), float(prediction.low[0]), float(prediction.high[0]), measured)
