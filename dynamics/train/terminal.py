"""Print the results of a training run on held-out problems to the terminal: the trained model and the controls.

The controls are the base at lower temperatures and with greedy decoding. A gain that they show too is no new ability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.passk.terminal import interval, value
from dynamics.presentation import tables

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.passk.comparison import Report


def show(reports: Sequence[tuple[str, Report]], console: Console | None = None) -> None:
    """Print reports on the held-out problems.

    Parameters
    ----------
    reports : pairs of the name of a set of problems and its report.
    console : console to print to; standard output if None.
    """
    tables.show(lambda *_: [*(_set(name, report) for name, report in reports), _notes(reports)], console)


def _set(name: str, report: Report) -> tables.Section:
    """Tabulate pass@1 of each model, its paired difference from the base, and pass@k at the largest k."""
    largest = max(int(curve.points["k"].max()) for curve in report.curves)
    base = report.curves[0].name if not report.comparisons else report.comparisons[0].a
    table = tables.table("<" + name, ">pass@1", "|95%", f">minus {base}", "|95%", f">pass@{largest}", "|95%")
    differences = {comparison.b: comparison.points.iloc[0] for comparison in report.comparisons}
    for curve in sorted(report.curves, key=lambda curve: curve.name.startswith("base") is False):
        first, last = curve.points.iloc[0], curve.points[curve.points["k"] == largest]
        row = [curve.name, value(first["pass_at_k"]), interval(first["low"], first["high"])]
        if curve.name in differences:
            difference = differences[curve.name]
            mark = " *" if difference["low"] > 0 or difference["high"] < 0 else ""
            row += [value(difference["difference"], sign=True), interval(difference["low"], difference["high"], sign=True) + mark]
        else:
            row += ["", ""]
        end = last.iloc[0] if len(last) else None
        missing = end is None or math.isnan(end["pass_at_k"])
        row += ["-", ""] if end is None or missing else [value(end["pass_at_k"]), interval(end["low"], end["high"])]
        tables.add(table, *row)
    return [table]


def _notes(reports: Sequence[tuple[str, Report]]) -> tables.Section:
    from rich.text import Text

    count = max(int(curve.points["problems"].max()) for _, report in reports for curve in report.curves)
    first = [comparison.points.iloc[0] for _, report in reports for comparison in report.comparisons]
    marked = any(point["low"] > 0 or point["high"] < 0 for point in first)
    return [
        *[Text(f"*  the interval excludes 0; paired, over up to {count} problems")] * marked,
        Text("   the base at lower temperatures and with greedy decoding is the control: a gain that it shows too is not a new ability"),
        Text("   python -m dynamics.passk RUN has every k"),
    ]
