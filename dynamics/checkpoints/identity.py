"""Whether a checkpoint is the one that was read before: what its files are, without reading them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from dynamics.checkpoints.tensor import Checkpoint
from dynamics.errors import InputError
from dynamics.io.paths import files_under

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
