"""The death-spiral indicator: slopes against scipy, alarms on made series, and how often noise gives one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress

from dynamics.errors import InputError
from dynamics.games import death_spiral

STEPS = np.arange(1, 61)


def test_slopes_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    series = rng.normal(size=(3, 30))
    found = death_spiral(np.arange(30), *series, window=10)
    for start in (0, 20):
        fit = linregress(np.arange(10), series[0, start : start + 10])
        assert found.entropy[start] == pytest.approx(fit.slope / fit.stderr)
    assert found.steps.tolist() == list(range(9, 30))


def test_a_spiral_is_found_and_no_single_trend_is_one() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.02, (3, 60))
    ramp = np.clip((STEPS - 30) / 30, 0, 1)
    entropy, valid, reward = 1 + ramp + noise[0], 0.9 - 0.5 * ramp + noise[1], 0.5 + 0.4 * ramp + noise[2]
    found = death_spiral(STEPS, entropy, valid, reward)
    assert found.alarms[-1]
    assert not found.alarms[:5].any()
    document = found.to_dict()
    assert document["alarms"][-1] == 60
    assert document["strongest"]["strength"] > 2
    for broken in ((entropy[::-1], valid, reward), (entropy, valid[::-1], reward), (entropy, valid, reward[::-1])):
        assert not death_spiral(STEPS, *broken).alarms.any()


def test_noise_seldom_alarms() -> None:
    rng = np.random.default_rng(3)
    alarms = [death_spiral(np.arange(20), *rng.normal(size=(3, 20))).alarms[0] for _ in range(2000)]
    assert np.mean(alarms) < 0.002


def test_missing_values_and_constant_series() -> None:
    gaps = np.where(STEPS % 3, np.nan, 1.0 + STEPS)
    found = death_spiral(STEPS, gaps, -STEPS, STEPS)
    assert np.isnan(found.strength).all()
    assert found.to_dict()["strongest"] is None
    flat = death_spiral(STEPS, np.ones(60), -STEPS, STEPS)
    assert (flat.strength == 0).all()
    line = death_spiral(STEPS, STEPS, -STEPS, STEPS)
    assert line.alarms.all()


@pytest.mark.parametrize(
    ("steps", "window", "said"), [(STEPS, 3, "at least 4"), (STEPS[::-1], 20, "increasing"), (STEPS[:-1], 20, "one length")]
)
def test_bad_input_is_refused(steps: np.ndarray, window: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        death_spiral(steps, STEPS, STEPS, STEPS, window=window)
