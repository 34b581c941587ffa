"""Present a report as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dynamics.cli.command import TRACEBACK
from dynamics.errors import printable
from dynamics.io.csv import to_csv
from dynamics.presentation import html, style
from dynamics.report.assembly import BRACKETS, Report, lead
from dynamics.report.cells import shown
from dynamics.report.labels import by_run
from dynamics.report.section import Picture, Sample, Section, Table

#: bytes of a table as CSV that is embedded in the page; a larger one is written by --out only
EMBEDDED = 1_000_000
#: characters of a line, of a remark, of a prompt or completion, and of a heading
LINE, REMARK, TEXT, HEADING = 1500, 500, 12_000, 300


#: facts of a few characters
SETTINGS = ("learning rate", "steps", "batch size", "group size", "temperature", "KL coefficient", "seed")


class Drawn(NamedTuple):
    """A figure as SVG.

    Attributes
    ----------
    wide : for a desktop, for print, and for a file.
    narrow : for a telephone, with text of the same size.
    """

    wide: bytes
    narrow: bytes


def page(report: Report, figures: Mapping[str, Drawn], files: str | None = None) -> str:
    """Render a report.

    Parameters
    ----------
    report : the report.
    figures : each figure by its name, as ``draw`` makes them.
    files : folder of the tables as CSV, relative to the page; None to embed them in the page.

    Returns
    -------
    The text of one HTML file.
    """
    titles = {section.key: section.title for section in report.sections}
    context = {
        "title": "What did this run do to the model?" if len(report.runs) == 1 else "What did these runs do to the model?",
        "names": [html.one_line(label) for label in report.labels],
        "paths": [html.one_line(run.path, 1000) for run in report.runs],
        "facts": _facts(report),
        "remarks": [html.one_line(line, REMARK) for line in _remarks(report)],
        "headline": [
            _lead(html.one_line(finding.brief, LINE)) | {"key": key, "section": html.one_line(titles[key], HEADING)}
            for key, finding in report.headline
        ],
        "brackets": BRACKETS,
        "changes": [html.one_line(line, LINE) for line in report.largest_changes],
        "incomplete": [html.one_line(line, REMARK) for line in report.incomplete],
        "sections": [_section(section, figures, files) for section in report.sections],
        "doubts": [html.one_line(line, LINE) for line in report.doubts],
        "command": html.one_line(report.command, 4000),
        "commands": [html.one_line(line, 4000) for line in report.commands],
    }
    return html.render("report.html", context)


def _lead(text: str) -> dict[str, str]:
    first, rest = lead(text)
    return {"lead": first, "rest": rest}


def draw(report: Report) -> dict[str, Drawn]:
    """Draw all figures of a report, by name. One that cannot be drawn is taken out, and makes the report incomplete."""
    drawn: dict[str, Drawn] = {}
    with style.use_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        for section in report.sections:
            section.pictures = [picture for picture in section.pictures if _draw(picture, drawn, report.incomplete)]
    return drawn


def _draw(picture: Picture, drawn: dict[str, Drawn], incomplete: list[str]) -> bool:
    """Draw a figure; tell whether that worked. Numbers that matplotlib cannot draw must not cost the page."""
    wide, narrow = io.BytesIO(), io.BytesIO()
    try:
        for buffer, width in ((wide, style.TWO_COLUMN), (narrow, style.PHONE)):
            picture.draw(width=width).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        what = f"{type(error).__name__}: {printable(error, 200)}"
        incomplete.append(f"the figure {picture.name} cannot be drawn ({what}); its table is there")
        return False
    drawn[picture.name] = Drawn(wide.getvalue(), narrow.getvalue())
    return True


def _remarks(report: Report) -> list[str]:
    """List what the reader should know of the files of each run."""
    remarks = [(label, remark) for run, label in zip(report.runs, report.labels, strict=True) for remark in run.remarks]
    return by_run(remarks, len(report.runs))


def _facts(report: Report) -> list[dict[str, Any]]:
    """Lay the facts out with a column for each run; the settings of a single run share a line."""
    names = dict.fromkeys(fact.name for facts in report.facts for fact in facts)
    if len(report.runs) == 1:
        settings = [fact for fact in report.facts[0] if fact.name in SETTINGS]
        text = ", ".join(f"{fact.name} {fact.text}" for fact in settings)
        others = [
            {"name": fact.name, "cells": [{"text": html.one_line(fact.text, 400), "source": html.one_line(fact.source, 300)}], "same": True}
            for fact in report.facts[0]
            if fact.name not in SETTINGS
        ]
        return [*others, {"name": "settings", "cells": [{"text": html.one_line(text, 400), "source": ""}], "same": True}]
    by_run = [{fact.name: fact for fact in facts} for facts in report.facts]
    rows = []
    for name in names:
        cells = [
            {"text": html.one_line(facts[name].text, 400), "source": html.one_line(facts[name].source, 300)}
            if name in facts
            else {"text": "-", "source": ""}
            for facts in by_run
        ]
        same = all(cell["text"] == cells[0]["text"] for cell in cells)
        rows.append({"name": name, "cells": cells[:1] if same else cells, "same": same})
    return rows


def _section(section: Section, figures: Mapping[str, Drawn], files: str | None) -> dict[str, Any]:
    links = {table.name: _link(table, files) for table in section.tables}
    return {
        "key": section.key,
        "title": html.one_line(section.title, HEADING),
        "missing": html.one_line(section.missing, LINE),
        "lacks": html.one_line(section.lacks, HEADING),
        "findings": [html.one_line(finding.text, LINE) for finding in section.findings if not finding.run],
        "by_run": [html.one_line(finding.text, LINE) for finding in section.findings if finding.run],
        "incomplete": [html.one_line(line, REMARK) for line in section.incomplete],
        "pictures": [_picture(picture, figures, links) for picture in section.pictures if picture.name in figures],
        "tables": [_table(table, links[table.name]) for table in section.tables if table.show],
        "samples": [_sample(sample) for sample in section.samples],
    }


def _picture(picture: Picture, figures: Mapping[str, Drawn], links: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "title": html.one_line(picture.title, HEADING),
        "source": html.svg_uri(figures[picture.name].wide),
        "narrow": html.svg_uri(figures[picture.name].narrow),
        "alternative": html.one_line(picture.alternative, LINE),
        "link": links.get(picture.table, {"name": "", "address": ""}),
    }


def _table(table: Table, link: dict[str, str]) -> dict[str, Any]:
    headings, rows, text = shown(table)
    more = len(table.frame) - len(rows)
    return {
        "title": html.one_line(table.title, HEADING),
        "headings": headings,
        "rows": rows,
        "text": sorted(text | {0}),
        "note": html.one_line(table.note, LINE),
        "more": f"{more:,} more rows are in the file" if more > 0 else "",
        "link": link,
    }


def _link(table: Table, files: str | None) -> dict[str, str]:
    """Return the name of a table's file and where the page links to; no address if the file is too large for the page."""
    name = f"{printable(table.name, 80)}.csv"
    if files is not None:
        return {"name": name, "address": f"{quote(files)}/{quote(name)}" if files else quote(name)}
    text = to_csv(table.frame).encode()
    if len(text) > EMBEDDED:
        return {"name": name, "address": ""}
    return {"name": name, "address": f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text).decode()}"}


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "title": html.one_line(sample.title, HEADING),
        "prompt": html.lines(sample.prompt, TEXT),
        "completions": [
            {"heading": html.one_line(heading, HEADING), "text": html.lines(text, TEXT)} for heading, text in sample.completions
        ],
    }


def folder_from(page_path: Path, folder: Path) -> str:
    """Return the path of a folder relative to that of the page, as links write it; empty if it is the same."""
    relative = os.path.relpath(folder.resolve(), page_path.resolve().parent).replace(os.sep, "/")
    return "" if relative == "." else relative
