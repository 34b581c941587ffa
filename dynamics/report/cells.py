"""Show the cells of a table as text, rounded, the same on the page and in Markdown."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dynamics.errors import printable
from dynamics.presentation.text import number, percent
from dynamics.report.section import Table

#: end of the headings of columns that hold fractions
PERCENT = ", %"
#: characters of a cell
LONGEST = 160


def shown(table: Table, most: int | None = None) -> tuple[list[str], list[list[str]], set[int]]:
    """Show a table.

    Parameters
    ----------
    table : the table.
    most : number of rows; ``table.most`` if None.

    Returns
    -------
    headings : of the columns.
    rows : the cells of the first rows.
    text : positions of the columns that hold text.
    """
    columns = [name for name in table.show if name in table.frame]
    part = table.frame[columns].head(table.most if most is None else most)
    headings = [printable(table.show[name], 60) for name in columns]
    rows = [[cell(value, heading) for value, heading in zip(row, headings, strict=True)] for row in part.itertuples(index=False, name=None)]
    return headings, rows, {position for position, name in enumerate(columns) if _is_text(part[name])}


def _is_text(column: pd.Series[Any]) -> bool:
    return any(isinstance(value, str) for value in column)


def cell(value: Any, heading: str = "") -> str:
    """Show a cell: numbers with four digits, fractions under a heading that ends with ``, %`` as percentages, text in one line.

    >>> cell(0.12345, "bf16, %"), cell(0.000123456), cell(12345), cell(None), cell(True)
    ('12.35', '0.0001235', '12,345', '-', 'yes')
    """
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and heading.endswith(PERCENT):
        return percent(float(value)).removesuffix(" %")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else number(value)
    return printable(value, LONGEST)
