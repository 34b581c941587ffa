"""Rewards of players that oppose a solver otherwise than by proposing tasks: adversaries of Seirênes, generator and critic of SPC.

They are functions of how often the opposed player is right; ``expected`` says what they are worth on average where that is estimated from
few samples. ``proposer_rewards`` has the rewards of those who propose tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Rates = Float[np.ndarray, " ..."]


@dataclass(frozen=True)
class OpponentReward:
    """A reward with its formula and source.

    Attributes
    ----------
    function : maps the share of right answers without and with what the opponent did, of any shape, to rewards.
    formula : in p, the share without, and q, the share with it.
    source : publication or code.
    """

    function: Callable[[Rates, Rates], Rates]
    formula: str
    source: str


def indicator(clean: Rates, opposed: Rates) -> Rates:
    """Give 1 where fewer answers are right under the hint than without it, else 0.

    A hint without any effect earns something by chance: near 1/2 for a problem that is neither solved nor missed always.
    """
    return (opposed < clean).astype(float)


def drop(clean: Rates, opposed: Rates) -> Rates:
    """Give the share of right answers without the hint minus that under it; 0 on average for a hint without any effect."""
    return clean - opposed


def deceives(clean: Rates, opposed: Rates) -> Rates:
    """Give 1 if the critic takes the wrong step for right, and -1 if it does not; averaged over verdicts, 1 - 2 q.

    The critic earns the negative on wrong steps, and the same on right ones. What it would say without the opponent does not matter.
    """
    del clean
    return 1 - 2 * opposed


REWARDS: dict[str, OpponentReward] = {
    "indicator": OpponentReward(indicator, "1 if q < p, else 0", "Seirênes (arXiv 2605.11636), by notes"),
    "drop": OpponentReward(drop, "p - q", "Seirênes, by its public description"),
    "deceives": OpponentReward(deceives, "1 - 2q", "SPC (arXiv 2504.19162)"),
}


def expected(name: str, p: ArrayLike, q: ArrayLike, samples: int) -> Float[np.ndarray, " ..."]:
    """Compute the expected reward for true shares p and q, each estimated from ``samples`` answers.

    Parameters
    ----------
    name : key of ``REWARDS``.
    p, q : true shares of right answers without and with what the opponent did, of shapes that broadcast.
    samples : number of answers of each estimate.
    """
    counts = np.arange(samples + 1)
    ways = np.array([math.comb(samples, int(count)) for count in counts], float)

    def chances(share: ArrayLike) -> Float[np.ndarray, "... counts"]:
        of = np.asarray(share, float)[..., None]
        return np.asarray(ways * of**counts * (1 - of) ** (samples - counts))

    clean, opposed = np.meshgrid(counts / samples, counts / samples, indexing="ij")
    return np.asarray(np.einsum("...i,...j,ij->...", chances(p), chances(q), REWARDS[name].function(clean, opposed)))
