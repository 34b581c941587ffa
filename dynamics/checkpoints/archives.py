"""Zip archives of uncompressed records, such as torch and numpy write, read by offset; and parts of a file as streams."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np

from dynamics.checkpoints.files import File
from dynamics.errors import InputError, printable

#: bytes of the list of records in an archive; a record takes about a hundred
LARGEST_LIST = 1 << 26


class FileRange(io.RawIOBase):
    """Bytes ``start:start + size`` of a ``File`` as a stream."""

    def __init__(self, file: File, start: int, size: int):
        self.file, self.start, self.size, self.position = file, start, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position within the range, in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position within the range."""
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position, up to the end of the range."""
        count = min(len(buffer), max(0, self.size - self.position))
        self.file.read_into(self.start + self.position, np.frombuffer(buffer, np.uint8, count))
        self.position += count
        return count


class _Stream(io.BufferedReader):
    """A part of a file, of which nothing is read at once that is larger than the list of records in an archive."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes."""
        position = self.tell()
        left = self.seek(0, io.SEEK_END) - self.seek(position)
        if (left if size is None or size < 0 else size) > LARGEST_LIST:
            raise ValueError("its list of records is too long")
        return super().read(size)


class Archive:
    """The records of a zip file in bytes ``start:start + size`` of another file.

    ``writer`` is the function that writes such files. In those of torch all records are under one folder, which is not part of their names.
    """

    def __init__(self, file: File, start: int, size: int, writer: str = "torch.save"):
        self.file, self.start, self.end, self.where, self.writer = file, start, start + size, printable(file.path), writer
        try:
            infos = zipfile.ZipFile(_Stream(FileRange(file, start, size))).infolist()
        except InputError:
            raise
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, EOFError) as error:
            raise InputError(f"{self.where}: is cut short or damaged ({printable(error, 60)}); fetch it again") from None
        self.root = f"{infos[0].filename.split('/')[0]}/" if infos and writer == "torch.save" else ""
        self.records = {record.filename: record for record in infos}
        if len(self.records) < len(infos):
            raise InputError(f"{self.where}: has two records of one name; it was not written by {writer}")

    def __contains__(self, name: str) -> bool:
        """Whether there is a record of a name."""
        return f"{self.root}{name}" in self.records

    def body(self, name: str) -> tuple[int, int]:
        """Return the first byte and the length of a record, which must be stored uncompressed."""
        record = self.records.get(f"{self.root}{name}")
        if record is None:
            raise InputError(f"{self.where}: lacks its record {printable(name)}")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise InputError(f"{self.where}: its record {printable(name)} is compressed; write the file again with {self.writer}")
        first = self.start + record.header_offset
        if not self.start <= first <= self.end - 30:
            raise InputError(f"{self.where}: its record {printable(name)} claims to lie outside the file")
        header = self.file.read(first, 30)
        first += 30 + sum(struct.unpack("<HH", header[26:]))
        if header[:4] != b"PK\x03\x04" or record.file_size != record.compress_size or first + record.file_size > self.end:
            raise InputError(f"{self.where}: its record {printable(name)} reaches beyond the file; fetch it again")
        return first, record.file_size
