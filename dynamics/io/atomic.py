"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynamics.errors import InputError


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
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files readable by the owner only
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
