"""The cross-play matrix, with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.games import cross_play

RATES = np.array([[0.0, 1.0, 0.5], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 1.0]])


def test_matrix_progress_and_forgetting() -> None:
    found = cross_play(RATES, [0, 0, 1, 1], [1, 2], ["early", "late"], ["base", "1", "2"])
    assert found.matrix.tolist() == [[0.25, 1.0, 0.25], [0.25, 0.25, 1.0]]
    assert found.tasks.tolist() == [2, 2]
    assert [estimate.value for estimate in found.progress] == [-0.75, 0]
    assert [estimate.value for estimate in found.forgetting] == [0.75, 0]
    assert [estimate.value for estimate in found.gain] == [0, 0.75]
    document = found.to_dict()
    assert document["phases"][0]["own"] == "1"
    assert document["phases"][1]["accuracy"][2]["value"] == 1.0


def test_intervals_hold_the_estimates_and_forgetting_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    rates = rng.integers(0, 9, (60, 4)) / 8
    found = cross_play(rates, [0] * 60, [0], ["all"], list("abcd"))
    assert (found.low <= found.matrix).all()
    assert (found.matrix <= found.high).all()
    estimate = found.forgetting[0]
    assert 0 <= estimate.low <= estimate.value <= estimate.high


def test_what_the_base_could_do_is_forgotten_too() -> None:
    rates = np.array([[1.0, 0.5, 0.5]] * 5)
    assert cross_play(rates, [0] * 5, [1], ["p"], ["base", "1", "2"]).forgetting[0].value == 0.5


def test_a_phase_without_tasks_has_no_numbers() -> None:
    found = cross_play(RATES, [0, 0, 0, 0], [1, 2], ["a", "b"], ["base", "1", "2"])
    assert np.isnan(found.matrix[1]).all()
    assert found.progress[1].count == 0


@pytest.mark.parametrize(
    ("rates", "phase_of", "own", "said"),
    [
        (RATES, [0, 0, 1], [1, 2], "expected"),
        (RATES + 1, [0, 0, 1, 1], [1, 2], "between 0 and 1"),
        (RATES, [0, 0, 1, 1], [1, 3], "out of range"),
        (RATES, [0, 0, 1, 2], [1, 2], "out of range"),
    ],
)
def test_bad_input_is_refused(rates: np.ndarray, phase_of: list[int], own: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cross_play(rates, phase_of, own, ["a", "b"], ["base", "1", "2"])
