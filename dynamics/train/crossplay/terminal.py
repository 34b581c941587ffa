"""Print a cross-play matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.games.terminal import interval, number
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.games.crossplay import CrossPlay


def show(found: CrossPlay, clean: CrossPlay | None = None, console: Console | None = None) -> None:
    """Print the matrix with a row per phase and a column per checkpoint, then progress and forgetting; then the same without hints."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        note = "progress: last checkpoint - own; forgetting: best of all - last; gain: last - first. Intervals: over the tasks"
        parts = _parts(found, "tasks of" if clean is None else "hints of")
        if clean is not None:
            parts += _parts(clean, "no hint, problems of")
        return [*parts[:-1], [*parts[-1], Text(note, "dim")]]

    tables.show(sections, console)


def _parts(found: CrossPlay, rows: str) -> list[Section]:
    """Tabulate a matrix, and its changes; ``rows`` heads the phases."""
    matrix = tables.table(f"|{rows}", ">tasks", *(part for name in found.checkpoints for part in (f">{name}", "|95%")))
    changes = tables.table(f"|{rows}", ">own", ">progress", "|95%", ">forgetting", "|95%", ">gain", "|95%")
    for row, phase in enumerate(found.phases):
        cells = [
            cell
            for value, low, high in zip(found.matrix[row], found.low[row], found.high[row], strict=True)
            for cell in (number(value), interval(low, high))
        ]
        tables.add(matrix, phase, f"{found.tasks[row]:,}", *cells)
        estimates = (found.progress[row], found.forgetting[row], found.gain[row])
        values = [cell for one in estimates for cell in (number(one.value), interval(one.low, one.high))]
        tables.add(changes, phase, found.checkpoints[found.own[row]], *values)
    return [[matrix], [changes]]
