"""Rank-1 dynamics on updates that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.spectra import rank_one


def test_a_line_in_one_direction() -> None:
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=5), rng.normal(size=7)
    direction = np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    found = rank_one(np.stack([step * direction for step in (1, 2, 5)]), [1, 2, 5])
    np.testing.assert_allclose(found.shares, 1)
    np.testing.assert_allclose(found.projections, [1, 2, 5])
    assert (found.slope, found.r2) == (pytest.approx(1), pytest.approx(1))


def test_shares_and_r2_of_diagonal_updates() -> None:
    updates = np.stack([np.diag([1.0, 2.0]), np.diag([4.0, 2.0]), np.diag([4.0, 3.0])])
    found = rank_one(updates, [0, 1, 2])
    np.testing.assert_allclose(found.shares, [4 / 5, 16 / 20, 16 / 25])
    np.testing.assert_allclose(found.projections, [1, 4, 4])
    assert found.slope == pytest.approx(1.5)
    assert found.r2 == pytest.approx(np.corrcoef([0, 1, 2], [1, 4, 4])[0, 1] ** 2)


def test_what_is_not_known() -> None:
    two = rank_one(np.stack([np.eye(2), 2 * np.eye(2)]), [1, 2])
    assert math.isnan(two.r2)
    assert math.isnan(rank_one(np.stack([np.zeros((2, 2)), np.eye(2)]), [1, 2]).shares[0])
    with pytest.raises(InputError, match="increasing"):
        rank_one(np.stack([np.eye(2), np.eye(2)]), [2, 1])
    with pytest.raises(InputError, match="expected"):
        rank_one(np.eye(2)[None], [1, 2])
