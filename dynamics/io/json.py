"""JSON documents, written and read by msgspec: null for numbers that are not finite, numpy's scalars as Python's.

Text may hold half of a surrogate pair, as tokens that end inside a character leave it. UTF-8 has no bytes for that, so such a document is
written with escapes. Python's own json module reads what msgspec refuses: those escapes, and the NaN that other programs write.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def encode(value: Any) -> bytes:
    """Encode ``value`` as JSON in UTF-8, on one line, with null where a number is NaN or infinite."""
    try:
        return msgspec.json.encode(value, enc_hook=_builtin)
    except UnicodeEncodeError:
        return json.dumps(_finite_builtins(value), allow_nan=False, separators=(",", ":")).encode()


def to_json(document: Any) -> str:
    """Encode ``document`` as indented JSON that ends with a newline, with null where a number is NaN or infinite."""
    try:
        return msgspec.json.format(msgspec.json.encode(document, enc_hook=_builtin), indent=1).decode() + "\n"
    except UnicodeEncodeError:
        return json.dumps(_finite_builtins(document), allow_nan=False, indent=1) + "\n"


def decode(text: bytes) -> Any:
    """Decode JSON, with the NaN and the infinities that Python's json module writes.

    Raises
    ------
    ValueError, RecursionError : ``text`` is not JSON; UnicodeDecodeError is a ValueError.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return json.loads(text)


def read_document(path: Path, kind: Any = Any) -> Any:
    """Read a whole JSON file, and keep only what the type ``kind`` names; the text of the file is in memory meanwhile.

    Raises
    ------
    InputError : a file that cannot be read, that is empty or no JSON, or whose content is not of type ``kind``.
    """
    with opened(path) as stream:
        text = stream.read()
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise InputError(f"{printable(path)}: is empty")
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: is not laid out as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_leniently(text, path, kind)


def _read_leniently(text: bytes, path: Path, kind: Any) -> Any:
    """Read a document by Python's json module, which also says where it is broken."""
    try:
        return msgspec.convert(json.loads(text), kind, strict=False)
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}: is not UTF-8 text at byte {error.start}; convert it first") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)}: is not a JSON document: {why_not_json(error)}") from None


def why_not_json(error: Exception) -> str:
    """Say in a few words why a text is not JSON."""
    return printable(str(error).partition("(char")[0].strip() or type(error).__name__, 80)


def _builtin(value: Any) -> Any:
    """Turn a numpy scalar into Python's number for msgspec."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _finite_builtins(document: Any) -> Any:
    """Turn a document into Python's own types, with None for every NaN and infinity."""
    return _finite(msgspec.to_builtins(document, enc_hook=_builtin, str_keys=True))


def _finite(value: Any) -> Any:
    """Replace every NaN and infinity of a document by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
