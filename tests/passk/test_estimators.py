"""Estimators against exact fractions, brute force and other implementations."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scorio.eval as scorio
from hypothesis import given
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.passk.estimators import auc_at_k, curves, g_pass_at_k, maj_at_k, mg_pass_at_k, pass_at_k, pass_hat_k


@st.composite
def draws(draw, largest=60):
    n = draw(st.integers(1, largest))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def chance(n, c, k, right):
    """Compute P(right(s)) for s correct samples among k drawn."""
    ways = sum(math.comb(c, s) * math.comb(n - c, k - s) for s in range(k + 1) if right(s))
    return Fraction(ways, math.comb(n, k))


def test_the_ends():
    assert [pass_at_k(6, 3, k) for k in (1, 2, 3, 4)] == [0.5, 0.8, 0.95, 1.0]
    assert [pass_hat_k(6, 3, k) for k in (1, 2, 3, 4)] == [0.5, 0.2, 0.05, 0.0]
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 1, 5) == 1.0
    assert pass_hat_k(5, 5, 5) == 1.0


@pytest.mark.parametrize("c", [0, 2, 4])
def test_beyond_n_nothing_is_known(c):
    for measure in (pass_at_k, pass_hat_k, mg_pass_at_k, auc_at_k):
        assert math.isnan(measure(4, c, 5))
    assert math.isnan(g_pass_at_k(4, c, 5, 0.5))
    assert math.isnan(maj_at_k("abab", [True] * 4, 5))
    assert math.isnan(pass_at_k(0, 0, 1))


@given(draws(largest=300))
def test_pass_at_k_and_pass_hat_k_are_the_fractions_rounded(drawn):
    n, c, k = drawn
    for value, exact in ((pass_at_k(n, c, k), 1 - Fraction(math.comb(n - c, k), math.comb(n, k))),
                         (pass_hat_k(n, c, k), Fraction(math.comb(c, k), math.comb(n, k)))):  # fmt: skip
        assert abs(Fraction(value) - exact) <= exact * Fraction(1, 10**15)


def none_of(n, c, k):
    """P(none of c marked ones among k drawn of n) = C(n - c, k) / C(n, k), exactly; by its symmetry in c and k over the smaller."""
    few, many = min(c, k), max(c, k)
    return Fraction(math.comb(n - many, few), math.comb(n, few))


@pytest.mark.parametrize("n", range(1, 9))
def test_the_short_fraction_is_the_long_one(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert none_of(n, c, k) == chance(n, c, k, lambda s: s == 0)


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [(10**6, 1, 1), (10**6, 3, 1000), (10**6, 500_000, 3), (10**6, 999_990, 20_000), (10**6, 20, 60_000), (10**6, 999_999, 999_999),
     (999_983, 5_000, 31), (10**5, 50_000, 200)],
)  # fmt: skip
def test_a_million_samples(n, c, k):
    missed, all_right = none_of(n, c, k), none_of(n, n - c, k)
    assert abs(Fraction(pass_at_k(n, c, k)) - (1 - missed)) <= (1 - missed) / 10**12
    assert abs(Fraction(pass_hat_k(n, c, k)) - all_right) <= all_right / 10**12


@given(draws(), st.integers(0, 10))
def test_g_pass_against_counting(drawn, tenths):
    n, c, k = drawn
    least = max(1, math.ceil(Fraction(tenths, 10) * k))
    assert g_pass_at_k(n, c, k, tenths / 10) == pytest.approx(float(chance(n, c, k, lambda s: s >= least)), abs=1e-13)


def test_tau_is_the_decimal_that_was_written():
    assert 0.1 * 3 * 10 > 3  # so that ceil would give 4
    assert g_pass_at_k(40, 10, 30, 0.1) == pytest.approx(float(chance(40, 10, 30, lambda s: s >= 3)), abs=1e-13)


@given(draws())
def test_mg_pass_is_the_integral(drawn):
    n, c, k = drawn
    steps = [Fraction(j, 2 * k) for j in range(k, 2 * k)]  # G-Pass is constant between multiples of 1 / k; halves for odd k
    area = sum(chance(n, c, k, lambda s, t=t: s >= math.ceil((t + Fraction(1, 4 * k)) * k)) * Fraction(1, 2 * k) for t in steps)
    assert mg_pass_at_k(n, c, k) == pytest.approx(2 * float(area), abs=1e-12)


def test_a_perfect_model_is_perfect():
    for k in range(1, 8):
        assert mg_pass_at_k(8, 8, k) == pytest.approx(1, abs=1e-14)
        assert auc_at_k(8, 8, k) == 1


def brute_majority(answers, correct, k):
    total, subsets = Fraction(0), 0
    for chosen in itertools.combinations(range(len(answers)), k):
        subsets += 1
        votes: dict = {}
        for index in chosen:
            if answers[index] is not None:
                votes[answers[index]] = votes.get(answers[index], 0) + 1
        tied = [answer for answer in votes if votes[answer] == max(votes.values())]
        for answer in tied:
            verdicts = [right for candidate, right in zip(answers, correct, strict=True) if candidate == answer]
            total += Fraction(sum(verdicts), len(verdicts) * len(tied))
    return total / subsets


@given(st.lists(st.tuples(st.sampled_from([None, "a", "b", "c", "d"]), st.booleans()), min_size=1, max_size=9), st.data())
def test_majority_against_every_subset(samples, data):
    answers, correct = zip(*samples, strict=True)
    k = data.draw(st.integers(1, len(samples)))
    assert maj_at_k(answers, correct, k) == pytest.approx(float(brute_majority(answers, correct, k)), abs=1e-12)


def test_majority_of_many_different_answers():
    """If all answers differ, the majority vote chooses uniformly among k, so maj@k equals avg@n for every k."""
    answers = list(range(400))
    for k in (1, 2, 100, 399, 400):
        assert maj_at_k(answers, [answer < 100 for answer in answers], k) == pytest.approx(0.25, abs=1e-9)


def test_silent_samples_have_no_vote():
    assert maj_at_k([None, None, "a"], [False, False, True], 3) == 1
    assert maj_at_k([None, None], [False, False], 1) == 0


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 12))
def test_scorio_agrees_where_n_is_one_number(correct, k):
    table = np.array([[1] * c + [0] * (12 - c) for c in correct])
    counts = np.array(correct)
    assert pass_at_k(12, counts, k).mean() == pytest.approx(scorio.pass_at_k(table, k), abs=1e-12)
    assert pass_hat_k(12, counts, k).mean() == pytest.approx(scorio.pass_hat_k(table, k), abs=1e-12)
    assert np.mean(auc_at_k(12, counts, k)) == pytest.approx(scorio.auc_at_k(table, k), abs=1e-12)
    if k % 2 == 0:  # the published sum is the integral for even k only
        assert mg_pass_at_k(12, counts, k).mean() == pytest.approx(scorio.mg_pass_at_k(table, k), abs=1e-12)


@given(st.lists(draws(), min_size=1, max_size=8))
def test_curves_are_the_points_together(problems):
    n, c = np.array([(n, c) for n, c, _ in problems]).T
    ks = [1, 2, 3, 7, 60]
    together = curves(n, c, ks)
    assert np.allclose(together, pass_at_k(n[:, None], c[:, None], ks), rtol=1e-15, equal_nan=True)
    assert np.allclose(curves(n, c, ks, "pass^k"), pass_hat_k(n[:, None], c[:, None], ks), rtol=1e-15, equal_nan=True)


def test_shapes():
    assert isinstance(pass_at_k(4, 2, 1), float)
    assert pass_at_k([4, 5], [2, 2], 1).shape == (2,)
    assert pass_at_k(np.array([[4], [5]]), 2, [1, 2, 3]).shape == (2, 3)
    assert auc_at_k(np.full((2, 3), 4), 1, 2).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 4, 1), "c=4 correct of n=3"),
        ((3, -1, 1), "c=-1"),
        ((-3, 0, 1), "n=-3"),
        ((3, 1, 0), "k=0"),
        ((3.5, 1, 1), "n=3.5"),
        ((3, math.nan, 1), "c=nan"),
        ((3, 1, "2"), "k=2"),
        (([3, 3], [1, 4], 1), "c=4 correct of n=3"),
    ],
)
def test_what_is_no_count_is_refused(arguments, message):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        pass_at_k(*arguments)
    assert message in str(caught.value)


def test_other_refusals():
    with pytest.raises(InputError, match="tau"):
        g_pass_at_k(3, 1, 1, 1.5)
    with pytest.raises(InputError, match="increasing"):
        curves([3], [1], [2, 1])
    with pytest.raises(InputError, match="verdicts"):
        maj_at_k(["a"], [True, False], 1)
