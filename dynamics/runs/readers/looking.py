"""Look at the files and folders of a run. What cannot be looked at counts as not there, and is told: nothing is left out in silence.

A reader asks for many files of which most runs have only some, so that a missing one is no fault. A folder that may not be entered, a file
that may not be read, a link that leads nowhere, or a file where a folder is expected is one: ``gathered`` collects a line for each.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from dynamics.errors import InputError, printable
from dynamics.io.regular import open_regular

#: number of entries of a folder that are listed
ENTRIES = 100_000
#: middle of the line on what cannot be looked at
UNREAD = ": cannot be read ("
_gathered: ContextVar[dict[str, None] | None] = ContextVar("gathered", default=None)


@contextlib.contextmanager
def gathered() -> Iterator[dict[str, None]]:
    """Collect the faults that are told within the block, each once, in order."""
    faults: dict[str, None] = {}
    token = _gathered.set(faults)
    try:
        yield faults
    finally:
        _gathered.reset(token)


def tell(fault: str) -> None:
    """Add a fault to those that are gathered, if any are."""
    faults = _gathered.get()
    if faults is not None:
        faults[fault] = None


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file, or a link to one."""
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder, or a link to one."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def exists(path: Path) -> bool:
    """Tell whether there is anything of this name."""
    return _status(path) is not None


def is_readable(path: Path) -> bool:
    """Tell whether there is a regular file that can be opened."""
    if not is_file(path):
        return False
    try:
        os.close(open_regular(path))
    except InputError as error:
        tell(str(error))
        return False
    return True


def entries(folder: Path) -> list[Path]:
    """List what is in a folder, by name; nothing if there is no such folder, or it cannot be listed."""
    try:
        names = sorted(os.listdir(folder))
    except ValueError:  # a zero byte in a name
        return []
    except OSError as error:
        _tell(folder, error)
        return []
    if len(names) > ENTRIES:
        tell(f"{printable(folder)}: holds {len(names):,} entries, of which only the first {ENTRIES:,} by name are looked at")
    return [folder / name for name in names[:ENTRIES]]


def folders(folder: Path) -> list[Path]:
    """List the folders in a folder, also those that links lead to, by name. A link that leads nowhere may be anything, and is not told."""
    return [entry for entry in entries(folder) if not _leads_nowhere(entry) and is_folder(entry)]


def _leads_nowhere(path: Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except ValueError:  # a zero byte in a name
        return None
    except OSError as error:
        _tell(path, error)
        return None


def _tell(path: Path, error: OSError) -> None:
    """Tell why something cannot be looked at, unless it is not there."""
    if isinstance(error, NotADirectoryError):
        above = next((parent for parent in (path, *path.parents) if os.path.isfile(parent)), path)
        tell(f"{printable(above)}: is a file where a folder is expected; left out")
    elif isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            tell(f"{printable(path)}: is a link to what is not there; left out")
    elif isinstance(error, PermissionError):
        tell(f"{printable(_closed(path))}{UNREAD}{error.strerror}); what is in it is left out")
    else:
        tell(f"{printable(path)}{UNREAD}{error.strerror or error}); left out")


def _closed(path: Path) -> Path:
    """Return the folder that may not be entered on the way to a path; the path itself if there is none."""
    return next((above for above in path.parents if _is_closed(above)), path)


def _is_closed(folder: Path) -> bool:
    entered = os.access(folder, os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    return not entered and os.path.exists(folder)
