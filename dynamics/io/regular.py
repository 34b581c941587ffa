"""Open regular files only: a pipe would block, and a device or a socket is not a file to read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from dynamics.errors import InputError, printable

#: a pipe or a device that takes the place of the file after it was checked neither blocks nor becomes this process's terminal
FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"))
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> int:
    """Open a regular file, or a link to one, to read it; return its descriptor.

    Raises
    ------
    InputError : it cannot be opened, or is something else; nothing waits for a pipe's other end.
    """
    try:
        _check(path, os.stat(path))  # opening a device can have an effect, so it is not opened
        descriptor = _opened(path)
    except InputError:
        raise
    except ValueError:  # a zero byte in a name
        raise InputError(f"{printable(path)}: is not a path") from None
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror or error}") from None
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        advice = "; save what comes out of it to a file, and name that" if kind == "a pipe" else ""
        raise InputError(f"{printable(path)}: is not a regular file but {kind}{advice}")


def _opened(path: Path) -> int:
    """Open a file; if more files are open than the soft limit allows, as with a checkpoint of many shards, raise the limit first."""
    try:
        return os.open(path, FLAGS)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return os.open(path, FLAGS)
