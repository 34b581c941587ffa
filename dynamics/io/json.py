"""Write and read JSON documents by msgspec, with null for non-finite numbers, and numpy scalars as Python scalars.

Text may hold half of a surrogate pair if a token ends inside a character. UTF-8 cannot encode it, so such a document is written with
escapes. Python's json module reads what msgspec refuses: these escapes, and NaN as written by other programs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened
from dynamics.io.side_files import BYTE_ORDER_MARK, why_not_json

#: bytes of a JSON document after decompression
DOCUMENT = 1 << 30
#: lists and objects of a JSON document; each takes up to 25 times the memory of its text
CONTAINERS = 20_000_000
PART = 1 << 24


def encode(value: Any) -> bytes:
    """Encode ``value`` as JSON in UTF-8, on one line, with null for NaN and infinite numbers."""
    try:
        return msgspec.json.encode(value, enc_hook=_builtin)
    except UnicodeEncodeError:
        return json.dumps(_finite_builtins(value), allow_nan=False, separators=(",", ":")).encode()


def to_json(document: Any) -> str:
    """Encode ``document`` as indented JSON that ends with a newline, with null for NaN and infinite numbers."""
    try:
        return msgspec.json.format(msgspec.json.encode(document, enc_hook=_builtin), indent=1).decode() + "\n"
    except UnicodeEncodeError:
        return json.dumps(_finite_builtins(document), allow_nan=False, indent=1) + "\n"


def decode(text: bytes) -> Any:
    """Decode JSON, including NaN and infinities as written by Python's json module.

    Raises
    ------
    ValueError, RecursionError : ``text`` is not JSON; UnicodeDecodeError is a ValueError.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return json.loads(text)


def read_document(path: Path, kind: Any = Any) -> Any:
    """Read a whole JSON file into memory, and keep only the fields of the type ``kind``.

    Raises
    ------
    InputError : the file cannot be read, is too large, is empty or not JSON, or its content is not of type ``kind``.
    """
    with opened(path) as stream:
        text = _read_bounded(stream, path)
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise InputError(f"{printable(path)}: is empty")
    if len(text) > CONTAINERS and text.count(b"[") + text.count(b"{") > CONTAINERS:
        raise InputError(f"{printable(path)}: holds over {CONTAINERS:,} lists and objects; save it as JSON lines")
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: does not have the expected structure: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_leniently(text, path, kind)


def _read_bounded(stream: IO[bytes], path: Path) -> bytes:
    parts, size = [], 0
    while part := stream.read(PART):
        parts.append(part)
        size += len(part)
        if size > DOCUMENT:
            raise InputError(f"{printable(path)}: over {DOCUMENT} bytes, more than is read as one JSON document; save it as JSON lines")
    return b"".join(parts)


def _read_leniently(text: bytes, path: Path, kind: Any) -> Any:
    """Read a document by Python's json module, which also reports the position of an error. Raw parts of it have null for NaN."""
    try:
        value = json.loads(text)
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:  # parsed values are no raw JSON
            return msgspec.json.decode(encode(value), type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: is not laid out as expected: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}: is not UTF-8 text at byte {error.start}; convert it first") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{printable(path)}: is not a JSON document: {why_not_json(error)}") from None


def _builtin(value: Any) -> Any:
    """Convert a numpy scalar to a Python number for msgspec."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _finite_builtins(document: Any) -> Any:
    """Convert a document to built-in types, with None for NaN and infinite numbers."""
    return _finite(msgspec.to_builtins(document, enc_hook=_builtin, str_keys=True))


def _finite(value: Any) -> Any:
    """Replace NaN and infinite numbers in a document by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
