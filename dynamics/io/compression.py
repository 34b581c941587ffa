"""Read bytes from files that may be compressed, truncated or misnamed."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, printable
from dynamics.io.regular import open_regular

GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
#: errors that reading a damaged file can raise
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
BUFFER = 1 << 20


def unpacked_name(path: Path) -> str:
    """Return the name of a file without the suffix of its compression."""
    return path.name.removesuffix(".gz").removesuffix(".zst")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, decompressed.

    Raises
    ------
    InputError : it is not a regular file, or cannot be read; the message has one line.
    """
    try:
        with open(open_regular(path), "rb", buffering=BUFFER) as file:
            magic = file.read(4)
            file.seek(0)
            if magic[:2] == GZIP:
                stream: Any = gzip.open(file, "rb")  # noqa: SIM115 - closed below
            elif magic == ZSTD:
                stream = zstandard().open(file, "rb")
            else:
                stream = file
            with stream:
                yield stream
    except BROKEN as error:
        raise InputError(f"{printable(path)}: the compressed file is damaged or cut short ({error}); copy it again") from None
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror or error}") from None
    except MemoryError:
        raise InputError(f"{printable(path)}: needs more memory to read than there is; give fewer or smaller files") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise InputError(f"{printable(path)}: the compressed file is damaged or cut short ({error}); copy it again") from None
        raise


def zstandard() -> Any:
    """Import the zstd module of Python 3.14, or its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd
    from backports import zstd

    return zstd
