"""Print the conflict of roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.descriptions import plural
from dynamics.games.terminal import number
from dynamics.presentation import tables
from dynamics.presentation.tables import Section

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.train.conflict.report import StepConflict


def show(found: list[StepConflict], console: Console | None = None) -> None:
    """Print a row per step and metric."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        names = list(dict.fromkeys(name for one in found for name in one.metrics))
        table = tables.table("|conflict of roles", *(f">step {one.step:,}" for one in found))
        for name in names:
            values = [one.metrics.get(name, float("nan")) for one in found]
            tables.add(table, name.removeprefix("conflict/"), *(number(value) for value in values))
        tables.add(table, "norm, all", *(f"{one.norm:.4f}" for one in found))
        tables.add(table, "norm, logged", *("-" if one.logged is None else f"{one.logged:.4f}" for one in found))
        tables.add(table, "invalid proposals", *(f"{one.invalid:,}" for one in found))
        different = [one.step for one in found if one.is_of_the_run is False]
        if different:
            text = f"the gradient of {plural(len(different), 'step')} is not that of the run: its norm differs from what was logged"
            return [[table, Text(text, "bold")]]
        return [[table]]

    tables.show(sections, console)
