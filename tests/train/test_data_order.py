"""The order of problems, and the random streams."""

from __future__ import annotations

from dynamics.train import data_order
from dynamics.train.rng import stream


def test_every_problem_comes_before_any_comes_again() -> None:
    seen = [index for step in range(1, 8) for index in data_order.chosen(0, step, 3, 7)]
    for start in range(0, 21, 7):
        assert sorted(seen[start : start + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_streams_depend_on_their_place_alone() -> None:
    assert stream(0, "a", 1, 2).random() == stream(0, "a", 1, 2).random()
    values = {stream(seed, name, index).random() for seed in (0, 1) for name in ("a", "b") for index in (0, 1)}
    assert len(values) == 8
