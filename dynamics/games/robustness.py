"""Robustness against misleading hints, and the outcome table of a critic.

The games Seirenes (arXiv 2605.11636) and SPC (arXiv 2504.19162) are judged by these; forms that their papers do not fix are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynamics.bootstrap import LEVEL
from dynamics.errors import InputError
from dynamics.games.intervals import REPLICATES, Estimate, difference, share


@dataclass(frozen=True)
class Robustness:
    """Accuracy without and with hints on the same problems.

    Attributes
    ----------
    clean, hinted : mean accuracy.
    gap : clean - hinted, paired by problem; 0 for a solver that ignores hints, negative where hints help.
    """

    clean: Estimate
    hinted: Estimate
    gap: Estimate


def robustness_gap(clean: ArrayLike, hinted: ArrayLike, level: float = LEVEL) -> Robustness:
    """Compute p_clean - p_hinted on fixed hints.

    Parameters
    ----------
    clean : (problems,) share of right answers to each problem without a hint.
    hinted : (problems,) or (problems, hints) the same with each of its hints; NaN for a hint that is missing.

    Notes
    -----
    The hints must be the same for the models compared: an adversary that was trained along gives every model hints of another strength.
    A solver with p_clean near 0 has no room for a gap, and one that has lost accuracy everywhere looks robust: read ``clean`` beside it.
    """
    plain, misled = np.asarray(clean, float), np.asarray(hinted, float)
    if misled.ndim == 2:
        known = ~np.isnan(misled)
        counts = known.sum(axis=1)
        misled = np.where(counts, np.where(known, misled, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)
    if plain.shape != misled.shape or plain.ndim != 1:
        raise InputError(f"clean of shape {plain.shape} and hinted of shape {misled.shape}: expected (problems,) and (problems, hints)")
    return Robustness(share(plain, level), share(misled, level), difference(misled, plain, level))


@dataclass(frozen=True)
class CriticScore:
    """How well a critic tells right steps from wrong ones.

    Attributes
    ----------
    wrong : share of wrong steps that it calls wrong.
    right : share of right steps that it calls right.
    harmonic : 2 wrong right / (wrong + right), 0 if both are 0; ProcessBench calls it F1. It is 0 for a critic that always says the same.
        Its interval draws the two recalls anew from binomials (parametric bootstrap).
    """

    wrong: Estimate
    right: Estimate
    harmonic: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {"wrong": self.wrong.to_dict(), "right": self.right.to_dict(), "harmonic": self.harmonic.to_dict()}


def critic_score(
    truth: Sequence[bool], said: Sequence[bool | None], level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0
) -> CriticScore:
    """Score a critic.

    Parameters
    ----------
    truth : (steps,) whether each step is right.
    said : (steps,) whether the critic calls it right; None for no verdict, which is a wrong one.

    Notes
    -----
    One that says "right" with probability q whatever the step has harmonic mean 2 q (1 - q), at most 0.5. The recalls do not depend on how
    many steps are wrong; precision would. Sneaky steps of one round are not those of another: compare along a row of ``rounds``.
    """
    if len(truth) != len(said):
        raise InputError(f"{len(truth)} steps but {len(said)} verdicts: expected one of each per step")
    right = np.array(truth, bool)
    hit = np.array([verdict is not None and bool(verdict) == bool(fact) for verdict, fact in zip(said, truth, strict=True)], float)
    of_wrong, of_right = (share(hit[right == kind], level, replicates, seed) for kind in (False, True))
    recalls = (of_wrong, of_right)
    if not all(recall.count for recall in recalls):
        return CriticScore(of_wrong, of_right, Estimate(math.nan, math.nan, math.nan, len(hit)))
    rng = np.random.default_rng([seed, len(hit)])
    drawn = [rng.binomial(each.count, (each.value * each.count + 0.5) / (each.count + 1), replicates) / each.count for each in recalls]
    low, high = np.quantile(_harmonic(*drawn), [(1 - level) / 2, (1 + level) / 2])
    value = float(_harmonic(np.array(recalls[0].value), np.array(recalls[1].value)))
    return CriticScore(of_wrong, of_right, Estimate(value, min(float(low), value), max(float(high), value), len(hit)))


def rounds(scores: Sequence[Sequence[CriticScore]]) -> Float[np.ndarray, "generators critics"]:
    """Arrange harmonic means as a matrix: the critic of each round (columns) on the sneaky steps of each round (rows).

    Raises
    ------
    InputError : rows of different lengths.
    """
    if len({len(row) for row in scores}) > 1:
        raise InputError("every round of sneaky steps needs a score of every critic: rows have different lengths")
    return np.array([[score.harmonic.value for score in row] for row in scores], float).reshape(len(scores), -1)


def _harmonic(first: Any, second: Any) -> Any:
    total = first + second
    return np.where(total > 0, 2 * first * second / np.where(total > 0, total, 1), 0.0)
