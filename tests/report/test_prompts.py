"""Statistics over prompts against direct computation, and error rates by simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.report.duplicates import duplicate_pairs
from dynamics.report.prompts import (
    correlation_within,
    equal_bins,
    false_discovery_rates,
    mean_over,
    means_over_prompts,
    paired_change,
    prompt_changes,
    within_groups,
)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_duplicate_pairs_are_counted(rows: list[tuple[int, int]]) -> None:
    groups, texts = (np.array([row[side] for row in rows], int) for side in (0, 1))
    table = duplicate_pairs(groups, texts)
    for group in range(len(table)):
        own = texts[groups == group].tolist()
        pairs = list(combinations(own, 2))
        assert table.loc[group, "size"] == len(own)
        share = table.loc[group, "share"]
        assert math.isnan(share) if not pairs else share == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_share_of_duplicates_is_unbiased_for_every_group_size(size: int, rng: np.random.Generator) -> None:
    chances = np.array([0.5, 0.3, 0.2])
    texts = rng.choice(3, 30_000 // size * size, p=chances)
    table = duplicate_pairs(np.repeat(np.arange(len(texts) // size), size), texts)
    assert table["share"].mean() == pytest.approx((chances**2).sum(), abs=0.02)


def test_bins_hold_as_many_steps() -> None:
    steps = np.array([5, 5, 10, 20, 30, 40, 50])
    assert equal_bins(steps, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert equal_bins(steps, 99).tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert equal_bins(np.zeros(0, int), 3).tolist() == []


def test_every_prompt_has_the_same_weight() -> None:
    bins = np.zeros(5, int)
    prompts = np.array([0, 0, 0, 0, 1])
    table = means_over_prompts(bins, prompts, np.array([1.0, 1.0, 1.0, np.nan, 0.0]))
    row = table.loc[0]
    assert (row["mean"], row["prompts"], row["completions"]) == (0.5, 2, 4)
    assert row["high"] - row["mean"] == pytest.approx(12.706 * np.sqrt(0.5) / np.sqrt(2), rel=1e-4)


def test_a_single_prompt_has_no_interval() -> None:
    table = means_over_prompts(np.zeros(3, int), np.zeros(3, int), np.array([1.0, 0.0, 1.0]))
    assert math.isnan(table.loc[0, "low"])
    assert math.isnan(mean_over(np.array([2.0])).low)
    assert mean_over(np.zeros(0)).prompts == 0


def test_paired_change_is_over_prompts_on_both_sides() -> None:
    prompts = np.array([0, 0, 1, 1, 2])
    late = np.array([False, True, False, True, True])
    change = paired_change(prompts, late, np.array([0.0, 1.0, 0.5, 0.7, 9.0]))
    assert (change.value, change.prompts) == (pytest.approx(0.6), 2)
    assert paired_change(prompts, np.zeros(5, bool), np.ones(5)).prompts == 0


def test_false_discovery_rates() -> None:
    assert false_discovery_rates(np.array([0.04, 0.01, 0.03, 0.5])).tolist() == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert len(false_discovery_rates(np.zeros(0))) == 0


def test_the_prompt_that_changed_comes_first(rng: np.random.Generator) -> None:
    prompts = np.repeat(np.arange(20), 32)
    late = np.tile(np.repeat([False, True], 16), 20)
    rewards = (rng.random(640) < 0.5).astype(float)
    rewards[(prompts == 7) & ~late], rewards[(prompts == 7) & late] = 0.0, 1.0
    table = prompt_changes(prompts, late, rewards)
    assert len(table) == 20
    first = table.iloc[0]
    assert (first["prompt"], first["early"], first["late"], first["change"]) == (7, 0, 1, 1)
    assert first["low"] > 0
    assert first["q"] < 0.001
    assert (table["low"] <= table["change"]).all()
    assert (table["change"] <= table["high"]).all()


def test_prompts_with_few_completions_and_equal_rewards_are_left_out() -> None:
    prompts, late = np.array([0] * 8 + [1] * 4), np.array([False, True] * 6)
    assert prompt_changes(prompts, late, np.arange(12.0))["prompt"].tolist() == [0]
    assert prompt_changes(prompts, late, np.ones(12)).empty
    assert prompt_changes(prompts, np.zeros(12, bool), np.arange(12.0)).empty
    assert prompt_changes(np.zeros(0, int), np.zeros(0, bool), np.zeros(0)).empty


@pytest.mark.parametrize("chance", [0.05, 0.5])
def test_prompts_that_did_not_change_are_rarely_called_changed(chance: float, rng: np.random.Generator) -> None:
    prompts, late = np.repeat(np.arange(2000), 16), np.tile(np.repeat([False, True], 8), 2000)
    table = prompt_changes(prompts, late, (rng.random(32_000) < chance).astype(float))
    assert ((table["low"] > 0) | (table["high"] < 0)).sum() <= 1  # a chance of 5 % of any
    assert (table["p"] < 0.05).mean() <= 0.06
    assert (table["q"] < 0.05).sum() <= 1


def test_correlation_within_groups_is_not_that_between_prompts(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(300), 8)
    difficulty = rng.normal(size=300)[groups]
    length = 100 + 50 * difficulty + 5 * rng.normal(size=2400)
    reward = -difficulty + 0.1 * rng.normal(size=2400)
    assert np.corrcoef(length, reward)[0, 1] < -0.9
    within = correlation_within(groups, groups, length, reward)
    assert within.low < 0 < within.high
    assert abs(within.value) < 0.06
    assert (within.groups, within.completions) == (300, 2400)
    x, y = within_groups(groups, length), within_groups(groups, reward)
    assert within.value == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_correlation_of_groups_that_do_not_vary_and_of_few_prompts() -> None:
    groups = np.repeat(np.arange(3), 4)
    assert correlation_within(groups, groups, np.arange(12.0), np.repeat([0.0, 1.0, 2.0], 4)).groups == 0
    few = correlation_within(groups, groups, np.tile(np.arange(4.0), 3), np.tile(np.arange(4.0), 3))
    assert few.value == pytest.approx(1.0)
    assert math.isnan(few.low)
    assert correlation_within(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0)).groups == 0
