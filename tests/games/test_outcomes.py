"""Learnable information, robustness against hints and critics' tables, with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.games import CriticScore, Estimate, critic_score, learnable_information, over_learners, robustness_gap, rounds


def test_learnable_information_is_the_area_above_the_final_loss() -> None:
    found = learnable_information([3.0, 2.0, 1.0, 1.0], [10, 10, 10, 10], tail=0.5)
    assert (found.final, found.tokens) == (1.0, 40)
    assert found.nats == 10 * 2 + 10 * 1
    uneven = learnable_information([2.0, 1.0], [30, 10], tail=0.25)
    assert (uneven.final, uneven.nats) == (1.0, 30.0)


def test_noise_without_learning_has_none_and_the_level_does_not_matter() -> None:
    assert learnable_information([2.5] * 10, [7] * 10).nats == pytest.approx(0)
    curve = np.array([3.0, 2.0, 1.5, 1.4, 1.4])
    assert learnable_information(curve, [5] * 5).nats == pytest.approx(learnable_information(curve + 4, [5] * 5).nats)


def test_learners_of_several_seeds_are_averaged() -> None:
    found = over_learners([learnable_information([start, 1.0], [1, 1], 0.5) for start in (2.0, 3.0, 4.0)])
    assert (found.value, found.count) == (2.0, 3)
    assert found.high - found.value == pytest.approx(4.302653 * 1 / math.sqrt(3), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "tokens", "tail", "said"),
    [
        ([1.0], [1], 0.2, "at least 2"),
        ([1.0, math.nan], [1, 1], 0.2, "finite"),
        ([1.0, 1.0], [1, 0], 0.2, "tokens"),
        ([1.0, 2.0], [1, 1], 1.0, "tail"),
    ],
)
def test_curves_that_say_nothing_are_refused(losses: list[float], tokens: list[int], tail: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        learnable_information(losses, tokens, tail)


def test_robustness_gap_is_paired_by_problem() -> None:
    found = robustness_gap([1.0, 0.5, 0.5], [[0.5, 0.0], [0.5, math.nan], [math.nan, math.nan]])
    assert (found.clean.value, found.clean.count) == (pytest.approx(2 / 3), 3)
    assert (found.hinted.value, found.hinted.count) == (0.375, 2)
    assert (found.gap.value, found.gap.count) == (0.375, 2)
    with pytest.raises(InputError, match="expected"):
        robustness_gap([1.0, 0.5], [0.5])


def test_critic_recalls_and_harmonic_mean() -> None:
    found = critic_score([True, True, True, True, False, False], [True, True, True, None, False, True])
    assert (found.right.value, found.right.count) == (0.75, 4)
    assert (found.wrong.value, found.wrong.count) == (0.5, 2)
    assert found.harmonic.value == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert found.harmonic.low <= found.harmonic.value <= found.harmonic.high
    assert found.to_dict()["wrong"]["count"] == 2


def test_a_critic_that_always_says_the_same_has_none() -> None:
    assert critic_score([True, False], [True, True]).harmonic.value == 0
    assert math.isnan(critic_score([True, True], [True, True]).harmonic.value)


def test_the_interval_of_the_harmonic_mean_covers() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(150):
        truth = np.repeat([True, False], 60)
        said = np.where(rng.random(120) < np.where(truth, 0.8, 0.6), truth, ~truth)
        score = critic_score(truth.tolist(), said.tolist(), replicates=400)
        covered += score.harmonic.low <= 2 * 0.8 * 0.6 / 1.4 <= score.harmonic.high
    assert covered / 150 > 0.9


def test_rounds_make_a_matrix() -> None:
    def score(value: float) -> CriticScore:
        estimate = Estimate(value, value, value, 1)
        return CriticScore(estimate, estimate, estimate)

    assert rounds([[score(0.1), score(0.2)], [score(0.3), score(0.4)]]).tolist() == [[0.1, 0.2], [0.3, 0.4]]
    with pytest.raises(InputError, match="different lengths"):
        rounds([[score(0.1)], [score(0.1), score(0.2)]])
