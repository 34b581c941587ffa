"""Warnings on pass@k curves: missing verdicts, dependent samples, few problems, and k too large for n."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dynamics.descriptions import plural

if TYPE_CHECKING:
    import pandas as pd

#: minimum number of problems for reliable intervals
FEW = 30


def samples(table: pd.DataFrame, every: pd.DataFrame, graded: pd.DataFrame) -> list[str]:
    """Warn about missing verdicts, unequal n, few problems and samples that are not independent."""
    warnings = []
    lost = int((every["attempted"] - every["n"]).sum())
    if lost:
        worst = float((graded["c"] / graded["attempted"]).sum() / len(every))
        warnings.append(
            f"{lost:,} of {int(every['attempted'].sum()):,} samples have no verdict and are left out; if all of them were wrong, "
            f"pass@1 would be {worst:.3f} instead of {(graded['c'] / graded['n']).mean():.3f} (--unscored wrong)"
        )
    if len(graded) < len(every):
        warnings.append(f"{plural(len(every) - len(graded), 'problem has', 'problems have')} no sample with a verdict: left out")
    n = graded["n"]
    if n.min() < n.max():
        warnings.append(f"n differs between problems ({n.min():,} to {n.max():,}): a point at k covers the problems with n >= k")
    if len(graded) < FEW:
        warnings.append(f"only {len(graded)} problem{'s' * (len(graded) != 1)}: intervals are wide and approximate")
    return warnings + _dependence(table, graded)


def _dependence(table: pd.DataFrame, graded: pd.DataFrame) -> list[str]:
    """Detect samples of a problem that are copies of each other, from greedy decoding or a repeated seed."""
    several = graded["n"] > 1
    if not several.any():
        return []
    if "temperature" in table and (table["temperature"] == 0).any():
        greedy = float((table["temperature"] == 0).mean())
        return [f"{100 * greedy:.0f} % of the samples were drawn at temperature 0: greedy decoding gives the same sample every time"]
    if "fingerprint" in table and table["fingerprint"].notna().all():
        alike = table.groupby(["problem", "fingerprint"], observed=True).size().rename("times").reset_index()
        stats = alike.groupby("problem", observed=True)["times"].agg(["sum", "size", _gcd])
        stats = stats[stats["sum"] > 1]
        same = int((stats["size"] == 1).sum())
        if same and same >= 0.9 * len(stats):
            return [
                f"all samples of a problem are equal in {same:,} of {len(stats):,} problems, as with greedy decoding: "
                "they are not n independent samples, and pass@k equals pass@1"
            ]
        copied = int((stats["_gcd"] > 1).sum())
        if len(stats) >= 5 and copied == len(stats):
            times = math.gcd(*map(int, stats["_gcd"]))
            if times > 1:
                return [
                    f"every sample of every problem occurs {times} times, as from {times} runs with the same seed: "
                    "n is too large by this factor"
                ]
        return []
    extreme = ((graded["c"] == 0) | (graded["c"] == graded["n"]))[several]
    if several.sum() >= 10 and graded["n"][several].min() >= 4 and extreme.all() and 0 < graded["c"].sum() < graded["n"].sum():
        return ["every problem is solved by all its samples or by none, as with greedy decoding: are the samples independent?"]
    return []


def _gcd(times: pd.Series[int]) -> int:
    return math.gcd(*map(int, times))


def points(table: pd.DataFrame) -> list[str]:
    """Warn about k that are too large for the number of samples."""
    warnings = []
    beyond = table.loc[table["problems"] == 0, "k"]
    if len(beyond):
        warnings.append(f"no problem has enough samples for k = {span(beyond)}: no estimate")
    estimated = table[table["problems"] > 0]
    flagged = estimated.loc[2 * estimated["over_half"] > estimated["problems"], "k"]
    if len(flagged):
        warnings.append(
            f"k > n / 2 at k = {span(flagged)}: near n the estimate depends on little more than whether any sample was correct, which "
            "the interval does not show"
        )
    return warnings


def span(ks: pd.Series[int]) -> str:
    """Name one or two k, or the first and the last of more."""
    values = [int(k) for k in ks]
    return (
        f"{values[0]:,}"
        if len(values) == 1
        else f"{values[0]:,} and {values[1]:,}"
        if len(values) == 2
        else f"{values[0]:,} to {values[-1]:,}"
    )
