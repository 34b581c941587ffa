"""Print the measures of games to the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.games.comparison import MEASURES
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.games.comparison import Report, Row, RunMeasures


def show(report: Report, console: Console | None = None) -> None:
    """Print a report to standard output (or to ``console``)."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        return [section for run in report.runs for section in _run(run, report)]

    tables.show(sections, console)


def number(value: float, is_share: bool = True) -> str:
    """Format a number: shares with three decimals, others with at most two; - if it is NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if is_share else f"{value:,.2f}".removesuffix(".00")


def interval(low: float, high: float, is_share: bool = True) -> str:
    """Format an interval; empty if there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low, is_share)}, {number(high, is_share)}]"


def _run(run: RunMeasures, report: Report) -> list[Section]:
    method = f", {run.method}" if run.method else ""
    head: Section = [
        Text(f"{printable(run.name, 100)}: {printable(run.trainer, 60)}{printable(method, 40)}, {plural(run.turns, 'turn')}", "bold")
    ]
    keys = dict.fromkeys((row.role, row.player, row.task) for row in run.rows)
    roles = [_role(key, [row for row in run.rows if (row.role, row.player, row.task) == key], report.level) for key in keys]
    return [head, *roles, [Text(line) for line in spiral_lines(run, report.window)], _end(run)]


def _role(key: tuple[str, str, str], rows: list[Row], level: float) -> Section:
    names = [part for part in (key[0] or "all completions", key[1], key[2]) if part]
    table = tables.table(f"<{printable(', '.join(names), 60)}", "|steps", ">value", f"|{level:.0%}", ">n", "|of", keys=2)
    before = ""
    for row in rows:
        title = "" if row.measure == before else MEASURES[row.measure].title
        before = row.measure
        tables.add(table, title, *cells(row))
    return [table]


def cells(row: Row) -> list[str]:
    """Format a number: its steps, value, interval, count and unit."""
    measure, estimate = MEASURES[row.measure], row.estimate
    signed = measure.is_share or row.measure == "gap"
    steps = f"{row.first_step:,}" if row.first_step == row.last_step else f"{row.first_step:,}-{row.last_step:,}"
    return [steps, number(estimate.value, signed), interval(estimate.low, estimate.high, signed), f"{estimate.count:,}", measure.unit]


def spiral_lines(run: RunMeasures, window: int) -> list[str]:
    """Say in words what the indicator of death spirals found, a line for each pair of roles."""
    lines = []
    for (proposer, solver), spiral in run.spirals.items():
        alarms = spiral.steps[spiral.alarms]
        who = f"death spiral of {printable(proposer, 40)} and {printable(solver, 40)}, windows of {window} steps: "
        strongest = spiral.to_dict()["strongest"]
        text = "no window has all three series"
        if strongest is not None:
            text = f"{plural(len(alarms), 'alarm')} in {plural(len(spiral.steps), 'window')}"
            text += f"; strongest {strongest['strength']:.2f} at step {strongest['last_step']:,} (alarm above 2)"
        lines.append(who + text)
    return lines


def _end(run: RunMeasures) -> Section:
    lines: Section = [Text(f"not computed: {name}: {reason}", "dim") for name, reason in run.missing.items()]
    return [*lines, *(Text(f"note  {note}") for note in run.notes)]
