"""The order of a series of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from dynamics.cli.command import tell
from dynamics.errors import printable
from dynamics.io.paths import natural_order


def sort_series(command: str, names: Sequence[str]) -> list[str]:
    """Put a series of checkpoints into natural order, and say so in one line if that is another order than the one given.

    Parameters
    ----------
    command : the name of the command, which the line begins with.
    names : the checkpoints. A base whose name differs from the others' in more than its number stays first.
    """
    ordered = natural_order(names)
    if ordered != list(names):
        tell(f"{command}: sorted the series by number: {', '.join(printable(name) for name in ordered)}")
    return ordered
