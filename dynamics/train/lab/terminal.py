"""Print a table of competence to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
