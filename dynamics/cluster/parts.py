"""Parts of a comparison: which units belong to a part, the file of a part, and the check that files are all parts of one comparison."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamics.cluster.work import Record, Work, encode, mismatch
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.json import read_document
from dynamics.io.threads import Progress

#: version of the format of part files
FORMAT = 1
#: parts of a comparison
MOST = 100_000


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a part file: part ``number`` of ``count``, from 1, and the tally of each of its ``units``."""

    schema: str
    number: int
    count: int
    record: Record
    units: list[int]
    tallies: list[Any]
    sha256: str


class _Head(msgspec.Struct):
    schema: str = ""


def deal(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Deal units to parts, so that the parts have nearly the same number of bytes: the largest first, each to the smallest part.

    No part is larger than 4/3 of what the best dealing could reach (Graham 1969). Parts can be empty.

    >>> deal([5, 1, 1, 3], 2)
    [[0], [1, 2, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for unit in sorted(range(len(sizes)), key=lambda unit: (-sizes[unit], unit)):
        size, number = heapq.heappop(heap)
        parts[number].append(unit)
        heapq.heappush(heap, (size + sizes[unit], number))
    return [sorted(part) for part in parts]


def parse(text: str) -> tuple[int, int]:
    """Parse ``I/N``; an ``InputError`` if it is not one of N parts, numbered from 1."""
    number, slash, count = text.partition("/")
    if not slash or not all(side.isdecimal() and side.isascii() and len(side) < 10 for side in (number, count)):
        raise InputError(f"--part {printable(text)}: write I/N, such as 1/8 for the first of eight parts")
    if not 1 <= int(number) <= int(count) <= MOST:
        raise InputError(f"--part {printable(text)}: parts are numbered from 1 to N, and N is at most {MOST:,}")
    return int(number), int(count)


def make(work: Work, number: int, count: int, threads: int | None = None, progress: Progress | None = None) -> bytes:
    """Compute a part; return the content of its file."""
    units = deal(work.record.sizes, count)[number - 1]
    tallies = work.tally(units, threads, progress) if units else []
    part = Part(_schema(work.record.measure), number, count, work.record, units, tallies, "")
    return encode(msgspec.structs.replace(part, sha256=_digest(part))) + b"\n"


def _schema(measure: str) -> str:
    return f"{measure}.part/{FORMAT}"


def _digest(part: Part) -> str:
    return hashlib.sha256(encode(msgspec.structs.replace(part, sha256=""))).hexdigest()


def read(measure: str, path: str) -> Part:
    """Read a part file of a measure; an ``InputError`` if it is none, is of another version of the format, or is damaged."""
    where = printable(path)
    value = read_document(Path(path))
    schema = value.get("schema") if isinstance(value, dict) else None
    kind, _, version = str(schema).rpartition("/")
    if schema is None or not kind.endswith(".part"):
        raise InputError(f"{where}: is not a part; parts are what --part I/N --json FILE writes")
    if kind != f"{measure}.part":
        raise InputError(f"{where}: is a part of {printable(kind.removesuffix('.part'))}, not of {measure}")
    if version != str(FORMAT):
        raise InputError(
            f"{where}: has version {printable(version, 20)} of the format of parts, not {FORMAT}; make all parts with one version"
        )
    try:
        part = msgspec.convert(value, Part)
        damaged = part.sha256 != _digest(part) or len(part.units) != len(part.tallies)
    except (msgspec.ValidationError, ValueError, RecursionError):
        damaged = True
    if damaged:
        raise InputError(f"{where}: is damaged: its content does not have the checksum that stands in it; copy it again or make it again")
    return part


def merge(measure: str, paths: Sequence[str]) -> tuple[Record, list[Any]]:
    """Read all parts of one comparison.

    Returns
    -------
    The record of the first part, and the tally of every unit in the order of one process.

    Raises
    ------
    InputError : a file is no part or damaged, belongs to another comparison, or a part is missing or there twice.
    """
    found: dict[int, tuple[str, Part]] = {}
    for path in paths:
        part = read(measure, path)
        first_path, first = min(found.values(), key=lambda entry: entry[1].number, default=(path, part))
        if why := mismatch(first.record, part.record):
            raise InputError(f"{printable(path)}: does not belong to {printable(first_path)}: {why}")
        if part.count != first.count:
            raise InputError(f"{printable(path)}: is one of {part.count} parts, {printable(first_path)} one of {first.count}")
        if part.number in found:
            raise InputError(f"{printable(path)}: is part {part.number}/{part.count}, as {printable(found[part.number][0])} is")
        found[part.number] = path, part
    count = part.count
    if len(found) < count:
        missing = [number for number in range(1, count + 1) if number not in found]
        shown = ", ".join(f"{number}/{count}" for number in missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise InputError(f"{plural(len(missing), 'part')} of {count} missing: {shown}; make with --part and name them too")
    record = found[1][1].record
    tallies: dict[int, Any] = {}
    for number, units in enumerate(deal(record.sizes, count), 1):
        path, part = found[number]
        if part.units != units:
            raise InputError(f"{printable(path)}: holds other tensors than part {number}/{count} has; make it again")
        tallies |= zip(units, part.tallies, strict=True)
    return record, [tallies[unit] for unit in range(len(record.sizes))]
