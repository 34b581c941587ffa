"""Write folders whole or not at all, as ``atomic`` does for files, and lock them for one process at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not available on this system
    fcntl = None  # type: ignore[assignment]

from dynamics.errors import InputError
from dynamics.io.atomic import sync

#: the file that is locked if the folder itself cannot be locked
LOCK = ".lock"


def save_folder(target: Path, fill: Callable[[Path], None], advice: str = "", keep: bool = False) -> None:
    """Write a folder under a temporary name by ``fill(path)``, sync it to disk, and rename it.

    Parameters
    ----------
    target : the folder; an existing folder is replaced.
    fill : called with the path of the folder to write files into.
    advice : end of the error message.
    keep : if another process has made ``target`` in the meantime, keep that folder instead of replacing it.

    Raises
    ------
    InputError : the folder cannot be written; an existing folder is unchanged.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in (*temporary.rglob("*"), temporary):
            sync(file)
        if not keep:
            shutil.rmtree(target, ignore_errors=True)
        try:
            temporary.replace(target)
        except OSError:
            if not (keep and target.is_dir()):
                raise
        sync(target.parent)
    except Exception as error:  # a full disk raises OSError, RuntimeError or SafetensorError
        if isinstance(error, (InputError, AssertionError)):
            raise
        message = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"{target}: cannot be written ({message})" + (f"; {advice}" if advice else "")) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_partial(target: Path) -> None:
    """Remove temporary folders of processes that were killed while saving ``target``; no process may be saving it now."""
    for partial in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def exclusive(folder: Path, busy: Callable[[], None]) -> Iterator[bool]:
    """Make a folder, and hold its lock until the block or the process ends.

    Parameters
    ----------
    folder : the folder to lock.
    busy : called if another process holds the lock; it raises an error, or returns to wait for that process.

    Yields
    ------
    Whether the lock is held. The block runs without a lock if neither the folder nor a file in it can be locked, or if this process already
    holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder, busy)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None
    if handle is None:
        yield False
        return
    key = _identity(handle)
    _held.add(key)
    try:
        yield True
    finally:
        _held.discard(key)
        os.close(handle)


#: device and inode of the locks of this process
_held: set[tuple[int, int]] = set()


def _identity(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _lock(folder: Path, busy: Callable[[], None]) -> int | None:
    """Open and lock a file; return None if locking is not possible."""
    if fcntl is None:
        return None
    # locking the folder itself leaves no file behind, but NFS only locks files that are open for writing, which excludes folders
    for path, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
        handle = os.open(path, flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            try:
                busy()
                if _identity(handle) not in _held:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
            return None
        except OSError:  # the file system does not support this lock
            os.close(handle)
    return None
