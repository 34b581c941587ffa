"""JSON lines, a JSON value per line: read with line numbers, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing
from dynamics.io.compression import opened
from dynamics.io.json import decode, encode
from dynamics.io.side_files import BYTE_ORDER_MARK, why_not_json

#: bytes of a line after decompression
LINE = 1 << 27
#: lists and objects of a line that is decoded as a whole; each takes up to 25 times the memory of its text
CONTAINERS = 5_000_000
#: bytes that any file may unpack to, and how many times its own size a larger one may: gzip packs nothing to less than a thousandth, and
#: rollouts of a collapsed policy nearly to that
UNPACKED, RATIO = 1 << 27, 1100
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_json_lines(path: Path, unfinished: list[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Read the values of a file, which may be compressed, with their line numbers.

    Parameters
    ----------
    path : path of the file. A byte order mark and blank lines are skipped.
    unfinished : list to which the number of an incomplete last line without a newline is added, as left by a killed program; the line is
        skipped. If None, such a line is an error.

    Raises
    ------
    InputError : the file cannot be read or is not UTF-8, or a line is not JSON.
    """
    with opened(path) as stream:
        for number, line in numbered_lines(stream, path):
            value = parse_line(line, number, path, unfinished)
            if value is not UNFINISHED:
                yield number, value


def numbered_lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, starting at 1; skip blank lines and a byte order mark."""
    most = max(UNPACKED, RATIO * os.path.getsize(path))
    for number, line in enumerate(iter(partial(stream.readline, LINE + 1), b""), start=1):
        size = len(line)
        if size > LINE:
            raise InputError(f"{printable(path)}, line {number}: over {LINE} bytes; it is not a file of JSON lines")
        most -= size
        if most < 0:
            raise InputError(f"{printable(path)}: unpacks to over {RATIO} times its size, as no log does; unpack it first if it is one")
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line[:2] in UTF_16 or b"\0" in line[:64]:
                raise InputError(f"{printable(path)}: is not UTF-8 text (perhaps UTF-16, or a binary file); convert it first")
        if not line.isspace():
            yield number, line


#: value of ``parse_line`` for an incomplete line
UNFINISHED: Any = object()


def parse_line(line: bytes, number: int, path: Path, unfinished: list[int] | None = None) -> Any:
    """Decode a line, or raise the reason why it is not JSON. Return ``UNFINISHED`` for an incomplete line, see ``read_json_lines``."""
    try:
        if len(line) > CONTAINERS and line.count(b"[") + line.count(b"{") > CONTAINERS:
            raise InputError(f"{printable(path)}, line {number}: holds over {CONTAINERS:,} lists and objects; it is not a record")
        return decode(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}, line {number}: is not UTF-8 text at byte {error.start}; convert the file first") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        if unfinished is None or line.endswith(b"\n"):
            raise InputError(f"{printable(path)}, line {number}: is not JSON: {why_not_json(error)}") from None
        unfinished.append(number)
        return UNFINISHED


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a value per line; the file is written whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(encode(value) + b"\n" for value in values)
