"""Support measures: which problems a tuned model kept, gained and lost against its base (arXiv 2507.14843).

With b the problems that the base solved in any sample and r those that the tuned model solved:

    SRR    support retention rate    |b and r| / |b|
    NDR    net discovery rate        |r without b| / |r|
    SDS    support dynamic score     harmonic mean of SRR and NDR
    NSCR   net support change rate   (|r without b| - |b without r|) / |b or r|

The paper's denominators were taken from notes on its text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dynamics.bootstrap import LEVEL, percentile_interval, resampled_counts
from dynamics.errors import InputError

REPLICATES = 2000
#: short names, in the order of the module's table
NAMES = ("srr", "ndr", "sds", "nscr")


@dataclass(frozen=True)
class Support:
    """The four measures with their intervals, each (value, low, high); NaN where the denominator is 0."""

    srr: tuple[float, float, float]
    ndr: tuple[float, float, float]
    sds: tuple[float, float, float]
    nscr: tuple[float, float, float]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Build the JSON object."""
        return {name: dict(zip(("value", "low", "high"), getattr(self, name), strict=True)) for name in NAMES}


def support(both: int, only_base: int, only_tuned: int, neither: int, level: float = LEVEL, seed: int = 0) -> Support:
    """Compute the support measures from numbers of problems.

    Parameters
    ----------
    both, only_base, only_tuned, neither : problems with a correct sample, by who has one.
    level, seed : of the intervals, which resample the problems.

    Raises
    ------
    InputError : a negative number, or no problems.

    Notes
    -----
    "Solved" means in n samples, the same n for both models. A problem with a small chance is solved by luck by one of two equal models,
    which counts as gained or lost: two samplings of the base have an NDR above 0 and an SRR below 1, so compare with those. A percentile
    interval of few problems is too narrow, and has no width where a cell is empty.
    """
    numbers = np.array([both, only_base, only_tuned, neither], np.int64)
    if (numbers < 0).any() or not numbers.sum():
        raise InputError(
            f"{numbers.tolist()}: expected numbers of problems solved by both, the base only, the tuned model only and neither"
        )
    values = _measures(numbers[None])[0]
    drawn = _measures(resampled_counts(numbers, REPLICATES, np.random.default_rng([seed, *numbers.tolist()])))
    ends = []
    for column, value in enumerate(values):
        known = drawn[:, column][~np.isnan(drawn[:, column])]
        low, high = percentile_interval(known, (1 - level) / 2) if len(known) and not math.isnan(value) else (math.nan, math.nan)
        ends.append((float(value), float(low), float(high)))
    return Support(*ends)


def _measures(counts: Int[np.ndarray, "replicates 4"]) -> Float[np.ndarray, "replicates 4"]:
    both, lost, gained = (counts[:, column].astype(float) for column in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        srr, ndr = both / (both + lost), gained / (both + gained)
        sds = np.where(srr + ndr > 0, 2 * srr * ndr / (srr + ndr), np.where(np.isnan(srr + ndr), np.nan, 0.0))
        return np.stack([srr, ndr, sds, (gained - lost) / (both + lost + gained)], axis=1)
