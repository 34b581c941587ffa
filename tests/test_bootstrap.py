"""Intervals have their nominal coverage, and are undefined if they cannot be estimated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import betaln

from dynamics import bootstrap
from dynamics.bootstrap import difference_interval, mean_interval, percentile_interval, resampled_counts, t_interval
from dynamics.passk.estimators import curves

N = 16


def truth(a, b, k):
    """Compute E[1 - (1 - p)^k] for p from Beta(a, b)."""
    return 1 - np.exp(betaln(a, b + k) - betaln(a, b))


@pytest.mark.parametrize(
    ("a", "b", "problems"),
    [
        (0.2, 2, 300),
        pytest.param(0.05, 1, 100, marks=pytest.mark.slow),
        *(pytest.param(a, b, 300, marks=pytest.mark.slow) for a, b in [(0.3, 0.3), (2, 2), (0.05, 1)]),
        *(pytest.param(a, b, 100, marks=pytest.mark.slow) for a, b in [(0.3, 0.3), (2, 2), (0.2, 2)]),
    ],
)
def test_coverage(a, b, problems):
    """95 % intervals of 1,000 simulated benchmarks, new problems and new samples each time, for k up to n / 2."""
    rng = np.random.default_rng([1, problems, int(100 * a)])
    ks, trials = [1, 4, 8], 1000
    p = rng.beta(a, b, (trials, problems))
    c = rng.binomial(N, p)
    # the trials are columns of a single call with the same resampled problems, so only the benchmark varies
    values = np.stack([curves(np.full(problems, N), correct, ks) for correct in c], axis=2).reshape(problems, -1)
    interval = mean_interval(values, replicates=1000)
    expected = np.repeat([truth(a, b, k) for k in ks], trials)
    held = ((interval.low <= expected) & (expected <= interval.high)).reshape(len(ks), trials).mean(axis=1)
    assert (held >= 0.93 - 0.007).all(), held  # 0.007: the standard error of 1,000 trials
    assert (held <= 0.97 + 0.007).all(), held


@pytest.mark.parametrize(
    ("a", "b", "shift"), [(0.3, 0.3, 0.0), *(pytest.param(*one, marks=pytest.mark.slow) for one in [(2, 2, 0.5), (0.2, 2, 0.5)])]
)
def test_coverage_of_paired_differences(a, b, shift):
    rng = np.random.default_rng([2, int(100 * a)])
    problems, trials, ks = 150, 1000, [1, 8]

    def tuned(p, z):
        return 1 / (1 + np.exp(-(np.log(p + 1e-9) - np.log(1 - p + 1e-9) + shift + 0.7 * z)))

    many = rng.beta(a, b, 400_000)
    after = tuned(many, rng.normal(size=many.size))
    expected = np.repeat([((1 - many) ** k - (1 - after) ** k).mean() for k in ks], trials)
    p = rng.beta(a, b, (trials, problems))
    q = tuned(p, rng.normal(size=p.shape))
    first, second = (
        np.stack([curves(np.full(problems, N), one, ks) for one in rng.binomial(N, chance)], axis=2).reshape(problems, -1)
        for chance in (p, q)
    )
    interval = difference_interval(first, second, replicates=1000)
    held = ((interval.low <= expected) & (expected <= interval.high)).reshape(len(ks), trials).mean(axis=1)
    assert (held >= 0.93 - 0.007).all(), held
    assert (held <= 0.97 + 0.007).all(), held


def test_nothing_solved_is_not_certainty():
    """No success in 50 problems: the exact upper bound is 1 - 0.025^(1/50)."""
    interval = mean_interval(np.zeros((50, 1)))
    assert interval.low[0] == 0
    assert interval.high[0] >= 1 - 0.025 ** (1 / 50) - 1e-12
    interval = mean_interval(np.ones((50, 1)))
    assert interval.high[0] == 1
    assert interval.low[0] <= 0.025 ** (1 / 50) + 1e-12


def test_an_interval_holds_its_estimate(rng):
    values = rng.random((40, 30)) ** rng.integers(1, 9, 30)
    interval = mean_interval(values, replicates=500)
    assert ((interval.low <= values.mean(axis=0)) & (values.mean(axis=0) <= interval.high)).all()


def test_ragged_columns_use_the_problems_they_have(rng):
    values = rng.random((200, 2))
    values[100:, 1] = np.nan
    interval = mean_interval(values)
    alone = mean_interval(values[:100, 1:])
    assert interval.high[1] - interval.low[1] == pytest.approx(alone.high[0] - alone.low[0], rel=0.1)
    empty = mean_interval(np.full((5, 1), np.nan))
    assert np.isnan(empty.low[0])
    assert np.isnan(empty.high[0])
    single = mean_interval(np.array([[0.5]]))
    assert np.isnan(single.low[0])


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


def test_as_many_items_are_drawn_as_there_are():
    counts = np.array([3, 1, 0, 6])
    drawn = resampled_counts(counts, 4000, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 10).all()
    assert np.allclose(drawn.mean(axis=0), counts, atol=0.1)
    assert np.allclose(drawn.var(axis=0), counts * (1 - counts / 10), atol=0.2)


def test_percentiles_are_over_replicates(rng):
    replicates = rng.normal(size=(999, 2))
    low, high = percentile_interval(replicates, 0.05)
    assert np.array_equal(low, np.quantile(replicates, 0.05, axis=0))
    assert np.array_equal(high, np.quantile(replicates, 0.95, axis=0))
    holes = np.vstack([replicates, np.full((50, 2), np.nan)])
    assert np.array_equal(percentile_interval(holes, 0.05)[0], low)


def test_t_intervals_are_those_of_scipy(rng: np.random.Generator) -> None:
    from scipy import stats

    values = rng.normal(size=(7, 3))
    mean, error = values.mean(axis=0), stats.sem(values)
    low, high = t_interval(mean, error, 6)
    expected = stats.t.interval(0.95, 6, mean, error)
    np.testing.assert_allclose([low, high], expected, rtol=1e-13)
    np.testing.assert_allclose(t_interval(mean[0], error[0], 6, 0.9), stats.t.interval(0.9, 6, mean[0], error[0]), rtol=1e-13)
    together = t_interval(mean[0], error[0], 6, 0.95, 5)
    np.testing.assert_allclose(together, stats.t.interval(0.99, 6, mean[0], error[0]), rtol=1e-12)
    assert t_interval(0.5, 0.0, 2) == (0.5, 0.5)
    ends = t_interval([1.0, 1.0, 1.0], [0.1, math.nan, 0.1], np.array([0, 3, 2]))
    assert np.isnan(ends).tolist() == [[True, True, False]] * 2


def graded(problems: int, seed: int = 0) -> np.ndarray:
    """Values of problems of which many are alike: shares of 8 samples, and their squares, which some problems lack."""
    rng = np.random.default_rng(seed)
    shares = rng.binomial(8, rng.beta(0.3, 0.6, problems)) / 8
    return np.stack([shares, np.where(shares == 0.5, np.nan, shares**2)], axis=1)


def test_problems_that_are_alike_are_drawn_with_the_same_law_as_one_by_one(monkeypatch) -> None:
    """Means, spreads and quantiles of the replicates agree, within what 20,000 replicates tell, and with the exact moments."""
    values = graded(bootstrap.MANY)
    pseudo = np.array([0.0, 1.0, 0.0, 1.0])
    together = bootstrap._replicate_means(values, pseudo, 20_000, 0)
    monkeypatch.setattr(bootstrap, "MANY", 10**9)
    single = bootstrap._replicate_means(values, pseudo, 20_000, 0)
    error = single.std(axis=0) / np.sqrt(20_000)
    assert (np.abs(together.mean(axis=0) - single.mean(axis=0)) < 4 * np.sqrt(2) * error).all()
    assert together.std(axis=0) == pytest.approx(single.std(axis=0), rel=4 / np.sqrt(20_000))
    assert np.corrcoef(together.T)[0, 1] == pytest.approx(np.corrcoef(single.T)[0, 1], abs=0.005)
    levels = [0.025, 0.25, 0.75, 0.975]
    assert np.quantile(together, levels, axis=0) == pytest.approx(np.quantile(single, levels, axis=0), abs=8 * error.max())
    weights = np.array(list(bootstrap.PSEUDO_PROBLEM.values()))
    chances = np.concatenate([np.ones(len(values)), weights]) / (len(values) + 1)
    first = np.concatenate([values[:, 0], pseudo])
    mean = chances @ first
    spread = np.sqrt((chances @ first**2 - mean**2) / len(values))
    assert together[:, 0].mean() == pytest.approx(mean, abs=4 * spread / np.sqrt(20_000))
    assert together[:, 0].std() == pytest.approx(spread, rel=4 / np.sqrt(40_000))


def test_many_different_problems_are_drawn_one_by_one_in_bounded_memory(monkeypatch) -> None:
    """Rows that are mostly different give what they always gave, however many replicates are held at once."""
    values = np.random.default_rng(0).random((bootstrap.MANY, 2))
    whole = mean_interval(values, replicates=300)
    monkeypatch.setattr(bootstrap, "HELD", 5 * bootstrap.MANY)
    parts = mean_interval(values, replicates=300)
    assert whole.low == pytest.approx(parts.low, rel=1e-12)
    assert whole.high == pytest.approx(parts.high, rel=1e-12)


def test_the_order_of_problems_that_are_alike_changes_nothing() -> None:
    values = graded(bootstrap.MANY)
    order = np.random.default_rng(1).permutation(len(values))
    assert mean_interval(values, replicates=500).low.tolist() == mean_interval(values[order], replicates=500).low.tolist()
