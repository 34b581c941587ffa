"""Print to the terminal what a run was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console


def show(report: dict[str, Any], console: Console | None = None) -> None:
    """Print a report: what was trained on against each set, and proposals by split."""

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
