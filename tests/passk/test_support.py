"""Support measures and Cover@tau, with values computed by hand and by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.passk import cover_at_tau, g_pass_at_k, support


def test_measures_are_those_of_sets() -> None:
    base, tuned = set(range(8)), set(range(2, 12))
    found = support(len(base & tuned), len(base - tuned), len(tuned - base), 4)
    assert found.srr[0] == len(base & tuned) / len(base) == 6 / 8
    assert found.ndr[0] == len(tuned - base) / len(tuned) == 4 / 10
    assert found.sds[0] == pytest.approx(2 * 0.75 * 0.4 / 1.15)
    assert found.nscr[0] == pytest.approx((4 - 2) / 12)
    for value, low, high in (found.srr, found.ndr, found.sds, found.nscr):
        assert low <= value <= high
    assert found.to_dict()["nscr"]["value"] == found.nscr[0]


def test_measures_without_a_denominator_are_not_numbers() -> None:
    found = support(0, 0, 3, 5)
    assert math.isnan(found.srr[0])
    assert (found.ndr[0], found.nscr[0]) == (1, 1)
    assert math.isnan(found.sds[0])
    nothing = support(0, 3, 3, 0)
    assert nothing.sds[0] == 0
    with pytest.raises(InputError, match="numbers of problems"):
        support(0, 0, 0, 0)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(7)
    shares = [0.4, 0.2, 0.1, 0.3]
    covered = []
    for number in range(150):
        found = support(*rng.multinomial(200, shares).tolist(), seed=number)
        covered.append(found.srr[1] <= 0.4 / 0.6 <= found.srr[2])
    assert np.mean(covered) > 0.89


def test_cover_reads_tau_by_its_decimals() -> None:
    assert cover_at_tau([10, 10, 0], [3, 2, 0], 0.3).tolist()[:2] == [1.0, 0.0]
    assert math.isnan(cover_at_tau(0, 0, 0.3))
    assert cover_at_tau(10, 10, 1.0) == 1.0
    assert cover_at_tau(30, 3, 0.1) == g_pass_at_k(30, 3, 30, 0.1) == 1.0
    with pytest.raises(InputError, match="tau"):
        cover_at_tau(4, 2, 0)
