"""Ratings against the closed form of TrueSkill for two players, pairing, and state."""

from __future__ import annotations

import builtins
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm

from dynamics import InputError
from dynamics.io.json import decode, encode
from dynamics.train.games import ratings
from dynamics.train.games.ratings import BETA, TAU, Rating, after_match, match_quality, pairs, ranked, rate, win_probability


def closed_form(winner: Rating, loser: Rating) -> tuple[Rating, Rating]:
    """Update by equations 6 to 9 of the paper, without draws."""
    a, b = winner.sigma**2 + TAU**2, loser.sigma**2 + TAU**2
    c = math.sqrt(2 * BETA**2 + a + b)
    t = (winner.mu - loser.mu) / c
    v = math.exp(norm.logpdf(t) - norm.logcdf(t))
    w = v * (v + t)
    return (
        Rating(winner.mu + a / c * v, math.sqrt(a * (1 - a / c**2 * w))),
        Rating(loser.mu - b / c * v, math.sqrt(b * (1 - b / c**2 * w))),
    )


@pytest.mark.parametrize(("one", "two"), [((25, 25 / 3), (25, 25 / 3)), ((30, 2), (20, 5)), ((20, 1), (32, 1)), ((10, 3), (60, 0.5))])
def test_an_update_is_that_of_trueskill(one, two) -> None:
    pytest.importorskip("trueskillthroughtime")
    for made, expected in zip(rate(Rating(*one), Rating(*two)), closed_form(Rating(*one), Rating(*two)), strict=True):
        assert made.mu == pytest.approx(expected.mu, abs=1e-4)
        assert made.sigma == pytest.approx(expected.sigma, abs=1e-4)


def test_predictions_follow_the_solve_rate() -> None:
    pytest.importorskip("trueskillthroughtime")
    teacher, student = Rating(), Rating()
    seen = []
    for _ in range(300):
        seen.append(win_probability(student, teacher))
        teacher, student = after_match(teacher, student, 0.8)
    assert seen[0] == 0.5
    assert np.mean(seen[-100:]) == pytest.approx(0.8, abs=0.05)
    assert after_match(Rating(), Rating(), 0.5) == (Rating(), Rating())


def test_probabilities_and_quality() -> None:
    even, strong = Rating(25, 1), Rating(35, 1)
    assert win_probability(even, even) == 0.5
    assert win_probability(strong, even) + win_probability(even, strong) == pytest.approx(1)
    assert win_probability(strong, even) == pytest.approx(norm.cdf(10 / math.sqrt(2 * BETA**2 + 2)))
    assert match_quality(Rating(25, 0), Rating(25, 0)) == pytest.approx(1)
    assert match_quality(even, strong) < match_quality(even, Rating(26, 1)) < 1
    assert match_quality(Rating(), Rating()) == pytest.approx(0.4472, abs=1e-4)  # the value that TrueSkill's calculators give


def test_everybody_plays() -> None:
    teachers = {f"teacher{number}": Rating() for number in range(4)}
    for count in (1, 3, 4, 6):
        students = {f"student{number}": Rating() for number in range(count)}
        drawn = pairs(teachers, students, np.random.default_rng(0))
        assert len(drawn) == max(4, count)
        for place, everyone in ((0, teachers), (1, students)):
            played = Counter(pair[place] for pair in drawn)
            assert set(played) == set(everyone)
            assert max(played.values()) - min(played.values()) <= 1


def test_even_matches_are_likelier() -> None:
    teachers, students = {"weak": Rating(10, 1), "strong": Rating(40, 1)}, {"low": Rating(10, 1), "high": Rating(40, 1)}
    even = {("weak", "low"), ("strong", "high")}
    counts = {
        uniform: sum(set(pairs(teachers, students, np.random.default_rng(seed), uniform)) == even for seed in range(200))
        for uniform in (False, True)
    }
    assert counts[False] == 200
    assert 70 < counts[True] < 130
    assert pairs(teachers, students, np.random.default_rng(1)) == pairs(teachers, students, np.random.default_rng(1))
    assert len(pairs({"sure": Rating(1e6, 1)}, students, np.random.default_rng(0))) == 2


def test_ranking_is_cautious_and_state_is_exact() -> None:
    pytest.importorskip("trueskillthroughtime")
    assert ranked({"new": Rating(30, 8), "known": Rating(26, 1), "same": Rating(26, 1)}) == ["known", "same", "new"]
    made = dict(zip("ab", rate(*rate(Rating(), Rating(27, 3))), strict=True))
    kept = decode(encode({name: rating.to_json() for name, rating in made.items()}))
    assert ratings.from_json(kept) == made


def test_the_package_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name, *more):
        if name == "trueskillthroughtime":
            raise ModuleNotFoundError(name=name)
        return found(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"^rating players needs trueskillthroughtime: pip install 'training-dynamics\[games\]'"):
        rate(Rating(), Rating())
