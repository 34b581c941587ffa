"""The change of a curve from its start to its end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_change_points import noise

from dynamics.report.trends import COVERAGE, block_length, block_means, trend, window_length


def test_the_windows_are_a_tenth_but_at_least_ten_and_at_most_half() -> None:
    assert [window_length(count) for count in (0, 1, 2, 7, 20, 60, 100, 1000)] == [0, 1, 1, 3, 10, 10, 10, 100]


def test_means_of_the_ends(rng: np.random.Generator) -> None:
    values = np.linspace(0, 99, 100)
    change = trend(values)
    assert (change.first, change.last, change.change, change.window, change.values) == (4.5, 94.5, 90.0, 10, 100)
    assert change.rises
    assert not change.falls
    assert trend(-values).falls


def test_few_values_have_no_interval() -> None:
    few = trend(np.array([1.0, 2.0, 3.0, 9.0]))
    assert math.isnan(few.low)
    assert not few.rises
    assert few.change == 4.5
    assert math.isnan(trend(np.zeros(0)).change)


def test_blocks_go_on_at_the_start(rng: np.random.Generator) -> None:
    assert block_length(10) == 3
    means = block_means(np.arange(9.0), 4000, rng)
    assert means.mean() == pytest.approx(4.0, abs=0.1)  # every value is in as many blocks
    assert np.allclose(block_means(np.full(10, 2.5), 5, rng), 2.5)


def test_the_interval_holds_the_estimate_and_is_reproducible(rng: np.random.Generator) -> None:
    values = rng.normal(size=80)
    change = trend(values, seed=3)
    assert change.low <= change.change <= change.high
    assert change == trend(values, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 100, 300, 2000])
@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.8])
def test_coverage_is_as_stated(count: int, coefficient: float, rng: np.random.Generator) -> None:
    changes = [trend(noise(rng, count, coefficient), seed) for seed in range(400)]
    covered = np.mean([change.low <= 0 <= change.high for change in changes])
    assert covered >= (0.92 if coefficient < 0.8 else COVERAGE[0] - 0.03)
