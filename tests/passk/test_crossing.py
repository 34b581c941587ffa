"""A crossing is detected if and only if two curves cross."""

from __future__ import annotations

import numpy as np

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
