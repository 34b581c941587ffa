"""Print the learnable information of phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.games.terminal import interval, number
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.train.learnable.report import Phase


def show(found: Sequence[Phase], tokens: int, console: Console | None = None) -> None:
    """Print a row per phase."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        table = tables.table("|steps", ">tasks", ">nats", "|95%", ">nats a token", ">first loss", ">final loss")
        for phase in found:
            final = sum(one.final for one in phase.learners) / len(phase.learners)
            estimate = phase.nats
            tables.add(
                table,
                f"{phase.first_step:,}-{phase.last_step:,}",
                f"{phase.tasks:,}",
                number(estimate.value, False),
                interval(estimate.low, estimate.high, False),
                number(phase.per_token),
                number(phase.curve[0]),
                number(final),
            )
        note = f"each learner met each task once, up to {tokens:,} tokens of answers; intervals: over {len(found[0].learners)} learners"
        return [[table, Text(note, "dim")]]

    tables.show(sections, console)
