"""Print a pass@k report to the terminal: files, curves side by side, paired differences, crossings and warnings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.passk.comparison import BESIDE, crossing_text
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.passk.comparison import Comparison, Curve, Report

#: measures with a table in the terminal; JSON, CSV and the page contain all
SHOWN = {"pass_at_k": "pass@k", "pass_hat_k": BESIDE["pass_hat_k"], "maj_at_k": BESIDE["maj_at_k"]}
#: maximum number of files that are listed; further files are counted
FILES = 8


def show(report: Report, console: Console | None = None) -> None:
    """Print a report to standard output (or to ``console``)."""

    def sections(width: int, _fancy: bool) -> list[Section]:
        return [
            _files(report),
            _models(report),
            *_measures(report, width),
            *(_extrapolation(curve, report.level) for curve in report.curves),
            *(_comparison(comparison, report.level) for comparison in report.comparisons),
            _notes(report),
        ]

    tables.show(sections, console)


def value(number: float, sign: bool = False) -> str:
    """Format a probability with three decimals; - if it is NaN, and >0.999 or <0.001 rather than a rounded 1.000 or 0.000."""
    if math.isnan(number):
        return "-"
    if 0.9995 <= number < 1:
        return ">0.999"
    if 0 < number < 0.0005:
        return "<0.001"
    return f"{number:{'+' * sign}.3f}"


def interval(low: float, high: float, sign: bool = False) -> str:
    """Format an interval with three decimals; empty if an end is NaN."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:{'+' * sign}.3f}, {high:{'+' * sign}.3f}]"


def _files(report: Report) -> Section:
    table = tables.table("<", "|", "<")
    for file in report.files[:FILES]:
        fields = ", ".join(f"{name} = {printable(field, 60)}" for name, field in file.fields.items())
        tables.add(table, printable(file.path, 200), plural(file.samples, "sample"), f"{file.format}: {fields}")
    parts: Section = [table] if report.files else []
    if len(report.files) > FILES:
        parts.append(Text(f"  and {plural(len(report.files) - FILES, 'more file')}"))
    return parts


def _models(report: Report) -> Section:
    states = (">timed out", ">no answer", ">no verdict")
    table = tables.table("<model", ">problems", ">n", ">samples", *states, ">avg@n", f"|{report.level:.0%}")
    for curve in report.curves:
        sizes = curve.samples
        n = f"{sizes['min']:,}" if sizes["min"] == sizes["max"] else f"{sizes['min']:,}-{sizes['max']:,}"
        counted = [f"{curve.statuses.get(name, 0):,}" if curve.statuses else "-" for name in ("timed out", "no answer", "unscored")]
        mean, low, high = curve.mean
        numbers = [f"{len(curve.counts):,}", n, f"{sizes['total']:,}", *counted, value(mean), interval(low, high)]
        tables.add(table, printable(curve.name, 80), *numbers)
    return [table]


def _measures(report: Report, width: int) -> list[Section]:
    """Make tables per measure with a row per k and columns per model, as many models side by side as fit."""
    sections: list[Section] = []
    for name, title in SHOWN.items():
        curves = [curve for curve in report.curves if name in curve.points]
        labels = {curve.name: printable(curve.name, 40) for curve in curves}
        while curves:
            fitting = max(1, (width - 14) // (26 + max(0, max(len(labels[curve.name]) for curve in curves) - 7)))
            sections.append(_measure(name, title, curves[:fitting], labels, report.level))
            curves = curves[fitting:]
    return sections


def _measure(name: str, title: str, curves: list[Curve], labels: dict[str, str], level: float) -> Section:
    prefix = "" if name == "pass_at_k" else f"{name}_"
    ragged = any(curve.samples["min"] < curve.samples["max"] for curve in curves)
    heads = [head for curve in curves for head in (f">{labels[curve.name]}", f"|{level:.0%}", *([">problems"] if ragged else []))]
    table = tables.table(f">{title}, k", *heads)
    for index, k in enumerate(curves[0].points["k"]):
        cells = []
        for curve in curves:
            row = curve.points.iloc[index]
            flag = " ~" if name == "pass_at_k" and 2 * row["over_half"] > row["problems"] else ""
            cells += [value(row[name]), interval(row[f"{prefix}low"], row[f"{prefix}high"]) + flag]
            if ragged:
                cells.append(f"{int(row['problems']):,}")
        tables.add(table, f"{k:,}", *cells)
    flagged = any(cell.plain.endswith(" ~") for row in table.rows for cell in row)
    return [table, Text("~  k > n / 2 for most problems", "dim")] if flagged else [table]


def _extrapolation(curve: Curve, level: float) -> Section:
    extrapolation, check = curve.extrapolation, curve.validation
    if extrapolation is None:
        return []
    table = tables.table(">k", ">model's pass@k", f"|{level:.0%}")
    for k, expected, low, high in zip(extrapolation.ks, extrapolation.pass_at_k, extrapolation.low, extrapolation.high, strict=True):
        tables.add(table, f"{k:,}", value(float(expected)), interval(float(low), float(high)))
    fit = extrapolation.fit
    head = f"{printable(curve.name, 80)} beyond n, not an estimate: beta-binomial model, a = {fit.a:.3g}, b = {fit.b:.3g}"
    parts: Section = [Text(head), table]
    if check is not None:
        words = (
            f"validation on subsamples: from {plural(check.kept, 'sample')} per problem, predicted pass@{check.k} = "
            f"{value(check.predicted)} "
        )
        parts.append(Text(words + f"{interval(check.low, check.high)}; measured {value(check.measured)}"))
    return parts


def _comparison(comparison: Comparison, level: float) -> Section:
    head = f"{printable(comparison.b, 100)} - {printable(comparison.a, 100)}"
    solved = comparison.solved
    facts = (
        f"{plural(comparison.paired, 'problem')} paired by id; solved at least once: "
        f"{solved['both']:,} by both, {solved['only_b']:,} only by "
        f"{printable(comparison.b, 40)}, {solved['only_a']:,} only by {printable(comparison.a, 40)}, {solved['neither']:,} by neither"
    )
    if comparison.only_a or comparison.only_b:
        facts += f"; {plural(comparison.only_a + comparison.only_b, 'problem')} in one of them only, not compared"
    found = comparison.support(level)
    kept, new, net = (
        f"{value(one[0], sign)} {interval(*one[1:], sign)}" for one, sign in ((found.srr, False), (found.ndr, False), (found.nscr, True))
    )
    changes = f"kept of what {printable(comparison.a, 40)} solved (SRR) {kept}, new of its own (NDR) {new}, net change (NSCR) {net}"
    table = tables.table(">k", ">difference", f"|{level:.0%}", ">problems")
    for row in comparison.points.to_dict("records"):
        mark = " *" if row["low"] > 0 or row["high"] < 0 else ""
        difference = value(row["difference"], sign=True) if abs(row["difference"]) >= 0.0005 else "0.000"
        tables.add(
            table,
            f"{row['k']:,}",
            "-" if math.isnan(row["difference"]) else difference,
            interval(row["low"], row["high"], sign=True) + mark,
            f"{row['problems']:,}",
        )
    marked = any(cell.plain.endswith(" *") for row in table.rows for cell in row)
    legend = [Text("*  the interval at this k (pointwise) excludes 0", "dim")] if marked else []
    return [Text(head, "bold"), Text(facts), Text(changes), table, *legend, Text(crossing_text(comparison, level))]


def _notes(report: Report) -> Section:
    warned: dict[str, list[str]] = {}
    for curve in report.curves:
        for warning in curve.warnings:
            warned.setdefault(warning, []).append(printable(curve.name, 60))
    lines = [f"{', '.join(names)}: {warning}" for warning, names in warned.items()]
    lines += [*report.notes, *(f"{printable(file.path, 80)}: {note}" for file in report.files for note in file.notes)]
    return [_remarks("note", lines)] if lines else []


def _remarks(kind: str, lines: list[str]) -> tables.Table:
    table = tables.table("|", "<")
    for line in lines:
        tables.add(table, kind, printable(line, 600))
    return table
