"""The fit recovers known parameters, predicts thinned samples, and gives no result if the data do not determine one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from dynamics.errors import InputError
from dynamics.passk.betabinomial import extrapolate, fit, predict, validate


def drawn(a, b, problems, n, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.beta(a, b, problems)
    return p, np.full(problems, n), rng.binomial(n, p)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (2, 5), (0.1, 0.1), (20, 20)])
def test_its_own_parameters(a, b):
    _, n, c = drawn(a, b, 20_000, 64)
    fitted = fit(n, c)
    assert fitted.mean == pytest.approx(a / (a + b), abs=0.01)
    assert fitted.a == pytest.approx(a, rel=0.1)


def test_nothing_is_likelier():
    _, n, c = drawn(0.4, 1.2, 300, 32)
    fitted = fit(n, c)

    def likelihood(a, b):
        return betabinom.logpmf(c, n, a, b).sum()

    best = likelihood(fitted.a, fitted.b)
    for scale in (0.97, 1.03):
        assert likelihood(fitted.a * scale, fitted.b) <= best + 1e-6
        assert likelihood(fitted.a, fitted.b * scale) <= best + 1e-6


def test_prediction_is_the_posterior_mean():
    """Compare with quadrature over p."""
    from scipy.integrate import quad
    from scipy.stats import beta

    model = fit(*drawn(0.5, 1, 100, 16)[1:])
    for n, c, k in ((16, 0, 40), (16, 3, 100), (8, 8, 5)):
        posterior = beta(model.a + c, model.b + n - c)
        expected = quad(lambda p, posterior=posterior, k=k: (1 - (1 - p) ** k) * posterior.pdf(p), 0, 1, limit=200)[0]
        assert predict(model, [n], [c], [k])[0, 0] == pytest.approx(expected, rel=1e-5)


def test_it_holds_what_more_samples_show():
    p, n, c = drawn(0.3, 0.6, 400, 64)
    extrapolated = extrapolate(n, c, [128, 1024], replicates=200)
    for value, low, high, k in zip(extrapolated.pass_at_k, extrapolated.low, extrapolated.high, extrapolated.ks, strict=True):
        assert low <= value <= high
        assert low <= (1 - (1 - p) ** k).mean() <= high


@pytest.mark.slow
def test_thinning_agrees_for_a_beta_and_not_for_a_wall():
    inside = [validate(*drawn(0.3, 0.6, 300, 64, seed)[1:], seed=seed, replicates=100) for seed in range(12)]
    assert sum(validation.inside for validation in inside if validation) >= 9
    c = np.array([0] * 200 + [32] * 200)  # half of the problems are never solved, the others half of the time: no Beta distribution fits
    wall = validate(np.full(400, 64), c)
    assert wall is not None
    assert wall.kept == 8
    assert wall.k == 32
    assert wall.measured == pytest.approx(0.5, abs=1e-6)
    assert wall.predicted > 0.5
    assert validate(np.full(10, 8), np.full(10, 4)) is None


def test_nothing_to_fit():
    with pytest.raises(InputError, match="no graded samples"):
        fit([0, 0], [0, 0])
