"""Offline folders of Weights & Biases: metrics and settings of ``run-*.wandb``, whose records the wandb package parses.

The package has no reader of these files, so the frame of the records is read here: blocks of 32 KiB after seven bytes, with records that
may span several blocks, as in the logs of LevelDB.
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.io.regular import open_regular
from dynamics.io.side_files import parse_json
from dynamics.io.yaml import parse_yaml
from dynamics.runs.readers.looking import entries, is_file, is_folder
from dynamics.runs.readers.metric_names import LARGEST_STEP, Scalar, check_number, cut, drop_repeated, or_refuse, take

MAGIC = b":W&B\xe1\xbe\x00"
BLOCK = 1 << 15
#: bytes of a record that is read, and of a value in it that can be a number
LARGEST, NUMBER = 1 << 24, 64
#: names under which trainers log the step of the optimizer; the step of W&B itself counts the calls
STEPS = ("train/global_step", "training/global_step", "trainer/global_step", "eval/global_step", "training_step", "global_step", "step")
#: names of what is not measured
UNMEASURED = frozenset(STEPS) | {"_step", "_timestamp", "_runtime"}
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """What the folders of W&B hold.

    Attributes
    ----------
    rows : step, name and value of each metric, in the order in which they were written.
    settings : of the last run, by name.
    dropped : number of values by step that a later file replaced.
    """

    rows: list[Scalar] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    dropped: Counter[int] = field(default_factory=Counter)


def run_files(folder: Path) -> list[Path]:
    """List the files of W&B of a run's folder, which has ``wandb/``, of ``wandb/`` itself, or of one folder in it, the earliest first."""
    inside = [child for parent in (folder, folder / "wandb") for child in entries(parent) if fnmatchcase(child.name, "*run-*")]
    parents = [folder, *(child for child in inside if is_folder(child))]  # without latest-run, a link to one of them
    paths = [path for parent in parents for path in entries(parent) if fnmatchcase(path.name, "run-*.wandb")]
    return sorted(paths, key=lambda path: (path.parent.name.partition("run-")[2], path.name))


def scalars(folder: Path, notes: list[str] | None = None) -> list[Scalar]:
    """Read the metrics of the files that ``run_files`` lists, in the order in which they were written.

    Parameters
    ----------
    folder : the folder.
    notes : lines are added on what could not be read; None to refuse it.

    Raises
    ------
    InputError : wandb is not installed, or, without ``notes``, a file cannot be read to its end.
    """
    return or_refuse(notes, lambda lines: read_runs(run_files(folder), lines)).rows


def read_runs(files: list[Path], notes: list[str]) -> Logged:
    """Read files of W&B.

    Parameters
    ----------
    files : the files, the earliest first; of steps that a resumed run made again, only the later values are kept.
    notes : lines are added on what could not be read, also on an unfinished last record, as in a run that goes on.

    Raises
    ------
    InputError : wandb is not installed.
    """
    with optional_import("reading the files of W&B"):
        from wandb.proto.wandb_internal_pb2 import Record
    logged = Logged()

    def read(path: Path) -> None:
        settings = _settings_file(path)
        logged.settings = settings or logged.settings
        for record in _records(path):
            _add(logged, settings, Record.FromString(record))
            logged.settings = settings
            check_number(logged.rows, path)

    for path in files:
        start = len(logged.rows)
        take(partial(read, path), path, notes)
        drop_repeated(logged.rows, start, logged.dropped)
    return logged


def _settings_file(path: Path) -> dict[str, Any]:
    """Read ``files/config.yaml`` beside a file, which versions of W&B up to 0.18 write; its values lie under ``value``."""
    file = path.parent / "files" / "config.yaml"
    if not is_file(file):
        return {}
    document = parse_yaml(file)
    entries = document.items() if isinstance(document, dict) else ()
    return {str(name): entry["value"] for name, entry in entries if isinstance(entry, dict) and "value" in entry}


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file but for those that are too large; an ``InputError`` after the last whole one if the file goes on.

    A record is one part of kind ``_FULL``, or begins with one of kind ``_FIRST`` and ends with one of kind ``_LAST``.
    """
    parts, within = b"", False
    for kind, body in _parts(path):
        if within == (kind in (_FULL, _FIRST)):
            raise _damaged(path)
        parts = parts + body if within and len(parts) <= LARGEST else parts if within else body
        within = kind in (_FIRST, _MIDDLE)
        if not within and len(parts) <= LARGEST:
            yield parts
    if within:
        raise cut(path)


def _parts(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of records, a kind and its bytes. None lies in two blocks, so a few bytes at the end of a block may be unused."""
    with open(open_regular(path), "rb") as file:
        if (start := file.read(len(MAGIC))) != MAGIC:
            raise InputError(f"{printable(path)}: does not begin as a file of W&B does; its metrics were left out")
        block, position = start + file.read(BLOCK - len(start)), len(start)
        while block:
            if len(block) < BLOCK and 0 < len(block) - position < 7:
                raise cut(path)
            if len(block) - position < 7:
                block, position = file.read(BLOCK), 0
                continue
            check, length, kind = struct.unpack_from("<IHB", block, position)
            body = block[position + 7 : position + 7 + length]
            if len(body) < length or kind == 0:  # zeros, where a file system kept the size of a file but not its end
                raise cut(path)
            position += 7 + length
            if zlib.crc32(bytes([kind]) + body) != check or kind > _LAST:
                raise _damaged(path)
            yield kind, body


def _damaged(path: Path) -> InputError:
    return InputError(f"{printable(path)}: is damaged; its metrics after this were left out")


def _add(logged: Logged, settings: dict[str, Any], record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "history":
        row = {_name(item): number for item in record.history.item if (number := _number(item.value_json)) is not None}
        step = next((int(row[name]) for name in STEPS if abs(row.get(name, math.nan)) <= LARGEST_STEP), record.history.step.num)
        logged.rows += [(step, name, value) for name, value in row.items() if name not in UNMEASURED]
    elif kind in ("run", "config"):
        config = record.run.config if kind == "run" else record.config
        for item in config.update:
            settings[_name(item)] = parse_json(item.value_json.encode(), "a setting")


def _name(item: Any) -> str:
    return sys.intern(item.key or ".".join(item.nested_key))


def _number(text: str) -> float | None:
    """Return the number that a value of JSON is; None for a table, an image, or a text."""
    if len(text) > NUMBER or not text or text[0] in '"{[tf':
        return None
    try:
        return math.nan if text == "null" else float(text)
    except ValueError:
        return None
