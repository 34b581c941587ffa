"""Read the small files that lie beside weights and runs, such as ``config.json`` or an index, in bounded memory and time.

Such a file may come from a stranger. It is read only if it is a regular file or an object of a store, up to a number of bytes; its JSON
only up to a number of values and a depth, and only with numbers and text that every part of the program can use.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.regular import open_regular

#: bytes of a side file; the index of a model with a million tensors has about as many
LIMIT = 100_000_000
#: bytes of a file that names another one
POINTER_LIMIT = 4096
#: values of a JSON document; each takes up to 100 bytes of memory, however short it is in the file
VALUES = 8_000_000
DEPTH = 64
#: digits of a whole number; a tokenizer's largest length, 10**30, has 31
DIGITS = 100

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
ADVICE = "fetch or save it again"


def read_bytes(path: Location, limit: int = LIMIT) -> bytes:
    """Read a whole file of at most ``limit`` bytes, also one that grows while it is read, or whose size is not known.

    Raises
    ------
    InputError : it is not a regular file, cannot be read, or is larger.
    """
    if not isinstance(path, Path):
        size, _ = path.size_and_version()
        if size > limit:
            raise _too_large(path, limit)
        return path.read(0, size) if size else b""
    descriptor = open_regular(path)
    try:
        if os.fstat(descriptor).st_size > limit:
            raise _too_large(path, limit)
        data = bytearray()
        while part := os.read(descriptor, min(limit + 1 - len(data), 1 << 20)):
            data += part
            if len(data) > limit:
                raise _too_large(path, limit)
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror or error}") from None
    finally:
        os.close(descriptor)
    return bytes(data)


def read_text(path: Location, limit: int = LIMIT) -> str:
    """Read a whole file of text in UTF-8, with the same bounds."""
    try:
        return read_bytes(path, limit).removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}: is not UTF-8 text at byte {error.start}; {ADVICE}") from None


def read_pointer(path: Location) -> str:
    """Read the one line of a file that names another file or folder; an ``InputError`` if the name leads elsewhere."""
    name = read_text(path, POINTER_LIMIT).strip()
    if not name or name in (".", "..") or not name.isprintable() or re.search(r"[/\\]", name):
        raise InputError(f"{printable(path)}: does not hold the name of a folder beside it ({printable(name, 40)}); {ADVICE}")
    return name


def read_json(path: Location, unique: bool = False, surrogates: bool = False, limit: int = LIMIT) -> dict[str, Any]:
    """Read a JSON object, with the bounds of ``parse_json``."""
    return json_object(read_bytes(path, limit), printable(path), unique, surrogates)


def json_object(text: bytes, where: str, unique: bool = False, surrogates: bool = False) -> dict[str, Any]:
    """Parse a JSON object, with the bounds of ``parse_json``."""
    value = parse_json(text, where, unique, surrogates)
    if not isinstance(value, dict):
        raise InputError(f"{where}: is {_kind(value)}, not a JSON object; {ADVICE}")
    return value


def parse_json(text: bytes, where: str, unique: bool = False, surrogates: bool = False) -> Any:
    """Parse a JSON document of bounded size, depth and numbers.

    Parameters
    ----------
    text : the document in UTF-8. ``NaN`` and ``Infinity`` are numbers, as Python's json module writes them.
    where : the document, as messages name it.
    unique : whether a name that stands twice in an object is an error; else its last value counts, as for most readers.
    surrogates : whether text may hold half of a surrogate pair, which cannot be written in UTF-8.

    Raises
    ------
    InputError : it is not JSON or out of bounds; the message says how.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise InputError(f"{where}: is empty; {ADVICE}")
    if sum(map(text.count, (b",", b"[", b"{"))) > VALUES:
        raise InputError(f"{where}: holds over {VALUES} values; it is not a file of this kind")
    hook = _unique if unique else None
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=hook, parse_int=_whole, parse_float=_finite)
        _check_depth(value)
        if not surrogates and SURROGATE.search(text):
            _check_text(value)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not valid JSON (not UTF-8 text at byte {error.start}); {ADVICE}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; {ADVICE}") from None
    except ValueError as error:
        raise InputError(f"{where}: is not valid JSON ({why_not_json(error)}); {ADVICE}") from None
    return value


def why_not_json(error: Exception) -> str:
    """Describe briefly why a text is not JSON."""
    return printable(str(error).partition("(char")[0].strip() or type(error).__name__, 80)


def _too_large(path: Location, limit: int) -> InputError:
    return InputError(f"{printable(path)}: over {limit} bytes; it is not a file of this kind")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{printable(twice, 40)} stands twice")
    return entries


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{printable(digits, 20)} is beyond every floating-point number")
    return value


def _check_depth(value: Any) -> None:
    """Raise a RecursionError for a document that is nested deeper than ``DEPTH``: what handles it later would fail."""
    level = [value]
    for _ in range(DEPTH):
        level = [item for container in level for item in _items(container) if type(item) in (dict, list)]
        if not level:
            return
    raise RecursionError


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_text(value: Any) -> None:
    """Raise a ValueError for half of a surrogate pair."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
                raise ValueError(f"not valid Unicode: half of a surrogate pair in {printable(item, 20)}")
        elif isinstance(item, dict):
            waiting += item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
