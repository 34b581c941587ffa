"""Write a report as Markdown, for a model card or a pull request."""

from __future__ import annotations

import re

from dynamics.errors import printable
from dynamics.report.assembly import BRACKETS, Report
from dynamics.report.cells import shown
from dynamics.report.section import Section, Table

#: characters that Markdown or HTML in it could take for markup; a list at the start; what GitHub makes links of
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!@&]|^[-+]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
#: a cell that is a number
NUMBER = re.compile(r"[+-]?[\d.,]+(?:e[+-]?\d+)?|-")
#: rows of a table: a card is read, not searched
MOST = 12


def markdown(report: Report) -> str:
    """Return the report as GitHub's Markdown, with tables folded and without figures. Text of the files is escaped, and stays text."""
    lines = ["## What this run did to the model" if len(report.runs) == 1 else "## What these runs did to the model", ""]
    lines += _facts(report)
    if report.incomplete:
        lines += ["**Left out of this report:**", "", *_bullets(report.incomplete), ""]
    if report.largest_changes:
        lines += ["**Largest change.**", "", *_bullets(report.largest_changes), ""]
    if report.doubts:
        lines += [f"**Largest doubt.** {escape(report.doubts[0])}", ""]
    lines += ["### In short", "", BRACKETS, ""] if report.headline else []
    lines += [*(f"{number}. {escape(finding.brief)}" for number, (_, finding) in enumerate(report.headline, 1)), ""]
    told = {finding.text for _, finding in report.headline if not finding.short}
    for section in report.sections:
        lines += _section(section, told)
    if report.doubts[1:]:
        lines += ["### What cannot be concluded", "", *_bullets(report.doubts), ""]
    if missing := [f"{section.title} {section.missing}" for section in report.sections if section.missing]:
        lines += ["### Not made", "", *_bullets(missing), ""]
    commands = [f"    {printable(line, 4000)}" for line in (report.command, *report.commands) if line]
    return "\n".join([*lines, *_folded("The commands that make each number alone", commands)]) + "\n"


def _facts(report: Report) -> list[str]:
    """Lay the facts out as a table, a column for each run."""
    names = list(dict.fromkeys(fact.name for facts in report.facts for fact in facts))
    if not names:
        return []
    rows = [["", *(f"**{escape(label)}**" for label in report.labels)], ["---"] * (1 + len(report.labels))]
    by_run = [{fact.name: printable(fact.text, 300) for fact in facts} for facts in report.facts]
    rows += [[escape(name), *(_cell(facts.get(name, "-")) for facts in by_run)] for name in names]
    return [*(f"| {' | '.join(row)} |" for row in rows), ""]


def _folded(title: str, lines: list[str]) -> list[str]:
    """Fold lines under a title, which is no text of the files."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""] if lines else []


def escape(text: str, limit: int = 1500) -> str:
    r"""Make text safe in Markdown: one line, and none of its characters is markup.

    >>> escape("<b>|*x*"), escape("- https://x")
    ('\\<b\\>\\|\\*x\\*', '\\- https\\://x')
    """
    return SPECIAL.sub(r"\\\1", printable(text, limit))


def _bullets(lines: list[str]) -> list[str]:
    return [f"- {escape(line)}" for line in lines]


def _section(section: Section, told: set[str]) -> list[str]:
    """Write the findings that the headline does not have, and the tables folded; nothing if there are neither."""
    lines = _bullets([finding.text for finding in section.findings if finding.text not in told and not finding.run])
    tables = [line for table in section.tables if table.show and len(table.frame) for line in _table(table)]
    by_run = _bullets([finding.text for finding in section.findings if finding.run])
    if section.missing or not (lines or tables or by_run):
        return []
    return [f"### {escape(section.title)}", "", *lines, "", *_folded("Each run by itself", by_run), *_folded("Tables", tables)]


def _table(table: Table) -> list[str]:
    headings, rows, text = shown(table, min(MOST, table.most))
    rule = ["---" if position in text else "--:" for position in range(len(headings))]
    cells = [[_cell(cell) for cell in row] for row in (headings, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
    more = f"{len(table.frame) - len(rows):,} more rows are left out here." if len(table.frame) > len(rows) else ""
    notes = [escape(note) for note in (table.note, more) if note]
    return [f"**{escape(table.title)}**", "", *lines, "", *(line for note in notes for line in (note, ""))]


def _cell(text: str) -> str:
    """Escape a cell; the sign of a number is no list there."""
    return text if NUMBER.fullmatch(text) else escape(text)
