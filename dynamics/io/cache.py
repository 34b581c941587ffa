"""Folders of things that can be made again: where the user's is, and how one is kept small."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from dynamics.errors import InputError
from dynamics.io.regular import open_regular

#: seconds after which an entry that is being written is what a killed process left
ABANDONED = 86_400


def user_folder() -> Path:
    """Return the user's cache folder, which need not exist: ``DYNAMICS_CACHE`` if set, else ``dynamics`` in the user's cache."""
    root = os.environ.get("DYNAMICS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamics"
    return Path(root)


def bound(folder: Path, names: re.Pattern[str], beginning: bytes, most: int, used: Collection[Path] = ()) -> None:
    """Delete the entries of a folder that were not used for longest, until all have at most ``most`` bytes.

    Only regular files with the name and the beginning of an entry are deleted. Another process may read, write or delete entries meanwhile:
    an entry that is gone counts as not there.

    Parameters
    ----------
    folder : the folder, which need not exist. The time of change of an entry is that of its last use.
    names : of entries; those that are being written have a dot before.
    beginning : with which the content of every entry begins.
    most : bytes of all entries together.
    used : entries that stay.
    """
    entries = sorted(_entries(folder, names))
    size = sum(bytes_of for _, bytes_of, _ in entries)
    for _, bytes_of, path in entries:
        if size <= most:
            return
        if path not in used and _begins(path, beginning):
            with contextlib.suppress(OSError):
                path.unlink()
            size -= bytes_of


def _entries(folder: Path, names: re.Pattern[str]) -> Iterator[tuple[int, int, Path]]:
    """List the entries of a folder: time of the last use in ns, bytes, path."""
    try:
        found = [name for name in os.listdir(folder) if names.fullmatch(name.removeprefix("."))]
    except OSError:
        return
    for path in (folder / name for name in found):
        with contextlib.suppress(OSError):  # it was deleted meanwhile
            status = path.lstat()
            is_being_written = path.name.startswith(".") and time.time() - status.st_mtime < ABANDONED
            if stat.S_ISREG(status.st_mode) and not is_being_written:
                yield status.st_mtime_ns, status.st_size, path


def _begins(path: Path, beginning: bytes) -> bool:
    """Tell whether a file begins as entries do, or is empty, as an entry that was being written when its process was killed."""
    try:
        descriptor = open_regular(path)
    except InputError:
        return False
    try:
        return os.read(descriptor, len(beginning)) in (beginning, b"")
    except OSError:
        return False
    finally:
        os.close(descriptor)
