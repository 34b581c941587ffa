"""Write files whole or not at all, and append to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from dynamics.errors import InputError

#: characters of a file's stem and suffix that the name of its temporary file holds; a name has at most 255 bytes
STEM = 30


def check_target(path: str | Path) -> None:
    """Refuse a path that renaming a file over it would damage: a folder, a device, a pipe or a socket.

    Links are followed: a link to a device is refused, a link to a file is not.

    Raises
    ------
    InputError : the path exists and is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # the path does not exist; other problems with it are reported when the file is written
        return
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file; name another, or - for standard output where that is possible")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` if the block ends without an error.

    The content is on disk before the file is renamed, and the temporary file is removed after an error. A link is replaced by a file.

    Raises
    ------
    InputError : ``path`` exists and is not a regular file, or cannot be written.
    """
    target = Path(path)
    check_target(target)
    # the name is chosen before the file is made, so that a signal at any moment leaves no file behind
    temporary = target.with_name(f".{target.stem[:STEM]}-{secrets.token_hex(4)}{target.suffix[:STEM]}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        sync(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


class Appender:
    """Appends to a file: all of the data, or nothing if there is no room for it.

    A process that is killed, or a machine that fails, can leave a part of the data at the end of the file.

    Parameters
    ----------
    path : path of the file, which is opened, or made, by the first ``append``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._descriptor: int | None = None

    def append(self, data: bytes) -> None:
        """Append ``data``.

        Raises
        ------
        InputError : the file cannot be written, or is not a regular file.
        """
        try:
            if self._descriptor is None:
                check_target(self.path)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            size = os.fstat(self._descriptor).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except BaseException:
                os.ftruncate(self._descriptor, size)
                raise
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}") from None

    def sync(self) -> None:
        """Wait until what was appended is on disk."""
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise InputError(f"{self.path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file; the next ``append`` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def sync(path: str | Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk; not every file system can sync a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)
