"""Print robustness gaps to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.errors import printable
from dynamics.games.terminal import interval
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.games.intervals import Estimate
    from dynamics.train.games.robustness import Gap


def show(gaps: Sequence[Gap], console: Console | None = None) -> None:
    """Print a row for each model and kind of hints; ``change`` is the gap minus that of the base on the same problems."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        table = tables.table("<model", "<hints", ">true", ">clean", ">hinted", ">gap", "|95%", ">change", "|95%", ">problems", keys=2)
        before = ""
        for gap in gaps:
            found = gap.found
            change = ("", "") if gap.change is None else _signed(gap.change)
            values = [f"{found.clean.value:.3f}", f"{found.hinted.value:.3f}", *_signed(found.gap), *change, f"{found.gap.count:,}"]
            name = "" if gap.model == before else printable(gap.model, 60)
            tables.add(table, name, gap.kind, "-" if gap.true_share is None else f"{gap.true_share:.2f}", *values)
            before = gap.model
        return [[table]]

    tables.show(sections, console)


def _signed(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:+.3f}", interval(estimate.low, estimate.high)
