"""Rewards of opponents by hand-computed cases, and what they are worth where rates are estimates."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.train.opponent_rewards import REWARDS, expected

CLEAN = np.array([0.5, 0.5, 0.25, 0.0, 1.0])
OPPOSED = np.array([0.25, 0.5, 0.75, 0.0, 0.0])
VALUES = {"indicator": [1, 0, 0, 0, 1], "drop": [0.25, 0, -0.5, 0, 1], "deceives": [0.5, 0, -0.5, 1, 1]}


@pytest.mark.parametrize("name", REWARDS)
def test_rewards(name: str) -> None:
    np.testing.assert_allclose(REWARDS[name].function(CLEAN, OPPOSED), VALUES[name])


def test_expectations_are_those_of_the_binomial_estimates() -> None:
    np.testing.assert_allclose(expected("drop", CLEAN, OPPOSED, 4), CLEAN - OPPOSED, atol=1e-12)
    np.testing.assert_allclose(expected("deceives", 0.3, OPPOSED, 4), 1 - 2 * OPPOSED, atol=1e-12)
    assert expected("indicator", 0.5, 0.5, 1) == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    clean, opposed = (rng.binomial(4, share, 200_000) for share in (0.6, 0.4))
    assert expected("indicator", 0.6, 0.4, 4) == pytest.approx((opposed < clean).mean(), abs=5e-3)


def test_a_hint_without_effect_earns_something_by_the_indicator_only() -> None:
    assert expected("indicator", 0.5, 0.5, 32) > 0.42
    assert expected("indicator", [0.0, 1.0], [0.0, 1.0], 8).tolist() == [0, 0]
    assert expected("drop", 0.5, 0.5, 32) == pytest.approx(0, abs=1e-12)
