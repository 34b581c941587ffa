"""Print tables to the terminal: what a base can do, and what a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.train.lab.competence import Score


def show(scores: Sequence[Score], console: Console | None = None) -> None:
    """Print scores, a row for each form, manner and measure, a column for each depth; depth 0 is the average over all problems."""
    depths = sorted({score.depth for score in scores if score.depth})
    rows: dict[tuple[str, str, str], dict[int, Score]] = {}
    for score in scores:
        rows.setdefault((score.form, score.manner, score.measure), {})[score.depth] = score

    def sections(_width: int, _fancy: bool) -> list[Section]:
        table = tables.table("|form", "|answered", "|measure", *(f">depth {depth}" for depth in depths), ">all", ">n", keys=3)
        for keys, found in rows.items():
            values = [f"{found[depth].value:.2f}" if depth in found else "" for depth in (*depths, 0)]
            tables.add(table, *keys, *values, str(found[0].count))
        return [[table]]

    tables.show(sections, console)


def show_contamination(report: dict[str, Any], console: Console | None = None) -> None:
    """Print the report of ``dynamics.train.contamination``: what was trained on against each set, and proposals by split."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        table = tables.table("|trained on", ">items", "|set", ">cases", ">same text and input", ">same program", ">items in it")
        for kind in report["trained"]:
            for number, row in enumerate(kind["sets"]):
                names = ["", ""] if number else [kind["what"], f"{kind['items']:,}"]
                tables.add(table, *names, row["name"], *(f"{row[name]:,}" for name in ("cases", "exact", "same_program", "trained")))
        return [[table], *_proposed(report)]

    tables.show(sections, console)


def _proposed(report: dict[str, Any]) -> list[Section]:
    if "proposed" not in report:
        return []
    proposed = report["proposed"]
    table = tables.table("|proposed by split", ">proposals", ">share", ">valid", ">held out", ">programs")
    for row in proposed["splits"]:
        share = row["proposals"] / max(1, proposed["proposals"])
        numbers = [f"{row[name]:,}" for name in ("valid", "held_out", "programs")]
        tables.add(table, row["split"], f"{row['proposals']:,}", f"{share:.3f}", *numbers)
    tables.add(
        table, "no program", f"{proposed['without_program']:,}", f"{proposed['without_program'] / max(1, proposed['proposals']):.3f}"
    )
    return [[table]]
