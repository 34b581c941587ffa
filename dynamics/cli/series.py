"""The order of a series of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from dynamics.cli.command import tell
from dynamics.errors import printable
from dynamics.io.locations import without_secrets
from dynamics.io.paths import natural_order


def sort_series(command: str, names: Sequence[str]) -> list[str]:
    """Sort a series of checkpoints in natural order, and report the order on stderr if it differs from the given one.

    Parameters
    ----------
    command : name of the command, the prefix of the line.
    names : the checkpoints. A base whose name differs from the others' in more than its number stays first.
    """
    ordered = natural_order(names)
    if ordered != list(names):
        tell(f"{command}: sorted the series by number: {', '.join(printable(without_secrets(name)) for name in ordered)}")
    return ordered
