"""Intervals hold the truth as often as they say, and know when they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaln

from dynamics.passk import bootstrap
from dynamics.passk.bootstrap import crossing, crossing_ks, difference_interval, mean_interval
from dynamics.passk.estimators import curves

N = 16


def truth(a, b, k):
    """E[1 - (1 - p)^k] for p from Beta(a, b)."""
    return 1 - np.exp(betaln(a, b + k) - betaln(a, b))


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (2, 2), (0.2, 2), (0.05, 1)])
@pytest.mark.parametrize("problems", [100, 300])
def test_coverage(a, b, problems, monkeypatch):
    """95 % intervals of 1,000 simulated benchmarks, new problems and new samples each time, for k up to n / 2."""
    rng = np.random.default_rng([1, problems, int(100 * a)])
    ks, trials = [1, 4, 8], 1000
    p = rng.beta(a, b, (trials, problems))
    c = rng.binomial(N, p)
    # every trial uses the same resampling weights: what varies is the benchmark
    weights = [bootstrap._draw(problems, 1000, np.random.default_rng(0))]
    monkeypatch.setattr(bootstrap, "_batches", lambda *_: [(1000, None)])
    monkeypatch.setattr(bootstrap, "_draw", lambda *_: weights[0])
    values = np.stack([curves(np.full(problems, N), one, ks) for one in c], axis=2).reshape(problems, -1)
    found = mean_interval(values, replicates=1000)
    expected = np.repeat([truth(a, b, k) for k in ks], trials)
    held = ((found.low <= expected) & (expected <= found.high)).reshape(len(ks), trials).mean(axis=1)
    assert (held >= 0.93 - 0.007).all(), held  # 0.007: the standard error of 1,000 trials
    assert (held <= 0.97 + 0.007).all(), held


@pytest.mark.parametrize(("a", "b", "shift"), [(0.3, 0.3, 0.0), (2, 2, 0.5), (0.2, 2, 0.5)])
def test_coverage_of_paired_differences(a, b, shift, monkeypatch):
    rng = np.random.default_rng([2, int(100 * a)])
    problems, trials, ks = 150, 1000, [1, 8]

    def tuned(p, z):
        return 1 / (1 + np.exp(-(np.log(p + 1e-9) - np.log(1 - p + 1e-9) + shift + 0.7 * z)))

    many = rng.beta(a, b, 400_000)
    after = tuned(many, rng.normal(size=many.size))
    expected = np.repeat([((1 - many) ** k - (1 - after) ** k).mean() for k in ks], trials)
    p = rng.beta(a, b, (trials, problems))
    q = tuned(p, rng.normal(size=p.shape))
    weights = bootstrap._draw(problems, 1000, np.random.default_rng(0))
    monkeypatch.setattr(bootstrap, "_batches", lambda *_: [(1000, None)])
    monkeypatch.setattr(bootstrap, "_draw", lambda *_: weights)
    first, second = (
        np.stack([curves(np.full(problems, N), one, ks) for one in rng.binomial(N, chance)], axis=2).reshape(problems, -1)
        for chance in (p, q)
    )
    found = difference_interval(first, second)
    held = ((found.low <= expected) & (expected <= found.high)).reshape(len(ks), trials).mean(axis=1)
    assert (held >= 0.93 - 0.007).all(), held
    assert (held <= 0.97 + 0.007).all(), held


def test_nothing_solved_is_not_certainty():
    """No success in 50 problems: the exact upper bound is 1 - 0.025^(1/50)."""
    found = mean_interval(np.zeros((50, 1)))
    assert found.low[0] == 0
    assert found.high[0] >= 1 - 0.025 ** (1 / 50) - 1e-12
    found = mean_interval(np.ones((50, 1)))
    assert found.high[0] == 1
    assert found.low[0] <= 0.025 ** (1 / 50) + 1e-12


def test_an_interval_holds_its_estimate(rng):
    values = rng.random((40, 30)) ** rng.integers(1, 9, 30)
    found = mean_interval(values, replicates=500)
    assert ((found.low <= values.mean(axis=0)) & (values.mean(axis=0) <= found.high)).all()


def test_ragged_columns_use_the_problems_they_have(rng):
    values = rng.random((200, 2))
    values[100:, 1] = np.nan
    found = mean_interval(values)
    alone = mean_interval(values[:100, 1:])
    assert found.high[1] - found.low[1] == pytest.approx(alone.high[0] - alone.low[0], rel=0.1)
    empty = mean_interval(np.full((5, 1), np.nan))
    assert np.isnan(empty.low[0])
    assert np.isnan(empty.high[0])
    one = mean_interval(np.array([[0.5]]))
    assert np.isnan(one.low[0])


def test_the_same_seed_gives_the_same_interval(rng):
    values = rng.random((60, 3))
    assert np.array_equal(mean_interval(values, seed=3).low, mean_interval(values, seed=3).low)
    assert not np.array_equal(mean_interval(values, seed=3).low, mean_interval(values, seed=4).low)


def test_pairing_narrows(rng):
    p = rng.beta(0.3, 0.3, 300)
    first, second = (curves(np.full(300, 64), rng.binomial(64, p), [1]) for _ in range(2))
    paired = difference_interval(first, second)
    shuffled = difference_interval(first, rng.permutation(second))
    assert paired.high[0] - paired.low[0] < 0.3 * (shuffled.high[0] - shuffled.low[0])


def beta_curves(a, b, problems=400, n=256, seed=0):
    """Problems at the quantiles of a Beta distribution, samples as expected: curves without noise."""
    from scipy.stats import beta

    p = beta.ppf((np.arange(problems) + 0.5) / problems, a, b)
    return np.round(p * n).astype(int)


def test_a_crossing_is_found_where_it_is():
    n = 256
    wide, sharp = beta_curves(0.5, 1.5), beta_curves(0.12, 0.2)  # the second is better at first, the first at large k
    ks = crossing_ks(n)
    first, second = curves(np.full(400, n), wide, ks), curves(np.full(400, n), sharp, ks)
    found = crossing(ks, first, second)
    gap = (second - first).mean(axis=0)
    expected = int(ks[np.flatnonzero(gap < 0)[0]])
    assert found is not None
    assert (found.leader, found.k) == (1, expected)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= expected <= found.high
    assert found.none == 0
    mirrored = crossing(ks, second, first)
    assert mirrored is not None
    assert (mirrored.leader, mirrored.k) == (0, expected)
    assert (mirrored.low, mirrored.high) == (found.low, found.high)


def test_no_crossing():
    ks = crossing_ks(64)
    first = curves(np.full(300, 64), beta_curves(1, 2, 300, 64), ks)
    found = crossing(ks, first, curves(np.full(300, 64), beta_curves(2, 1, 300, 64), ks))
    assert found is not None
    assert found.k is None
    assert found.high is None
    assert found.none > 0.9
    assert crossing(ks, first, first) is None


def test_where_crossings_are_looked_for():
    assert list(crossing_ks(5)) == [1, 2, 3, 4, 5]
    far = crossing_ks(10_000)
    assert far[0] == 1
    assert far[-1] == 10_000
    assert (far[1:] / far[:-1])[130:].max() < 1.03
    assert len(far) < 400
