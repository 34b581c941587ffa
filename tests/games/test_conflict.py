"""Angles and shares of gradients, with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.games import cosine, norm, norm_ratio, shares

FIRST = {"a": np.array([[3.0, 0.0]]), "b": np.array([4.0])}
SECOND = {"a": np.array([[0.0, 5.0]]), "b": np.array([0.0])}


def test_cosine_and_ratio() -> None:
    assert norm(FIRST) == 5
    assert cosine(FIRST, SECOND) == 0
    assert cosine(FIRST, FIRST) == 1
    assert cosine(FIRST, {name: -values for name, values in FIRST.items()}) == -1
    assert norm_ratio(FIRST, {"a": np.zeros((1, 2)), "b": np.array([2.0])}) == 2.5
    nothing = {name: 0 * values for name, values in FIRST.items()}
    assert math.isnan(cosine(FIRST, nothing))
    assert math.isnan(norm_ratio(FIRST, nothing))


def test_shares_sum_to_one_and_can_be_negative() -> None:
    assert shares({"first": FIRST, "second": SECOND}) == {"first": 0.5, "second": 0.5}
    pulled = shares({"first": {"a": np.array([3.0])}, "invalid": {"a": np.array([-1.0])}})
    assert pulled == {"first": 1.5, "invalid": -0.5}
    assert all(math.isnan(value) for value in shares({"first": {"a": np.array([1.0])}, "second": {"a": np.array([-1.0])}}).values())


def test_gradients_of_torch_are_read() -> None:
    torch = pytest.importorskip("torch")
    assert cosine({"a": torch.tensor([1.0, 0.0])}, {"a": torch.tensor([1.0, 1.0])}) == pytest.approx(math.sqrt(0.5))


def test_gradients_of_two_models_are_refused() -> None:
    with pytest.raises(InputError, match="different parameters"):
        cosine(FIRST, {"a": FIRST["a"]})
