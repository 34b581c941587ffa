"""What every command shares: one-line errors, exit codes, files written whole or not at all, a progress bar on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynamics.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130


def run(name: str, main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a command's ``main`` and give its exit status: 0 done, 2 bad input in one line, 130 interrupted."""
    try:
        main(argv)
        sys.stdout.flush()
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        _silence_stdout()
    except OSError as error:  # a full disk behind standard output, say
        _silence_stdout()
        print(f"{name}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _silence_stdout() -> None:
    """Leave nothing in the buffer that the interpreter would fail to write once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """Arguments that make no sense are bad input like any other: one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def check_output(path: str | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, before the work is done rather than after."""
    if path is None or path == "-":
        return
    target = Path(path)
    if suffixes and target.suffix.lower() not in suffixes:
        raise InputError(f"{path}: unknown kind of output; expected {', '.join(suffixes)}")
    if target.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: is not a regular file; name another, or - for standard output")
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: the folder {folder} is not writable")


def add_outputs(parser: argparse.ArgumentParser, numbers: str, drawing: str) -> None:
    """The outputs that every command has."""
    parser.add_argument("--json", metavar="FILE", help="write the whole report as JSON; - for standard output")
    parser.add_argument("--csv", metavar="FILE", help=f"write {numbers} as one table; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page: figures and tables")
    parser.add_argument("--figure", metavar="FILE", help=f"draw {drawing} to .png, .svg or .pdf")


def check_outputs(options: Any) -> None:
    """Refuse outputs that cannot be written, or two that want the same place."""
    for path, suffixes in (
        (options.json, ()),
        (options.csv, ()),
        (options.html, ()),
        (options.figure, (".png", ".svg", ".pdf")),
    ):
        check_output(path, suffixes)
    if sum(path == "-" for path in (options.json, options.csv)) > 1:
        raise InputError("--json - and --csv - both want standard output; name a file for one of them")


def write(path: str, content: str | bytes) -> None:
    """Write a file whole or not at all. ``-`` is standard output."""
    if path == "-":
        sys.stdout.write(content if isinstance(content, str) else content.decode())
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``: on disk and renamed to ``path`` when the block ends well, gone when it does not."""
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def to_json(document: Any) -> str:
    """JSON with null where a number is NaN or infinite."""
    return json.dumps(finite(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """The same document with None for every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class Bar:
    """A progress bar on stderr that shows itself only on a terminal and only for work of more than about two seconds.

    ``unit``: what is counted, to show how many a second.
    """

    PATIENCE = 1.5

    def __init__(self, what: str, unit: str = ""):
        self.what = what
        self.unit = unit
        self._progress: Any = None
        self._task: Any = None
        self._timer = threading.Timer(self.PATIENCE, self._show)
        self._timer.daemon = True

    def __call__(self, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=of)

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()
        if self._progress is not None:
            self._progress.stop()

    def _show(self) -> None:
        """Started by the clock and not by the first result, since opening files and compiling can take the longest."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text

        unit = self.unit

        class Speed(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.speed:,.0f} {unit}/s" if unit and task.speed else "")

        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Speed(), TimeRemainingColumn()
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = progress.add_task(self.what, total=None)
        progress.start()
        self._progress = progress
