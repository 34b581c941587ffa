"""Terminal reports: sections of text and plain tables that fit the width of the terminal and can be piped.

All untrusted text passes through ``printable`` and is printed as ``Text``, so that it can contain neither rich markup nor control
characters. No line is wider than the terminal, and no number is cut: text wraps, and a table that is too wide continues below, with its key
columns repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

#: width of output that does not go to a terminal, unless COLUMNS is set
PLAIN_WIDTH = 100
#: number of spaces before a table, and between its columns
INDENT, GAP = 2, 2
#: minimum width of a wrapped text column, if other columns can continue below instead
READABLE = 14
#: preferred line breaks: at spaces, except before % and after < or >; and in a long name after a separator, but not after a minus sign
BREAK = re.compile(r"(?<![<>]) +(?!%)|(?<=[/_:;=.,])(?=\w)|(?<=\w-)(?=\w)")
#: numbers are not broken, unless they are longer than a line
NUMBER = re.compile(r"\d(?:[\d.,]*\d)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title : title of the column.
    kind : ``<`` left-aligned and wrapped; ``|`` left-aligned; ``>`` right-aligned; ``~`` a left-aligned drawing, omitted if it does not
        fit.
    """

    title: str
    kind: str


@dataclass
class Table:
    """A table without lines.

    Attributes
    ----------
    columns : the columns in order.
    keys : number of leading columns that name the row; they are repeated where the table continues below.
    rows : the cells of every row.
    """

    columns: list[Column]
    keys: int = 1
    rows: list[list[Text]] = field(default_factory=list)

    def lines(self, width: int) -> Iterator[Text]:
        """Lay the table out in lines of at most ``width`` characters."""
        for number, (columns, widths) in enumerate(self._blocks(width - INDENT)):
            if number:
                yield Text()
            if any(self.columns[column].title for column in columns):
                heads = [Text(self.columns[column].title, "bold") for column in columns]
                yield from self._row(columns, widths, heads, bottom=True)
            for row in self.rows:
                yield from self._row(columns, widths, [row[column] for column in columns])

    def _blocks(self, width: int) -> Iterator[tuple[list[int], list[int]]]:
        """Distribute the columns over tables below each other: yield the column indices of each, and their widths."""
        natural = [max([cell_len(column.title), *self._lengths(index)]) for index, column in enumerate(self.columns)]
        least = [min(size, self._least(index)) for index, size in enumerate(natural)]
        shown = list(range(len(self.columns)))
        if _total(least) > width:
            shown = [index for index in shown if self.columns[index].kind != "~"]
        keys, others = shown[: self.keys], shown[self.keys :]
        for index in keys if others else ():  # a name takes at most half of the width, and wraps beyond
            least[index] = min(least[index], max(READABLE, (width - GAP * (len(keys) - 1)) // (2 * len(keys))))
        blocks: list[list[int]] = [[]]
        for index in others:
            if blocks[-1] and _total([least[column] for column in (*keys, *blocks[-1], index)]) > width:
                blocks.append([])
            blocks[-1].append(index)
        for block in blocks:
            columns = keys + block
            yield columns, _widths([least[column] for column in columns], [natural[column] for column in columns], width)

    def _lengths(self, index: int) -> list[int]:
        return [row[index].cell_len for row in self.rows]

    def _least(self, index: int) -> int:
        """Compute the minimum width of a column: its title can wrap, its cells only if they are text."""
        column = self.columns[index]
        title = max((cell_len(word) for word in column.title.split()), default=0)
        if column.kind == "<":
            return max([min(title, READABLE), *(min(length, READABLE) for length in self._lengths(index))])
        return max([title, *self._lengths(index)])

    def _row(self, columns: Sequence[int], widths: Sequence[int], cells: Sequence[Text], bottom: bool = False) -> Iterator[Text]:
        wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
        if bottom:
            height = max(map(len, wrapped))
            wrapped = [[Text()] * (height - len(lines)) + lines for lines in wrapped]
        for parts in zip_longest(*wrapped, fillvalue=Text()):
            line = Text(" " * INDENT)
            for index, width, part in zip(columns, widths, parts, strict=True):
                room = " " * (width - part.cell_len)
                line.append_text(Text(room) + part if self.columns[index].kind == ">" else part + Text(room)).append(" " * GAP)
            line.rstrip()
            yield line


Section = list[Text | Table]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _widths(least: list[int], natural: list[int], width: int) -> list[int]:
    """Distribute the width: widen columns toward their natural widths, the smallest gap first; if too wide, shrink the widest."""
    widths = list(least)
    for index in sorted(range(len(widths)), key=lambda index: natural[index] - least[index]):
        widths[index] = min(natural[index], widths[index] + max(0, width - _total(widths)))
    while widths and _total(widths) > width and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths


def wrap(text: Text, width: int) -> list[Text]:
    """Wrap text into lines of at most ``width`` characters; a number is broken only if it is longer than that."""
    width = max(1, width)
    if text.cell_len <= width and "\n" not in text.plain:
        return [text]
    plain, offsets, start = text.plain, [], 0
    inside = {index for match in NUMBER.finditer(plain) for index in range(match.start() + 1, match.end())}
    ends = sorted({match.end() for match in BREAK.finditer(plain)} - inside)
    while cell_len(plain[start:].rstrip()) > width:
        stop = start + 1
        while cell_len(plain[start : stop + 1]) <= width:
            stop += 1
        fitting = [end for end in ends if start < end and cell_len(plain[start:end].rstrip()) <= width]  # trailing spaces do not count
        whole = [end for end in range(start + 1, stop + 1) if end not in inside]
        start = (fitting or whole or [stop])[-1]
        offsets.append(start)
    lines = list(text.divide(offsets))
    for line in lines:
        line.rstrip()
    return lines


def stdout() -> Console:
    """Make a console on standard output; if that is not a terminal and COLUMNS is not set, it is ``PLAIN_WIDTH`` columns wide."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=PLAIN_WIDTH)


def show(sections: Callable[[int, bool], Iterable[Section]], console: Console | None = None) -> None:
    """Print ``sections(width, fancy)`` to standard output (or to ``console``); ``fancy`` tells whether its encoding is UTF.

    Output to a pipe or a file has no colour and no trailing spaces, and is ``PLAIN_WIDTH`` columns wide on every machine, so that ``diff``
    can compare two reports.
    """
    console = console or stdout()
    fancy = console.encoding.lower().startswith("utf")
    lines = list(_lines(sections(console.width, fancy), console.width))
    if not (console.is_terminal and fancy):
        writable = "\n".join(line.plain for line in lines).encode(console.encoding, "backslashreplace").decode(console.encoding)
        lines = [Text(writable)]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _lines(sections: Iterable[Section], width: int) -> Iterator[Text]:
    for number, section in enumerate(filter(None, sections)):
        if number:
            yield Text()
        for part in section:
            yield from part.lines(width) if isinstance(part, Table) else wrap(part, width)


def table(*columns: str, keys: int = 1) -> Table:
    """Make a table. The first character of each column is its kind, see ``Column``; ``keys`` is the number of columns that name a row."""
    return Table([Column(column[1:], column[0]) for column in columns], keys)


def add(table: Table, *cells: str | Text) -> None:
    """Add a row of cells, as text without markup."""
    row = [Text(cell) if isinstance(cell, str) else cell for cell in cells]
    table.rows.append(row + [Text()] * (len(table.columns) - len(row)))
