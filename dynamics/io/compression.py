"""Bytes out of files that may be compressed, truncated or not what their name says; lines of JSON out of those bytes."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, shown

GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
#: what reading a damaged file raises
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
BUFFER = 1 << 20


def unpacked_name(path: Path) -> str:
    """The name without the suffix of its compression."""
    return path.name.removesuffix(".gz").removesuffix(".zst")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed; whatever goes wrong while they are read becomes one line."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic[:2] == GZIP:
            stream: Any = gzip.open(path, "rb")  # noqa: SIM115 - closed below
        elif magic == ZSTD:
            stream = zstandard().open(path, "rb")
        else:
            stream = open(path, "rb", buffering=BUFFER)  # noqa: SIM115 - closed below
        with stream:
            yield stream
    except BROKEN as error:
        raise InputError(f"{shown(path)}: the compressed file is damaged or cut short ({error}); copy it again") from None
    except OSError as error:
        raise InputError(f"{shown(path)}: {error.strerror or error}") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise InputError(f"{shown(path)}: the compressed file is damaged or cut short ({error}); copy it again") from None
        raise


def zstandard() -> Any:
    """The zstd module of Python 3.14, or its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd
    from backports import zstd

    return zstd


def lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without a byte order mark."""
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in line[:64]:
                raise InputError(f"{shown(path)}: is not UTF-8 text (UTF-16 perhaps, or no text at all); convert it first")
        if not line.isspace():
            yield number, line


def document(path: Path, kind: Any = Any) -> Any:
    """A whole JSON file, of which only what ``kind`` names is kept; the text of the file is in memory meanwhile."""
    import msgspec

    with opened(path) as stream:
        text = stream.read()
    text = text.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise InputError(f"{shown(path)}: is empty")
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{shown(path)}: is not laid out as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _with_nan(text, path, kind)


def _with_nan(text: bytes, path: Path, kind: Any) -> Any:
    """Python's json writes NaN, which is no JSON; it also says where a file is broken."""
    import msgspec

    try:
        return msgspec.convert(json.loads(text), kind, strict=False)
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: is not UTF-8 text at byte {error.start}; convert it first") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)}: is not a JSON document: {_brief(error)}") from None


def _brief(error: Exception) -> str:
    return shown(str(error).partition("(char")[0].strip() or type(error).__name__, 80)
