"""Write a report as Markdown, for a model card or a pull request."""

from __future__ import annotations

import re

from dynamics.errors import printable
from dynamics.report.assembly import Report
from dynamics.report.cells import shown
from dynamics.report.section import Section, Table

#: characters that Markdown or HTML in it could take for markup; a list at the start; what GitHub makes links of
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!@&]|^[-+]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
#: rows of a table: a card is read, not searched
MOST = 12


def markdown(report: Report) -> str:
    """Return the report as GitHub's Markdown, without figures. Text of the files is escaped, and stays text."""
    lines = ["## What this run did to the model" if len(report.runs) == 1 else "## What these runs did to the model", ""]
    for label, facts in zip(report.labels, report.facts, strict=True):
        words = "; ".join(f"{fact.name} {printable(fact.text, 300)}" for fact in facts)
        lines.append(f"- **{escape(label)}**: {escape(words)}")
    if report.largest_changes:
        lines += ["", "**Largest change.**", "", *_bullets(report.largest_changes)]
    if report.doubts:
        lines += ["", f"**Largest doubt.** {escape(report.doubts[0])}"]
    lines += ["", *(f"{number}. {escape(finding.text)}" for number, (_, finding) in enumerate(report.headline, 1)), ""]
    if report.incomplete:
        lines += ["This report is incomplete:", "", *_bullets(report.incomplete), ""]
    for section in report.sections:
        lines += _section(section)
    if report.doubts:
        lines += ["### What cannot be concluded", "", *_bullets(report.doubts), ""]
    lines += ["### Commands", "", *(f"    {printable(line, 4000)}" for line in (report.command, *report.commands) if line)]
    return "\n".join(lines) + "\n"


def escape(text: str, limit: int = 1500) -> str:
    r"""Make text safe in Markdown: one line, and none of its characters is markup.

    >>> escape("<b>|*x*"), escape("- https://x")
    ('\\<b\\>\\|\\*x\\*', '\\- https\\://x')
    """
    return SPECIAL.sub(r"\\\1", printable(text, limit))


def _bullets(lines: list[str]) -> list[str]:
    return [f"- {escape(line)}" for line in lines]


def _section(section: Section) -> list[str]:
    lines = [f"### {escape(section.title)}", ""]
    if section.missing:
        return [*lines, f"Not made: {escape(section.missing)}", ""]
    lines += [*_bullets([finding.text for finding in section.findings]), ""]
    for table in section.tables:
        if table.show and len(table.frame):
            lines += _table(table)
    return lines


def _table(table: Table) -> list[str]:
    headings, rows, text = shown(table, min(MOST, table.most))
    rule = ["---" if position in text else "--:" for position in range(len(headings))]
    body = [headings, *rows]
    cells = [[escape(cell) for cell in row] for row in body]
    lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
    return [f"**{escape(table.title)}**", "", *lines, ""]
