"""Write all tables and figures of a report into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing
from dynamics.io.csv import write_csv
from dynamics.report.assembly import Report
from dynamics.report.page import Drawn


def check_folder(path: str) -> Path:
    """Check that files can be written into a folder, which is made later if it is not there.

    Raises
    ------
    InputError : it is no folder, or the folder above it does not exist.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{printable(path)}: is a file; --out names a folder")
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise InputError(f"{printable(path)}: the folder {printable(folder.absolute().parent)} does not exist; create it first")
    return folder


def write_files(report: Report, figures: Mapping[str, Drawn], folder: Path) -> int:
    """Write every table as CSV and every figure as SVG, each whole or not at all; return how many."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{printable(folder)}: {error.strerror or error}") from None
    tables = [table for section in report.sections for table in section.tables]
    for table in tables:
        write_csv(folder / f"{table.name}.csv", table.frame)
    for name, drawn in figures.items():
        with replacing(folder / f"{name}.svg") as temporary:
            temporary.write_bytes(drawn.wide)
    return len(tables) + len(figures)
