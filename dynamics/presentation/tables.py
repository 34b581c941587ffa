"""What every command's report on a screen shares: sections of text and plain tables, wide as the terminal, safe to pipe.

All text from a stranger's file passes through ``printable`` and is printed as ``Text``: never as rich markup, never as control characters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

#: columns of output that does not go to a terminal, unless COLUMNS says otherwise
PLAIN_WIDTH = 100

Section = list[Text | Table]


def stdout() -> Console:
    """Make a console on standard output, ``PLAIN_WIDTH`` columns wide where that is no terminal and COLUMNS says nothing else."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=PLAIN_WIDTH)


def show(sections: Callable[[int, bool], Iterable[Section]], console: Console | None = None) -> None:
    """Print ``sections(width, fancy)`` to standard output (or to ``console``); ``fancy`` if it can show more than ASCII.

    Numbers are never cut: where the width does not suffice, names wrap. Into a pipe or a file the text goes without colour, without
    trailing blanks, and ``PLAIN_WIDTH`` columns wide whatever the machine, so that two reports can be told apart by ``diff``.
    """
    console = console or stdout()
    fancy = console.encoding.lower().startswith("utf")
    parts = list(sections(console.width, fancy))
    if console.is_terminal and fancy:
        _print(console, parts)
        return
    with console.capture() as captured:
        _print(console, parts)
    lines = "\n".join(line.rstrip() for line in captured.get().splitlines())
    writable = lines.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(writable), soft_wrap=True)


def _print(console: Console, sections: Iterable[Section]) -> None:
    for number, section in enumerate(filter(None, sections)):
        if number:
            console.print()
        for part in section:
            console.print(Padding(part, (0, 0, 0, 2)) if isinstance(part, Table) else part, highlight=False)


def table(*columns: str) -> Table:
    """Make a table without lines. A column's first character says how it is set: ``<`` left and wrapped, ``|`` left, ``>`` right."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(column[1:] for column in columns), header_style="bold")
    for column in columns:
        grid.add_column(Text(column[1:]), justify="right" if column[0] == ">" else "left", no_wrap=column[0] != "<", overflow="fold")
    return grid


def add(table: Table, *cells: str) -> None:
    """Add a row of cells, as text and never as markup."""
    table.add_row(*map(Text, cells))
