"""Changes of level are found where they are, and not in noise or in smooth curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.report.change_points import FALSE_ALARMS, estimate_noise, find_changes, partition, running_median, smooth_misfit


def noise(rng: np.random.Generator, count: int, coefficient: float) -> np.ndarray:
    """Autoregressive noise of variance 1."""
    drawn = rng.normal(size=count + 50)
    for index in range(1, count + 50):
        drawn[index] = coefficient * drawn[index - 1] + np.sqrt(1 - coefficient**2) * drawn[index]
    return drawn[50:]


def best_by_trial(values: np.ndarray, penalty: float, least: int) -> float:
    """Return the smallest sum of squares and penalties over all partitions, by recursion."""
    whole = float(((values - values.mean()) ** 2).sum())
    return min(
        [whole]
        + [
            float(((values[:cut] - values[:cut].mean()) ** 2).sum()) + penalty + best_by_trial(values[cut:], penalty, least)
            for cut in range(least, len(values) - least + 1)
        ]
    )


@settings(max_examples=30)
@given(st.lists(st.integers(-9, 9), min_size=4, max_size=9), st.sampled_from([0.5, 4.0, 40.0]), st.integers(1, 3))
def test_partition_is_the_best_of_all(values: list[int], penalty: float, least: int) -> None:
    series = np.array(values, float)
    starts, misfit = partition(series, penalty, least)
    borders = [0, *starts, len(series)]
    assert min(np.diff(borders)) >= least
    assert misfit == pytest.approx(sum(((part - part.mean()) ** 2).sum() for part in np.split(series, starts)), abs=1e-9)
    assert misfit + penalty * len(starts) == pytest.approx(best_by_trial(series, penalty, least), abs=1e-9)


def test_two_jumps_are_found_with_their_sizes(rng: np.random.Generator) -> None:
    steps = np.arange(0, 600, 3)
    values = np.where(np.arange(200) < 60, 1.0, np.where(np.arange(200) < 130, 7.0, 3.0)) + rng.normal(size=200)
    found = find_changes(steps, values)
    assert [change.step for change in found.changes] == pytest.approx([180, 390], abs=6)
    assert [(change.low < size < change.high) for change, size in zip(found.changes, (6, -4), strict=True)] == [True, True]
    assert not found.smooth


@pytest.mark.parametrize("curve", ["line", "decay", "sigmoid"])
def test_a_smooth_curve_has_no_jump(curve: str, rng: np.random.Generator) -> None:
    t = np.arange(200)
    smooth = {"line": t / 10, "decay": 10 * np.exp(-t / 30), "sigmoid": 8 / (1 + np.exp((100 - t) / 15))}[curve]
    found = find_changes(t, smooth + rng.normal(size=200))
    assert found.changes == ()
    assert found.smooth


def test_a_spike_is_counted_and_is_no_jump(rng: np.random.Generator) -> None:
    values = rng.normal(size=150)
    values[[40, 90]] = [60.0, -50.0]
    found = find_changes(np.arange(150), values)
    assert (found.changes, found.spikes) == ((), 2)


def test_constant_and_short_curves() -> None:
    assert find_changes(np.arange(50), np.ones(50)).changes == ()
    assert find_changes(np.arange(3), np.array([0.0, 5.0, 9.0])).changes == ()
    step = find_changes(np.arange(50), np.repeat([0.0, 1.0], 25))  # no noise at all
    assert [change.step for change in step.changes] == [25]


def test_a_long_curve_is_averaged_and_says_so(rng: np.random.Generator) -> None:
    values = np.repeat([0.0, 1.0], 3000) + rng.normal(size=6000)
    found = find_changes(np.arange(6000), values)
    assert found.resolution == 12
    assert [change.step for change in found.changes] == pytest.approx([3000], abs=24)


@pytest.mark.parametrize("coefficient", [0.0, 0.6, 0.9])
def test_noise_is_estimated_whatever_the_level(coefficient: float, rng: np.random.Generator) -> None:
    values = noise(rng, 20_000, coefficient) + np.repeat([0.0, 50.0, -10.0, 5.0], 5000)
    estimate = estimate_noise(values)
    assert estimate.coefficient == pytest.approx(coefficient, abs=0.04)
    assert estimate.scale == pytest.approx(1.0, rel=0.2 if coefficient == 0.9 else 0.05)


def test_running_median_and_smooth_misfit() -> None:
    assert running_median(np.array([5.0, 1.0, 9.0, 2.0, 2.0]), 1).tolist() == [3.0, 5.0, 2.0, 2.0, 2.0]
    t = (np.arange(40) + 0.5) / 40
    assert smooth_misfit(3 * np.cos(2 * np.pi * t)) == pytest.approx(2 * np.log(40), abs=1e-9)  # two cosines, and nothing is left


def test_pure_noise_has_few_jumps(rng: np.random.Generator) -> None:
    found = [find_changes(np.arange(60), noise(rng, 60, coefficient)) for coefficient in (0.0, 0.5) for _ in range(20)]
    assert sum(bool(each.changes) for each in found) <= 4  # 2 % expected at most


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("count", [50, 200, 1000])
def test_false_alarms_are_as_rare_as_stated(coefficient: float, count: int, rng: np.random.Generator) -> None:
    runs = 600
    alarms = sum(bool(find_changes(np.arange(count), noise(rng, count, coefficient)).changes) for _ in range(runs))
    assert alarms / runs <= FALSE_ALARMS + 2.5 * np.sqrt(FALSE_ALARMS / runs)


@pytest.mark.slow
@pytest.mark.parametrize(("coefficient", "power"), [(0.0, 0.97), (0.5, 0.7), (0.8, 0.4)])
def test_power_is_as_stated(coefficient: float, power: float, rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(200):
        values = noise(rng, 200, coefficient)
        values[120:] += 5
        hits += any(abs(change.step - 120) <= 3 for change in find_changes(np.arange(200), values).changes)
    assert hits / 200 >= power
