"""What earlier reports measured of the same files, in a folder beside the page.

An entry belongs to the files that were read: their paths, sizes, times of change and inodes are part of its key, as are the version of
this package and the settings of the measure. What cannot be read, or has another key, counts as not there. An entry holds numbers and
names only, as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dynamics.errors import InputError
from dynamics.io.atomic import replacing
from dynamics.io.paths import files_under
from dynamics.io.side_files import parse_json, read_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from dynamics.checkpoints import Checkpoint

    Measured = TypeVar("Measured", bound=DataclassInstance)

SCHEMA = "dynamics.report-cache/1"
#: bytes of an entry: a comparison of 20,000 tensors takes about 20 MB
LARGEST = 200_000_000
#: files of a checkpoint that are looked at
MOST_FILES = 100_000


def identity(source: str | Path | Checkpoint) -> list[Any] | None:
    """Describe the files of a checkpoint, so that another content has another description; None if that is not possible.

    Parameters
    ----------
    source : path of a file or folder of this machine, or an open checkpoint, such as one of the Hub, whose tensors say where they lie.
    """
    if isinstance(source, (str, Path)):
        return _identity_of_path(Path(source))
    entries = [[name, list(tensor.shape), tensor.dtype, repr(tensor.source)] for name, tensor in sorted(source.tensors.items())]
    if not entries or any(tensor.source is None for tensor in source.tensors.values()):
        return None
    return [hashlib.sha256(json.dumps(entries).encode()).hexdigest()]


def _identity_of_path(path: Path) -> list[Any] | None:
    try:
        files = sorted(files_under(path)) if path.is_dir() else [path]
        if len(files) > MOST_FILES:
            return None
        statuses = [(os.path.relpath(file, path), file.stat()) for file in files]
    except (OSError, InputError, ValueError):
        return None
    regular = [(name, status) for name, status in statuses if stat.S_ISREG(status.st_mode)]
    entries = [[name, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev] for name, status in regular]
    return [os.path.realpath(path), *entries] if entries else None


def measured(
    folder: Path | None,
    kind: str,
    sources: Sequence[str | Path | Checkpoint],
    settings: dict[str, Any],
    result: type[Measured],
    measure: Callable[[], Measured],
) -> Measured:
    """Return what an earlier report measured, or measure it and keep it.

    Parameters
    ----------
    folder : of the cache; None for none.
    kind : name of the measure.
    sources : the checkpoints, see ``identity``; if one of them cannot be described, or changes meanwhile, nothing is kept.
    settings : of the measure, plain values.
    result : dataclass of the result, with fields of plain values and of other such dataclasses.
    measure : makes the result.
    """
    key = _key(kind, sources, settings) if folder is not None else None
    if folder is None or key is None:
        return measure()
    path = folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    earlier = _read(path, key, result)
    if earlier is not None:
        return earlier
    value = measure()
    if _key(kind, sources, settings) == key:
        _write(path, key, value)
    return value


def _key(kind: str, sources: Sequence[str | Path | Checkpoint], settings: dict[str, Any]) -> str | None:
    files = [identity(source) for source in sources]
    if any(entry is None for entry in files):
        return None
    return json.dumps([SCHEMA, _version(), kind, files, settings], sort_keys=True)


def _version() -> str:
    """Return the version of this package as it is installed; empty if it is not."""
    try:
        return importlib.metadata.version("training-dynamics")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read(path: Path, key: str, result: type[Measured]) -> Measured | None:
    """Read an entry; None if there is none, or none that this package wrote for this key."""
    try:
        document = parse_json(read_bytes(path, LARGEST), str(path))
        if document["key"] != key:
            return None
        return msgspec.convert(document["result"], result)
    except (InputError, OSError, KeyError, TypeError, ValueError, RecursionError, MemoryError):
        return None


def _write(path: Path, key: str, value: Any) -> None:
    """Keep an entry; if the folder cannot be written, nothing is kept."""
    with contextlib.suppress(InputError, OSError):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, "key": key, "result": asdict(value)}))
