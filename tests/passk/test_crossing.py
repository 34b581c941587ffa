"""A crossing is detected if and only if two curves cross."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dynamics.passk.comparison import compare, crossing_text, curve
from dynamics.passk.crossing import crossing, crossing_ks
from dynamics.passk.estimators import curves


def beta_curves(a, b, problems=400, n=256, seed=0):
    """Compute noise-free curves: problems at the quantiles of a Beta distribution, with expected numbers of correct samples."""
    from scipy.stats import beta

    p = beta.ppf((np.arange(problems) + 0.5) / problems, a, b)
    return np.round(p * n).astype(int)


def test_a_crossing_is_found_where_it_is():
    n = 256
    wide, sharp = beta_curves(0.5, 1.5), beta_curves(0.12, 0.2)  # the second is better at first, the first at large k
    ks = crossing_ks(n)
    first, second = curves(np.full(400, n), wide, ks), curves(np.full(400, n), sharp, ks)
    crossed = crossing(ks, first, second)
    gap = (second - first).mean(axis=0)
    expected = int(ks[np.flatnonzero(gap < 0)[0]])
    assert crossed is not None
    assert (crossed.leader, crossed.k) == (1, expected)
    assert crossed.low is not None
    assert crossed.high is not None
    assert crossed.low <= expected <= crossed.high
    assert crossed.none == 0
    mirrored = crossing(ks, second, first)
    assert mirrored is not None
    assert (mirrored.leader, mirrored.k) == (0, expected)
    assert (mirrored.low, mirrored.high) == (crossed.low, crossed.high)


def test_no_crossing():
    ks = crossing_ks(64)
    first = curves(np.full(300, 64), beta_curves(1, 2, 300, 64), ks)
    crossed = crossing(ks, first, curves(np.full(300, 64), beta_curves(2, 1, 300, 64), ks))
    assert crossed is not None
    assert crossed.k is None
    assert crossed.high is None
    assert crossed.none > 0.9
    assert crossing(ks, first, first) is None


def test_where_crossings_are_looked_for():
    assert list(crossing_ks(5)) == [1, 2, 3, 4, 5]
    far = crossing_ks(10_000)
    assert far[0] == 1
    assert far[-1] == 10_000
    assert (far[1:] / far[:-1])[130:].max() < 1.03
    assert len(far) < 400


def compared(first: tuple[int, ...], second: tuple[int, ...], problems: int, ks: list[int] | None = None) -> str:
    """Compare two models of 16 samples a problem, whose numbers of correct samples repeat; return the sentence on their order."""
    tables = [pd.DataFrame({"problem": range(problems), "n": 16, "c": np.resize(c, problems)}) for c in (first, second)]
    one, other = (curve(table, name, ks, replicates=500) for table, name in zip(tables, ("one", "other"), strict=True))
    return crossing_text(compare(one, other, ks, replicates=500), 0.95)


def test_a_difference_is_claimed_only_where_its_interval_leaves_out_0():
    assert compared((4,), (4,), 20) == "other and one are equal at every k"
    assert compared((4, 5, 3), (4, 4, 4), 8).startswith("inconclusive which of one and other is ahead: at every k the 95% interval holds 0")
    assert compared((3, 2, 4), (0, 0, 1), 200).startswith("other stays behind one up to k = 16 (no crossing up to 16 in 100 %")
    assert "overtakes one at k* = " in compared((16, 0, 0), (2, 3, 4), 200)
    assert compared((16, 0, 0), (2, 3, 4), 200, [1]).startswith(
        "one is ahead of other at k = 1; inconclusive whether the curves cross: k* = "
    )
    assert compared((16, 0, 0), (2, 3, 4), 200, [8]).startswith(
        "other is ahead of one at k = 8; inconclusive whether the curves cross: k* = "
    )
