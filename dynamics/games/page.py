"""Present the measures of games as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamics.descriptions import plural
from dynamics.games.comparison import MEASURES
from dynamics.games.plot import figure
from dynamics.games.terminal import cells, spiral_lines
from dynamics.presentation import html, style

if TYPE_CHECKING:
    from dynamics.games.comparison import Report, RunMeasures

GLOSSARY = {
    "phase": "Training is cut into phases of equally many recorded steps. They differ in their tasks: that accuracy rises says that the "
    "solver learnt, or that the tasks got easier. The cross-play matrix tells these apart.",
    "interval": "Over the proposals, problems or tasks of a phase of this run. It says nothing about another seed.",
    "agreement": "Share of the answers to a problem that are its most frequent answer, averaged over problems. Too low where several "
    "different answers are right. Minus accuracy it says by how much the solver is surer than it is right.",
    "similarity": "Of tasks to those of earlier phases, 1 for equal ones; each phase is compared with as many as the first one has.",
    "skeleton": "What programs share that differ in names and constants only. The share of new ones falls for any proposer in a small "
    "language.",
    "death spiral": "Entropy of the proposer rises, its valid proposals fall and the reward of the solver rises, in one window of steps.",
}


def page(report: Report) -> str:
    """Render a report as the text of one HTML file."""
    with style.use_style():
        wide, narrow = (html.figure_uri(figure(report, width)) for width in (style.TWO_COLUMN, style.PHONE))
    context = {"runs": [_run(run, report) for run in report.runs], "level": f"{report.level:.0%}", "wide": wide, "narrow": narrow}
    return html.render("games.html", context | {"meanings": GLOSSARY})


def _run(run: RunMeasures, report: Report) -> dict[str, Any]:
    """Format a run: its title, a table for each role, the death spirals, and what is missing."""
    tables: dict[str, list[list[str]]] = {}
    for row in run.rows:
        names = ", ".join(part for part in (row.role or "all completions", row.player, row.task) if part)
        tables.setdefault(html.one_line(names, 80), []).append([MEASURES[row.measure].title, *cells(row)])
    about = ", ".join(filter(None, (html.one_line(run.trainer, 60), html.one_line(run.method or "", 40), plural(run.turns, "turn"))))
    return {
        "name": html.one_line(run.name),
        "about": about,
        "tables": tables,
        "spirals": spiral_lines(run, report.window),
        "missing": [[name, html.one_line(reason, 300)] for name, reason in run.missing.items()],
        "notes": [html.one_line(note, 600) for note in run.notes],
    }
