"""What all scripts of the comparison share: a module with TITLE, CLAIM, ``caption``, ``measure``, ``figure`` and ``verdicts`` is one.

``measure(runs)`` gives the table, ``figure(table)`` draws it and nothing else, ``verdicts(table)`` holds the paper's findings against it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.runs import Run, find
from dynamics import InputError
from dynamics.io.atomic import replacing
from dynamics.presentation import style

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told at this scale"


@dataclass(frozen=True)
class Verdict:
    """A finding of the paper against what was measured.

    Attributes
    ----------
    expected : the sign that the finding gives the effect; 0 if it says that there is none, or none beyond ``margin``.
    by_seed : the effect of each seed.
    interval : what ``low`` and ``high`` are.
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
        """By the interval: wholly on the expected side, wholly on the other, or neither (also where there is none)."""
        if not np.isfinite([self.low, self.high]).all():
            return OPEN
        if not self.expected:
            inside = -self.margin <= self.low and self.high <= self.margin
            return HOLDS if inside else FAILS if self.low > self.margin or self.high < -self.margin else OPEN
        ends = sorted([self.low * self.expected, self.high * self.expected])
        return HOLDS if ends[0] > 0 else FAILS if ends[1] < 0 else OPEN


def judge(
    finding: str,
    measured: str,
    values: Sequence[float] | np.ndarray[Any, Any],
    expected: int,
    within: tuple[float, float, str] | None = None,
    margin: float = 0.0,
) -> Verdict:
    """The verdict on an effect that every seed has a value of: by Student's interval over seeds.

    ``within``: the interval (low, high, what it is) that the problems or tasks of all seeds together give. Few seeds can agree by chance,
    so the interval is the hull of both. Of one seed it is ``within`` alone: the verdict is
    then on that run, not on the method.
    """
    found = np.asarray(values, float)
    found = found[np.isfinite(found)]
    effect, low, high = over_seeds(found)
    how = "Student over seeds" if len(found) > 1 else "none: one seed" if len(found) else "none: not measured"
    if within is not None and len(found):
        low, high = float(np.fmin(low, within[0])), float(np.fmax(high, within[1]))
        how = f"hull of {how} and {within[2]}" if len(found) > 1 else f"{within[2]}, one seed"
    return Verdict(finding, measured, effect, low, high, len(found), " ".join(f"{one:+.3g}" for one in found), how, expected, margin)


def judge_rows(finding: str, measured: str, rows: pd.DataFrame, expected: int, how: str) -> Verdict:
    """The verdict on rows of which one, whose ``seed`` is NaN, is of all seeds together with its interval (``how``), the others of one."""
    whole = rows[rows["seed"].isna()].iloc[0]
    return judge(finding, measured, rows["value"][rows["seed"].notna()].to_numpy(), expected, (whole["low"], whole["high"], how))


def over_seeds(values: Sequence[float] | np.ndarray[Any, Any], level: float = 0.95) -> tuple[float, float, float]:
    """Mean with Student's interval; NaN for the interval of a single seed. With two seeds it is wide, as it should be."""
    found = np.asarray(values, float)
    mean = float(found.mean()) if len(found) else float("nan")
    if len(found) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + level) / 2, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5)
    return mean, mean - half, mean + half


def with_intervals(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns low and high, Student's over the seeds of every group of rows, one row a seed."""
    ends = table.groupby(list(by), sort=False)["value"].transform
    return table.assign(low=ends(lambda part: over_seeds(part.to_numpy())[1]), high=ends(lambda part: over_seeds(part.to_numpy())[2]))


def blocks(metrics: pd.DataFrame, column: str) -> tuple[float, float]:
    """Means of a column over the first and the last fifth of the steps at which it was recorded; NaN where there are not two."""
    found = metrics[column].dropna() if column in metrics else pd.Series(dtype=float)
    if len(found) < 2:
        return float("nan"), float("nan")
    size = max(1, len(found) // 5)
    return float(found.iloc[:size].mean()), float(found.iloc[-size:].mean())


def seeds_of(table: pd.DataFrame) -> int:
    return int(table["seed"].nunique()) if "seed" in table else 0


def write(module: Any, runs: Sequence[Run], folder: Path) -> tuple[pd.DataFrame, list[Path]]:
    """The table and the figure of a script; PNG, SVG and CSV, named after it."""
    name = module.__name__.rpartition(".")[2]
    if name == "__main__":
        name = Path(module.__file__).stem
    table = module.measure(runs)
    with style.use_style():
        drawing = module.figure(table)
        paths = [style.save(drawing, folder / f"{name}{suffix}") for suffix in (".png", ".svg")]
    with replacing(folder / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table, [*paths, folder / f"{name}.csv"]


def main(module: Any, argv: Sequence[str] | None = None) -> int:
    """``python -m analyses.NAME RUNS... --out FOLDER``."""
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders of them")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="where figure and table go (default: figures/)")
    options = parser.parse_args(argv)
    try:
        table, paths = write(module, find(options.runs), options.out)
        for one in module.verdicts(table):
            ends = f" [{one.low:+.3g}, {one.high:+.3g}]" if np.isfinite(one.low) else ""
            print(f"{one.finding}: {one.verdict} ({one.measured} {one.effect:+.3g}{ends}, {one.interval}; by seed {one.by_seed})")
        for path in paths:
            print(path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
