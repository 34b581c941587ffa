r"""Write tables as CSV that a spreadsheet shows as text and numbers, and never as formulas.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and runs it when the file is opened; some skip a tab
or a line break before it. Names of tensors, models and problems come from strangers' files. So text that begins like that gets an
apostrophe before it, which spreadsheets take for "this is text"; numbers stay numbers. Control characters are written as ``\x1b``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.io.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd

#: what a formula begins with, also in full width; what is neutralised already gets one more apostrophe, so that ``restored`` can undo it
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
#: control characters but tab and line feed, which stand within quotes; characters that reverse the text that follows; halves of pairs
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def to_csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Format a table as CSV, with the names of its columns and without its index.

    Parameters
    ----------
    table : the table. Cells and names that are text are neutralised; see the module.
    float_format : how to write floats, such as ``%.6g``; in full if None.
    """
    import pandas as pd

    columns = [_safe(table.iloc[:, index]) for index in range(table.shape[1])]
    if columns:
        table = pd.concat(columns, axis=1)
    return table.to_csv(index=False, float_format=float_format, lineterminator="\n")


def write_csv(path: str | Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table as CSV, whole or not at all; see ``to_csv``."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_csv(table, float_format).encode())


def _safe(column: pd.Series[Any]) -> pd.Series[Any]:
    """Neutralise the name of a column, and its cells if there is text among them; the type of other cells stays."""
    import pandas as pd

    cells = column.tolist() if column.dtype.kind == "O" or column.dtype == "category" else []
    name = neutralise(column.name)
    if not any(isinstance(cell, str) for cell in cells):
        return column.rename(name)
    return pd.Series([neutralise(cell) for cell in cells], column.index, object, name)


def restored(table: pd.DataFrame) -> pd.DataFrame:
    """Undo the apostrophes in a table that was read from what ``to_csv`` wrote; control characters stay escaped."""
    return table.map(_restored).rename(columns=_restored)


def neutralise(cell: Any) -> Any:
    r"""Return a cell as a spreadsheet should read it: text is made safe, everything else stays as it is.

    >>> neutralise("=1+1"), neutralise(-0.5), neutralise("layers.0\x1b[2J")
    ("'=1+1", -0.5, 'layers.0\\x1b[2J')
    """
    if not isinstance(cell, str):
        return cell
    marked = f"'{cell}" if _FORMULA.match(cell) else cell
    return _CONTROL.sub(_escaped, marked)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _restored(cell: Any) -> Any:
    """Undo the apostrophe of ``neutralise``."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell
