"""JSON lines: a JSON value a line, read with line numbers and written whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing
from dynamics.io.compression import opened
from dynamics.io.json import BYTE_ORDER_MARK, decode, encode, why_not_json

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_json_lines(path: Path, unfinished: list[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Read the values of a file, which may be compressed, each with the number of its line.

    Parameters
    ----------
    path : of the file. A byte order mark and blank lines are passed over.
    unfinished : where to add the number of a last line that breaks off without a newline, as a program that was killed leaves it: that
        line is passed over then. If None, it is an error like any other.

    Raises
    ------
    InputError : a file that cannot be read, that is not UTF-8, or a line that is not JSON.
    """
    with opened(path) as stream:
        for number, line in numbered_lines(stream, path):
            value = parse_line(line, number, path, unfinished)
            if value is not UNFINISHED:
                yield number, value


def numbered_lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Count the lines of a file from 1, and pass over blank ones and a byte order mark."""
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line[:2] in UTF_16 or b"\0" in line[:64]:
                raise InputError(f"{printable(path)}: is not UTF-8 text (UTF-16 perhaps, or no text at all); convert it first")
        if not line.isspace():
            yield number, line


#: what ``parse_line`` gives for a line that breaks off
UNFINISHED: Any = object()


def parse_line(line: bytes, number: int, path: Path, unfinished: list[int] | None = None) -> Any:
    """Decode one line, or say why it is not JSON. ``UNFINISHED`` for one that breaks off, see ``read_json_lines``."""
    try:
        return decode(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}, line {number}: is not UTF-8 text at byte {error.start}; convert the file first") from None
    except (ValueError, RecursionError) as error:
        if unfinished is None or line.endswith(b"\n"):
            raise InputError(f"{printable(path)}, line {number}: is not JSON: {why_not_json(error)}") from None
        unfinished.append(number)
        return UNFINISHED


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a value a line, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(encode(value) + b"\n" for value in values)
