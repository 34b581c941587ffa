"""Read files by offset. Files are not memory-mapped: truncating a mapped file kills the process (SIGBUS), and network maps are slow."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.io.blocks import BlockReader
from dynamics.io.locations import Location, RemotePath, location
from dynamics.io.regular import open_regular

LFS_POINTER = b"version https://git-lfs"


class File:
    """One open file, on this machine or in an object store, read from any number of threads.

    ``identity`` is (device, inode), or for an object its path and version. Two paths with the same identity hold the same bytes, for
    example two Hub snapshots that link to the same blob.
    """

    def __init__(self, path: str | Location):
        """Open the file; raise InputError for a Git LFS pointer, or if it is not a regular file."""
        self.path = location(path)
        self._reader = _LocalReader(self.path) if isinstance(self.path, Path) else _RemoteReader(self.path)
        self.size, self.identity = self._reader.size, self._reader.identity
        if self.size < 1024 and self.read(0, min(self.size, len(LFS_POINTER))) == LFS_POINTER:
            raise InputError(f"{printable(path)}: is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")

    def read_into(self, offset: int, buffer: np.ndarray) -> None:
        """Fill a contiguous array with the bytes that start at ``offset``."""
        self._reader.read_into(offset, memoryview(buffer.view(np.uint8).reshape(-1).data))

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes, starting at ``offset``."""
        buffer = np.empty(size, np.uint8)
        self.read_into(offset, buffer)
        return buffer.tobytes()


class _RemoteReader:
    """An object of a store."""

    def __init__(self, path: RemotePath):
        self.path = path
        self.size, self.identity = path.size_and_version()
        self._blocks = BlockReader(self.size, path.read)

    def read_into(self, offset: int, view: memoryview) -> None:
        if offset + len(view) > self.size:
            raise InputError(f"{printable(self.path)}: needed byte {offset + len(view)}, the object has {self.size}")
        self._blocks.read_into(offset, view)


class _LocalReader:
    """A file of this machine, read with ``pread``."""

    def __init__(self, path: Path):
        self.path = path
        self._fd = open_regular(path)
        status = os.fstat(self._fd)
        self.size = status.st_size
        self.identity: Hashable = (status.st_dev, status.st_ino)
        self._lock = threading.Lock()

    def read_into(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = self._read_some(view[done:], offset + done)
            except OSError as error:
                raise InputError(f"{printable(self.path)}: {error.strerror or error} while reading at byte {offset + done}") from error
            if count == 0:
                raise InputError(
                    f"{printable(self.path)}: shrank while it was read: needed byte {offset + len(view)}, "
                    f"the file now has {os.fstat(self._fd).st_size}"
                )
            done += count

    def _read_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], offset)
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[: len(data)] = data
        return len(data)

    def __del__(self) -> None:
        """Close the file."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)
