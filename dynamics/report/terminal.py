"""Print a report to the terminal: what the run is, the headline, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.errors import printable
from dynamics.presentation import tables
from dynamics.presentation.tables import Section
from dynamics.report.assembly import BRACKETS, Report

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console | None = None) -> None:
    """Print a report to standard output (or to ``console``)."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        return [
            _facts(report),
            _lines("largest change", report.largest_changes),
            _lines("largest doubt", report.doubts[:1]),
            _headline(report),
            _missing(report),
            _lines("incomplete", report.incomplete),
            _lines("doubt", report.doubts[1:]),
        ]

    tables.show(sections, console)


def _facts(report: Report) -> Section:
    section: Section = []
    for label, facts in zip(report.labels, report.facts, strict=True):
        table = tables.table("|", "<")
        for fact in facts:
            tables.add(table, fact.name, printable(fact.text, 300) + (f" ({printable(fact.source, 200)})" if fact.source else ""))
        section += [Text(label, "bold"), table]
    return section


def _headline(report: Report) -> Section:
    table = tables.table(">", "<")
    for number, (_, finding) in enumerate(report.headline, 1):
        tables.add(table, f"{number}", printable(finding.brief, 1500))
    return [table, Text(BRACKETS)] if report.headline else []


def _missing(report: Report) -> Section:
    table = tables.table("|not made", "<because")
    for section in report.sections:
        if section.missing:
            tables.add(table, section.key, printable(section.missing, 1500))
    return [table] if table.rows else []


def _lines(title: str, lines: list[str]) -> Section:
    table = tables.table("|", "<")
    for line in lines:
        tables.add(table, title, printable(line, 1500))
    return [table] if lines else []
