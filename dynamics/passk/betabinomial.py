"""Beyond n: what more samples would probably solve, from a beta-binomial model of the problems (empirical Bayes).

An estimate of pass@k needs k <= n. Further out there is only a model: each problem has a chance p of being solved by one sample, p is
spread over problems as a Beta(a, b) distribution, and a, b are those under which the graded samples are likeliest. Then a problem with c
of n correct is solved by k fresh samples with the posterior mean of 1 - (1 - p)^k, and problems without a correct sample are not
written off. For large k the unsolved share falls like k^-a, so everything out there hangs on the few problems near p = 0.

Never mix these numbers with estimates: they are wrong wherever the spread is no Beta, for example when some problems cannot be solved at
all. ``validate`` shows how the same model would have done on samples that are known.
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
#: log of the sharpest and the flattest a + b that are told apart: beyond, the spread is a point or two
BOUNDS = ((-12.0, 12.0), (-12.0, 14.0))


@dataclass(frozen=True)
class Fit:
    """Beta(a, b), and its mean a / (a + b)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """Mean of the distribution."""
        return self.a / (self.a + self.b)


@dataclass(frozen=True)
class Extrapolation:
    """What the model says of k beyond n.

    Attributes
    ----------
    ks : the k.
    pass_at_k : the model's values.
    low, high : ends of their bootstrap intervals over problems, refitted in each replicate.
    fit : the model.
    """

    ks: Int[np.ndarray, " ks"]
    pass_at_k: Float[np.ndarray, " ks"]
    low: Float[np.ndarray, " ks"]
    high: Float[np.ndarray, " ks"]
    fit: Fit


@dataclass(frozen=True)
class Validation:
    """What the model predicts for ``k`` from ``kept`` samples a problem, against the unbiased estimate from all of them.

    Attributes
    ----------
    kept : samples a problem that the model saw.
    k : that it predicts pass@k for.
    predicted, low, high : the prediction and its interval.
    measured : the estimate from all samples.
    """

    kept: int
    k: int
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def inside(self) -> bool:
        """Whether what was measured lies in the interval of what was predicted."""
        return self.low <= self.measured <= self.high


def fit(n: ArrayLike, c: ArrayLike, weights: ArrayLike | None = None) -> Fit:
    """Fit the Beta distribution of solve chances that makes c of n correct likeliest.

    Parameters
    ----------
    n, c : (problems,) samples graded and correct.
    weights : (problems,) how often each problem counts; once if None.

    Raises
    ------
    InputError : no samples at all.
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
    """Predict pass@k of each problem given its own c of n, the posterior mean of 1 - (1 - p)^k.

    Parameters
    ----------
    model : the spread of solve chances.
    n, c : (problems,) samples graded and correct.
    ks : (ks,) samples still to be drawn.

    Returns
    -------
    1 - B(a + c, b + n - c + k) / B(a + c, b + n - c).
    """
    from scipy.special import gammaln

    n, c = np.asarray(n, float)[:, None], np.asarray(c, float)[:, None]
    k = np.asarray(ks, float)[None, :]
    missed, whole = model.b + n - c, model.a + model.b + n
    return -np.expm1(gammaln(missed + k) - gammaln(missed) - gammaln(whole + k) + gammaln(whole))


def extrapolate(
    n: ArrayLike, c: ArrayLike, ks: ArrayLike, level: float = 0.95, replicates: int = REPLICATES, seed: int = 0
) -> Extrapolation:
    """Give the model's pass@k, averaged over the problems, with a bootstrap interval that refits it.

    Parameters
    ----------
    n, c : (problems,) samples graded and correct.
    ks : (ks,) any k of at least 1.
    level, replicates, seed : of the bootstrap.

    Notes
    -----
    The interval is that of the model if the model holds. It says nothing about the model being wrong.
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
    """Average the predictions for pairs of n and c, each of which so many problems have."""
    return times @ predict(model, pairs[:, 0], pairs[:, 1], ks) / times.sum()


def validate(n: ArrayLike, c: ArrayLike, level: float = 0.95, replicates: int = REPLICATES, seed: int = 0) -> Validation | None:
    """Thin every problem to an eighth of its samples, extrapolate back to k = n / 2, and compare with what was measured there.

    None if the fewest samples of a problem are under 16. Which samples are kept is drawn from ``seed``. The interval compared with is
    that of the extrapolation from the thinned samples; the problems are the same on both sides.
    """
    n, c = np.asarray(n, np.int64), np.asarray(c, np.int64)
    least = int(n.min()) if len(n) else 0
    if least < 16:
        return None
    kept, k = least // 8, least // 2
    thinned = np.random.default_rng([seed, 1]).hypergeometric(c, n - c, kept)
    far = extrapolate(np.full(len(n), kept), thinned, [k], level, replicates, seed)
    measured = float(curves(n, c, [k]).mean())
    return Validation(kept, k, float(far.pass_at_k[0]), float(far.low[0]), float(far.high[0]), measured)
