"""The output files that every command offers: checked before the work, written whole."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.cli.command import tell
from dynamics.errors import InputError, printable
from dynamics.io.atomic import check_target, replacing
from dynamics.io.paths import suggest_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: suffixes of figures
FIGURES = (".png", ".svg", ".pdf")


def check_output(path: str | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, before the work is done rather than after.

    Parameters
    ----------
    path : of the output; None for none, ``-`` for standard output.
    suffixes : that the path may have, in lower case; any if empty.

    Raises
    ------
    InputError : another suffix, a path that is no regular file, or a folder that is not there or not writable.
    """
    if path is None or path == "-":
        return
    target = Path(path)
    if suffixes and target.suffix.lower() not in suffixes:
        raise InputError(f"{path}: unknown kind of output; expected {', '.join(suffixes)}")
    check_target(target)
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist; create it first{suggest_path(folder)}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: the folder {folder} is not writable")


def add_outputs(parser: argparse.ArgumentParser, numbers: str, drawing: str) -> None:
    """Add the options for the outputs that every command has; ``numbers`` and ``drawing`` are what --csv and --figure hold."""
    parser.add_argument("--json", metavar="FILE", help="write the whole report to FILE as JSON; - writes it to standard output")
    parser.add_argument("--csv", metavar="FILE", help=f"write {numbers} to FILE as a CSV table; - writes it to standard output")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page with figures and tables to FILE")
    parser.add_argument("--figure", metavar="FILE", help=f"draw {drawing} to FILE, whose suffix is .png, .svg or .pdf")


def check_outputs(options: Any) -> None:
    """Refuse outputs that cannot be written, and two that go to the same place."""
    for path in (options.json, options.csv, options.html):
        check_output(path)
    check_output(options.figure, FIGURES)
    if sum(path == "-" for path in (options.json, options.csv)) > 1:
        raise InputError("--json - and --csv - both want standard output; name a file for one of them")
    files = [os.path.abspath(path) for path in (options.json, options.csv, options.html, options.figure) if path not in (None, "-")]
    if twice := next((path for path in files if files.count(path) > 1), None):
        raise InputError(f"{printable(twice)}: is named for two outputs; each needs a file of its own")


def write(path: str, content: str | bytes) -> None:
    """Write a file whole or not at all, and say so on stderr. ``-`` is standard output."""
    if path == "-":
        sys.stdout.write(content if isinstance(content, str) else content.decode())
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    wrote(path)


def save_figure(figure: Figure, path: str) -> None:
    """Write a figure in the format that its suffix names, and say so on stderr."""
    from dynamics.presentation.style import save

    save(figure, path)
    wrote(path)


def wrote(path: str | os.PathLike[str]) -> None:
    """Say on stderr that a file was written."""
    tell(f"wrote {printable(path, 1000)}")
