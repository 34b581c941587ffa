"""Output files of the commands: checked before the work starts, and written atomically."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.cli.command import tell, writing_stdout
from dynamics.errors import InputError, printable
from dynamics.io.atomic import check_target, replacing
from dynamics.io.locations import scheme_of, without_secrets
from dynamics.io.paths import suggest_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: suffixes of figures
FIGURES = (".png", ".svg", ".pdf")
#: option -> suffixes of its outputs; a path without a suffix, or with one that is not of KNOWN, is accepted too
KINDS = {"json": (".json",), "csv": (".csv",), "html": (".html", ".htm")}
#: suffixes of other kinds of files, which an output may not have
KNOWN = frozenset(
    [*FIGURES, ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".html", ".htm", ".parquet", ".txt", ".md", ".eval", ".npz", ".npy"]
    + [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".distcp", ".yaml", ".yml", ".py", ".zip", ".gz", ".zst"]
)
#: what an earlier report of a command begins with
REPORT = re.compile(rb'\s*\{\s*"schema"\s*:\s*"dynamics\.(?!run)')


def check_output(path: str | None, suffixes: Sequence[str] = ()) -> None:
    """Check that an output can be written. Call it before the work starts.

    Parameters
    ----------
    path : path of the output; None for no output, ``-`` for standard output.
    suffixes : allowed suffixes in lower case; any if empty.

    Raises
    ------
    InputError : the suffix is not allowed, the path is not a regular file, or its folder does not exist or is not writable.
    """
    if path is None or path == "-":
        return
    if scheme_of(path):
        raise InputError(f"{printable(without_secrets(path))}: outputs are written to files of this machine only")
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
    """Add the output options; ``numbers`` and ``drawing`` describe the contents of --csv and --figure."""
    parser.add_argument("--json", metavar="FILE", help="write the whole report to FILE as JSON; - writes it to standard output")
    parser.add_argument("--csv", metavar="FILE", help=f"write {numbers} to FILE as a CSV table; - writes it to standard output")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page with figures and tables to FILE")
    parser.add_argument("--figure", metavar="FILE", help=f"draw {drawing} to FILE, whose suffix is .png, .svg or .pdf")


def check_outputs(options: Any, inputs: Iterable[str], others: Mapping[str | None, Sequence[str]] | None = None) -> None:
    """Check that all outputs can be written, that no two of them go to the same place, and that none replaces an input.

    Parameters
    ----------
    options : the parsed options, with those that ``add_outputs`` adds, or some of them.
    inputs : files and folders that the command reads; ``NAME=PATH`` stands for the path.
    others : outputs of other options -> allowed suffixes.
    """
    paths = {option: getattr(options, option, None) for option in (*KINDS, "figure")}
    for option, suffixes in KINDS.items():
        path = paths[option]
        if path not in (None, "-") and (suffix := Path(path).suffix.lower()) in KNOWN and suffix not in suffixes:
            raise InputError(f"{printable(path)}: --{option} writes {suffixes[0]}, not {suffix}; name another file")
        check_output(path)
    for path, allowed in ((paths["figure"], FIGURES), *(others or {}).items()):
        check_output(path, allowed)
    if paths["json"] == paths["csv"] == "-":
        raise InputError("--json - and --csv - both want standard output; name a file for one of them")
    files = [os.path.abspath(path) for path in (*paths.values(), *(others or {})) if path not in (None, "-")]
    if twice := next((path for path in files if files.count(path) > 1), None):
        raise InputError(f"{printable(twice)}: is named for two outputs; each needs a file of its own")
    sources = list(inputs)
    for file in files:
        _refuse_input(Path(file), sources)


def _refuse_input(target: Path, inputs: Sequence[str]) -> None:
    """Refuse to replace an input, or a file in an input folder that is no figure, page or report of an earlier command."""
    if not target.is_file() or target.suffix.lower() in (*FIGURES, *KINDS["html"]):
        return
    with open(target, "rb") as file:
        if REPORT.match(file.read(200)):
            return
    paths = {path for text in inputs for path in (text, text.partition("=")[2]) if path}
    if any(_holds(path, target) for path in paths):
        raise InputError(f"{printable(target)}: is an input, which the output would replace; name another file")


def _holds(path: str, target: Path) -> bool:
    """Tell whether an existing file is at a path, or in the folder at it."""
    try:
        source = Path(path)
        return source.exists() and (target.samefile(source) or (source.is_dir() and source.resolve() in target.resolve().parents))
    except (OSError, ValueError):  # not a path of this machine
        return False


def write(path: str, content: str | bytes) -> None:
    """Write a file atomically and report it on stderr. ``-`` is standard output."""
    if path == "-":
        with writing_stdout():
            sys.stdout.write(content if isinstance(content, str) else content.decode())
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    wrote(path)


def save_figure(figure: Figure, path: str) -> None:
    """Write a figure in the format of its suffix, and report it on stderr."""
    from dynamics.presentation.style import save

    save(figure, path)
    wrote(path)


def wrote(path: str | os.PathLike[str]) -> None:
    """Report on stderr that a file was written."""
    tell(f"wrote {printable(path, 1000)}")
