"""Folders that are written whole or not at all, and that one process works on at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

from dynamics.errors import InputError

#: the file that is locked where a folder itself cannot be
LOCK = ".lock"


def save_folder(target: Path, fill: Callable[[Path], Any], advice: str = "") -> None:
    """Write a folder under a temporary name by ``fill(path)``, see that it is on disk, and rename it.

    A folder of that temporary name, which only a killed process leaves, is removed first; two processes must not save the same ``target``
    at once (see ``exclusive``). ``advice`` ends the error message.
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except Exception as error:  # a full disk comes as OSError, RuntimeError or SafetensorError
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (InputError, AssertionError)):
            raise
        said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"{target}: cannot be written ({said})" + (f"; {advice}" if advice else "")) from None


@contextlib.contextmanager
def exclusive(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Make a folder, and hold its lock until the block ends or the process does, however it ends.

    ``busy`` is called if another process holds the lock: it raises, or returns to wait for that process. Where neither the folder nor a
    file in it can be locked, the block runs without a lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder, busy)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(folder: Path, busy: Callable[[], None]) -> int | None:
    """An open file that holds the lock; None where there are no locks."""
    if fcntl is None:
        return None
    # the folder itself, so that nothing is left behind; NFS locks only what is open for writing, which a folder cannot be
    for path, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
        handle = os.open(path, flags, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # no lock of this kind on this file system
            os.close(handle)
        except BaseException:
            os.close(handle)
            raise
        else:
            return handle
    return None
