"""TrueSkill ratings of players, and who plays whom (Herbrich, Minka and Graepel, NIPS 2006).

A player's skill is believed to be normal, N(mu, sigma^2); in a match its performance is its skill plus noise of standard deviation beta,
and the higher performance wins. The update after a match is computed by the package ``trueskillthroughtime``, which has this model; its
error function is accurate to about 1e-7. Between matches the belief widens by tau.

Here a teacher plays a student: the student wins if it solves a larger share of the teacher's valid tasks than its rating predicts, and
loses if it solves a smaller one. The predicted probability therefore follows the solve rate. One match says only more or less, not how
much: ratings need tens of matches, and those of two populations that never meet are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dynamics.extras import optional_import

#: TrueSkill's usual constants, and how many standard deviations below the mean a player is ranked
MU, SIGMA, BETA, TAU, CAUTION = 25.0, 25 / 3, 25 / 6, 25 / 300, 3.0


@dataclass(frozen=True)
class Rating:
    """Belief about a player's skill: mean and standard deviation."""

    mu: float = MU
    sigma: float = SIGMA

    @property
    def cautious(self) -> float:
        """``mu - 3 sigma``, by which players are ranked: unlikely to be above the skill, and low for those who have hardly played."""
        return self.mu - CAUTION * self.sigma

    def to_json(self) -> list[float]:
        """Return the two numbers, which JSON keeps to the bit."""
        return [self.mu, self.sigma]


def _spread(one: Rating, other: Rating) -> float:
    """Return the standard deviation of the difference of performances."""
    return math.sqrt(2 * BETA**2 + one.sigma**2 + other.sigma**2)


def win_probability(one: Rating, other: Rating) -> float:
    """Compute the probability that ``one`` beats ``other``: Phi((mu1 - mu2) / sqrt(2 beta^2 + sigma1^2 + sigma2^2))."""
    return NormalDist().cdf((one.mu - other.mu) / _spread(one, other))


def match_quality(one: Rating, other: Rating) -> float:
    """Compute the probability of a draw relative to that of equal players of known skill: 1 for those, towards 0 for a sure outcome."""
    spread = _spread(one, other)
    return math.sqrt(2) * BETA / spread * math.exp(-((one.mu - other.mu) ** 2) / (2 * spread**2))


def rate(winner: Rating, loser: Rating) -> tuple[Rating, Rating]:
    """Update the ratings of both after a match, in the order given; InputError if the package is not installed."""
    with optional_import("rating players"):
        import trueskillthroughtime as package
    sides = [[package.Player(package.Gaussian(rating.mu, math.sqrt(rating.sigma**2 + TAU**2)), BETA, 0.0)] for rating in (winner, loser)]
    (won,), (lost,) = package.Game(sides, [1, 0]).posteriors()
    return Rating(won.mu, won.sigma), Rating(lost.mu, lost.sigma)


def after_match(teacher: Rating, student: Rating, solve_rate: float) -> tuple[Rating, Rating]:
    """Update a teacher and a student from the share of valid tasks that was solved, against the predicted one; equal shares say nothing."""
    expected = win_probability(student, teacher)
    if solve_rate > expected:
        won, lost = rate(student, teacher)
        return lost, won
    return rate(teacher, student) if solve_rate < expected else (teacher, student)


def pairs(
    teachers: Mapping[str, Rating], students: Mapping[str, Rating], rng: np.random.Generator, uniform: bool = False
) -> list[tuple[str, str]]:
    """Draw pairs so that each player of the larger population plays once, and those of the smaller equally often but for one match.

    Pairs are drawn one after the other among those who have still to play, with probability in proportion to p (1 - p), where p is the
    probability that the student wins: even matches are most likely, none is impossible. ``uniform`` draws all with the same probability.

    Returns
    -------
    Names of teacher and student of each match.
    """
    drawn: list[tuple[str, str]] = []
    free = [list(teachers), list(students)]
    for _ in range(max(len(teachers), len(students))):
        for waiting, everyone in zip(free, (teachers, students), strict=True):
            if not waiting:
                waiting.extend(everyone)
        options = [(teacher, student) for teacher in free[0] for student in free[1]]
        chances = [win_probability(students[student], teachers[teacher]) for teacher, student in options]
        weights = np.ones(len(options)) if uniform else np.array([max(chance * (1 - chance), 1e-12) for chance in chances])
        bounds = np.cumsum(weights)
        pair = options[min(int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right")), len(options) - 1)]
        for waiting, name in zip(free, pair, strict=True):
            waiting.remove(name)
        drawn.append(pair)
    return drawn


def ranked(ratings: Mapping[str, Rating]) -> list[str]:
    """List players from the best cautious rating to the worst; equal ones in their order."""
    return sorted(ratings, key=lambda name: -ratings[name].cautious)


def from_json(kept: Mapping[str, Sequence[float]]) -> dict[str, Rating]:
    """Restore ratings by name from their numbers."""
    return {name: Rating(*map(float, numbers)) for name, numbers in kept.items()}
