"""Verdicts on the findings of a paper, one at a time: effects over seeds, intervals, and no correction for the number of findings.

A study of our own fixes its claims in advance and judges them together: ``analyses.claims``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics.bootstrap import t_interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper and the measured effect.

    Attributes
    ----------
    finding : the claim.
    measured : the measured quantity.
    effect : mean over seeds.
    low, high : ends of the 95 % interval of the effect; NaN if there is none.
    seeds : number of seeds.
    by_seed : the effect of each seed.
    interval : the kind of interval.
    expected : sign of the effect according to the claim; 0 if the claim says there is no effect beyond ``margin``.
    margin : largest effect that counts as no effect.
    """

    finding: str
    measured: str
    effect: float
    low: float
    high: float
    seeds: int
    by_seed: str
    interval: str
    expected: int
    margin: float = 0.0

    @property
    def verdict(self) -> str:
        """Verdict from the interval: entirely on the expected side, entirely on the other, or neither (also without an interval)."""
        if not np.isfinite([self.low, self.high]).all():
            return OPEN
        if not self.expected:
            inside = -self.margin <= self.low and self.high <= self.margin
            return HOLDS if inside else FAILS if self.low > self.margin or self.high < -self.margin else OPEN
        lower, upper = sorted([self.low * self.expected, self.high * self.expected])
        return HOLDS if lower > 0 else FAILS if upper < 0 else OPEN


def check_claim(
    finding: str,
    measured: str,
    values: Sequence[float] | np.ndarray[Any, Any],
    expected: int,
    within_seeds: tuple[float, float, str] | None = None,
    margin: float = 0.0,
) -> Verdict:
    """Check a claim about an effect with a t interval over seeds.

    Parameters
    ----------
    finding, measured : the claim, and the measured quantity.
    values : effect of each seed; values that are not finite are ignored.
    expected : sign of the effect according to the claim; 0 for no effect.
    within_seeds : ends and kind of an interval over the problems or tasks of all seeds. Few seeds can agree by chance, so the interval is
        the hull of both. With a single seed only this interval is used, and the verdict is about that run rather than the method.
    margin : largest effect that counts as no effect.
    """
    effects = np.asarray(values, float)
    effects = effects[np.isfinite(effects)]
    effect, low, high = over_seeds(effects)
    kind = "t over seeds" if len(effects) > 1 else "none: one seed" if len(effects) else "none: not measured"
    if within_seeds is not None and len(effects):
        low, high = float(np.fmin(low, within_seeds[0])), float(np.fmax(high, within_seeds[1]))
        kind = f"hull of {kind} and {within_seeds[2]}" if len(effects) > 1 else f"{within_seeds[2]}, one seed"
    by_seed = " ".join(f"{value:+.3g}" for value in effects)
    return Verdict(finding, measured, effect, low, high, len(effects), by_seed, kind, expected, margin)


def check_claim_on_rows(finding: str, measured: str, rows: pd.DataFrame, expected: int, interval: str) -> Verdict:
    """Check a claim on rows of a table.

    Parameters
    ----------
    finding, measured, expected : see ``check_claim``.
    rows : seed, value, low, high. The row with seed NaN is for all seeds together, with its interval; the others are for one seed each.
    interval : kind of that interval.
    """
    together = rows[rows["seed"].isna()].iloc[0]
    by_seed = rows["value"][rows["seed"].notna()].to_numpy()
    return check_claim(finding, measured, by_seed, expected, (together["low"], together["high"], interval))


def over_seeds(values: Sequence[float] | np.ndarray[Any, Any], level: float = 0.95) -> tuple[float, float, float]:
    """Compute the mean and its t interval: mean, low, high. The ends are NaN for a single value."""
    effects = np.asarray(values, float)
    mean = float(effects.mean()) if len(effects) else float("nan")
    if len(effects) < 2:
        return mean, float("nan"), float("nan")
    low, high = t_interval(mean, effects.std(ddof=1) / math.sqrt(len(effects)), len(effects) - 1, level)
    return mean, float(low), float(high)


def with_intervals(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Add columns low and high: the t interval over seeds of each group of rows, with one row per seed."""
    transform = table.groupby(list(by), sort=False)["value"].transform
    return table.assign(
        low=transform(lambda values: over_seeds(values.to_numpy())[1]), high=transform(lambda values: over_seeds(values.to_numpy())[2])
    )


def seed_count(table: pd.DataFrame) -> int:
    """Count the seeds of a table."""
    return int(table["seed"].nunique()) if "seed" in table else 0
