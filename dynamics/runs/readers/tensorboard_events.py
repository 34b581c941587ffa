"""TensorBoard's event files, parsed by the tensorboard package: scalars, and texts in which trainers keep their settings.

A file holds records: a length, its checksum, a protocol buffer, and its checksum. A record is read only if it is small, so that images and
graphs, which are not needed, take no memory.
"""

from __future__ import annotations

import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.io.regular import open_regular
from dynamics.runs.readers.looking import entries, is_folder
from dynamics.runs.readers.metric_names import Scalar, check_number, cut, drop_repeated, or_refuse, take

NAME = re.compile(r"events\.out\.tfevents\.")
#: folders below a run's in which event files are looked for, folders that are opened at most, and files that are read
DEPTH, FOLDERS, FILES = 4, 2000, 1000
#: bytes of a record that is read; the settings of a large run take some 10,000
LARGEST = 1 << 20
#: bytes of all texts that are kept
TEXT = 1 << 24
#: names of the folders of saved weights, which hold no event files
_WEIGHTS = re.compile(r"(checkpoint|global_step|step|iter)[-_]?\d+$")
#: kinds of numbers of a tensor of one element: number in the protocol -> field, and code of ``struct``
_KINDS = {1: ("float_val", "<f"), 2: ("double_val", "<d"), 3: ("int_val", "<i"), 9: ("int64_val", "<q")}
_STRING = 7


@dataclass
class Events:
    """What event files hold.

    Attributes
    ----------
    rows : step, tag and value of each scalar, in the order in which they were written.
    texts : tag -> the last text, such as the settings of the trainer as JSON.
    dropped : number of values by step that a later file replaced.
    """

    rows: list[Scalar] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    dropped: Counter[int] = field(default_factory=Counter)


def event_files(folder: Path) -> list[Path]:
    """List the event files in a folder and a few levels below it, outside of its checkpoints."""
    files: list[Path] = []
    level, opened = [folder], 0
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for parent in level[: FOLDERS - opened]:
            inside, folders = _entries(parent)
            files += inside
            below += folders
        opened += len(level)
        level = below
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    listed = entries(folder)
    files = [entry for entry in listed if NAME.match(entry.name) and not is_folder(entry)]
    below = [entry for entry in listed if not os.path.islink(entry) and not _WEIGHTS.search(entry.name) and os.path.isdir(entry)]
    return files, below


def scalars(folder: Path, notes: list[str] | None = None) -> list[Scalar]:
    """Read the scalars of the event files in a folder, not of those below it, in the order in which they were written.

    Parameters
    ----------
    folder : the folder.
    notes : lines are added on what could not be read; None to refuse it.

    Raises
    ------
    InputError : tensorboard is not installed, or, without ``notes``, a file cannot be read to its end.
    """
    return or_refuse(notes, lambda lines: read_events(_entries(folder)[0], lines)).rows


def read_events(files: list[Path], notes: list[str]) -> Events:
    """Read event files.

    Parameters
    ----------
    files : the files; those that began earlier are read first; of steps that a resumed run made again, only the later values are kept.
    notes : lines are added on what could not be read, also on an unfinished last record, as in a run that goes on.

    Raises
    ------
    InputError : tensorboard is not installed.
    """
    with optional_import("reading TensorBoard's event files"):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    events = Events()

    def read(path: Path) -> None:
        for record in _records(path, masked_crc32c):
            _add(events, Event.FromString(record))
            check_number(events.rows, path)

    if len(files) > FILES:
        notes.append(f"{printable(files[0].parent)}: {len(files)} event files; only the {FILES} that began last were read")
    for path in sorted(files, key=lambda file: _start(file, Event))[-FILES:]:
        start = len(events.rows)
        take(partial(read, path), path, notes)
        drop_repeated(events.rows, start, events.dropped)
    return events


def _start(path: Path, kind: Any) -> float:
    """Return the time of the first event; 0 if there is none, or it cannot be read."""
    try:
        with open(open_regular(path), "rb") as file:
            head = file.read(12)
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            time = kind.FromString(file.read(size)).wall_time if 0 < size <= LARGEST else 0.0
    except Exception:  # reported when the file is read
        return 0.0
    return float(time) if math.isfinite(time) else 0.0


def _records(path: Path, checksum: Any) -> Iterator[bytes]:
    """Yield the small records of a file; an ``InputError`` after the last whole one if the file does not end with it."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise InputError(f"{printable(path)}: is empty; it may still be being written")
        while head := file.read(12):
            if len(head) < 12:
                raise cut(path)
            length, check = struct.unpack("<QI", head)
            if checksum(head[:8]) != check:
                raise InputError(f"{printable(path)}: is damaged at byte {file.tell() - 12}; its metrics after this were left out")
            if file.tell() + length + 4 > size:
                raise cut(path)
            if length > LARGEST:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            yield _checked(file, length, checksum, path)


def _checked(file: IO[bytes], length: int, checksum: Any, path: Path) -> bytes:
    record = file.read(length)
    if file.read(4) != struct.pack("<I", checksum(record)):
        raise InputError(f"{printable(path)}: is damaged at byte {file.tell() - length - 4}; its metrics after this were left out")
    return record


def _add(events: Events, event: Any) -> None:
    for value in event.summary.value:
        if value.HasField("simple_value"):
            events.rows.append((event.step, sys.intern(value.tag), value.simple_value))
        elif value.HasField("tensor"):
            tensor = value.tensor
            if tensor.dtype == _STRING:
                _add_text(events, value.tag, tensor)
            elif (number := _number(tensor)) is not None:
                events.rows.append((event.step, sys.intern(value.tag), number))


def _number(tensor: Any) -> float | None:
    """Return the number of a tensor of one element; None for others, such as images and histograms."""
    if tensor.dtype not in _KINDS or any(axis.size != 1 for axis in tensor.tensor_shape.dim):
        return None
    name, code = _KINDS[tensor.dtype]
    if len(tensor.tensor_content) == struct.calcsize(code):
        return float(struct.unpack(code, tensor.tensor_content)[0])
    values = getattr(tensor, name)
    return float(values[0]) if len(values) == 1 else None


def _add_text(events: Events, tag: str, tensor: Any) -> None:
    if len(tensor.string_val) == 1 and sum(map(len, events.texts.values())) + len(tensor.string_val[0]) <= TEXT:
        events.texts[tag.removesuffix("/text_summary")] = tensor.string_val[0].decode("utf-8", "replace")
