"""Each rule holds from the step at which it should, and not before."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dynamics.report import collapse

NONE = pd.Series([], dtype=float)


def series(values: object, every: int = 1) -> pd.Series:
    array = np.asarray(values, float)
    return pd.Series(array, index=np.arange(len(array)) * every)


def test_entropy_below_a_tenth_of_its_start() -> None:
    flag = collapse.entropy_collapse(series(np.where(np.arange(100) < 60, 1.0, 0.09), every=10))
    assert flag is not None
    assert (flag.step, flag.value) == (600, 0.09)
    assert "9.0%" in flag.text
    assert collapse.entropy_collapse(series(np.where(np.arange(100) < 60, 1.0, 0.11))) is None


def test_a_single_low_entropy_is_no_collapse() -> None:
    values = np.ones(50)
    values[25] = 0.0
    assert collapse.entropy_collapse(series(values)) is None
    assert collapse.entropy_collapse(series([0.0] * 20)) is None  # no start to compare with
    assert collapse.entropy_collapse(series([1.0, 0.0])) is None


def test_all_groups_without_variance_in_three_steps_in_a_row() -> None:
    flag = collapse.zero_variance(series([0.5, 1, 1, 0.9, 1, 1, 1, 1]), NONE)
    assert flag is not None
    assert (flag.step, flag.value) == (4, 0.75)
    assert collapse.zero_variance(series([1, 1, 0.99, 1, 1, 0.9]), NONE) is None
    from_spread = collapse.zero_variance(NONE, series([0.1, 0, 0, 0]))
    assert from_spread is not None
    assert from_spread.step == 1
    assert collapse.zero_variance(NONE, NONE) is None


def test_length_beyond_three_times_or_twice_and_cut() -> None:
    growing = series(np.linspace(100, 290, 50))
    assert collapse.length_runaway(growing, NONE) is None
    assert collapse.length_runaway(growing, series(np.full(50, 0.1))) is None
    cut = collapse.length_runaway(growing, series(np.where(np.arange(50) < 45, 0.0, 0.5)))
    assert cut is not None
    assert cut.step == 45
    assert "50%" in cut.text
    long = collapse.length_runaway(series([100.0] * 20 + [301.0] * 20), NONE)
    assert long is not None
    assert long.step == 20


def test_mismatch_that_doubles(rng: np.random.Generator) -> None:
    noise = 0.001 * rng.normal(size=60)
    assert collapse.mismatch_growth(series(0.01 + noise)) is None
    flag = collapse.mismatch_growth(series(-np.linspace(0.01, 0.05, 60) + noise))  # of either sign
    assert flag is not None
    assert flag.low is not None
    assert flag.high is not None
    assert flag.step is not None
    assert 10 < flag.step < 30
    assert flag.low < flag.value < flag.high


def test_nan_in_the_loss() -> None:
    flag = collapse.not_finite(series([1, math.nan, 2, math.inf]), "loss")
    assert flag is not None
    assert (flag.step, flag.value) == (1, 2.0)
    assert collapse.not_finite(series([1, 2]), "loss") is None
    assert collapse.not_finite(NONE, "loss") is None


def test_reward_that_rises_without_the_held_out(rng: np.random.Generator) -> None:
    reward = series(np.linspace(0, 1, 100) + 0.02 * rng.normal(size=100))
    falling = collapse.reward_without_held_out(reward, series([0.5, 0.5, 0.45, 0.44, 0.4], every=20))
    assert falling is not None
    assert falling.step == 0
    assert falling.value == pytest.approx(0.42 - 0.5)
    later = collapse.reward_without_held_out(reward, series([0.2, 0.4, 0.6, 0.8, 0.7, 0.65, 0.6, 0.55], every=12))
    assert later is not None
    assert later.step == 36
    assert collapse.reward_without_held_out(reward, series([0.1, 0.2, 0.3, 0.4, 0.5], every=20)) is None
    assert collapse.reward_without_held_out(reward, series([0.5, 0.4, 0.3], every=20)) is None  # too few
    flat = series(rng.normal(size=100))
    assert collapse.reward_without_held_out(flat, series([0.5, 0.5, 0.45, 0.44, 0.4], every=20)) is None


def test_loss_that_falls_without_the_held_out() -> None:
    loss = series(np.linspace(3, 1, 60))
    flag = collapse.loss_without_held_out(loss, series([3.0, 2.0, 1.5, 1.7, 1.9, 2.1], every=10))
    assert flag is not None
    assert (flag.step, flag.value) == (20, pytest.approx(0.4))
    assert collapse.loss_without_held_out(loss, series([2.0, 1.6, 1.5, 1.4, 1.3, 1.2], every=10)) is None


def test_all_rules_on_a_run_with_nothing() -> None:
    assert collapse.flags(lambda _: NONE) == []


def test_values_that_are_not_finite_are_left_out_of_the_rules() -> None:
    values = np.where(np.arange(100) < 60, 1.0, 0.05)
    values[::7] = math.nan
    flag = collapse.entropy_collapse(series(values))
    assert flag is not None
    assert flag.step == 60
