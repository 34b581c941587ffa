"""Check the fields of records from other programs' files by msgspec types, and say in one line what was expected and what was found."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from dynamics.errors import InputError, printable

Kind = TypeVar("Kind")
#: a value that is no list and no object
Scalar = None | bool | int | float | str

_MISSING = re.compile(r"Object missing required field `([^`]*)`(.*)", re.S)
_MISMATCH = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(.*)", re.S)
_PLACE = re.compile(r" - at `\$\.?(.*)`", re.S)
#: names of msgspec's types, and of any struct, in plain words
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def converted(value: Any, kind: type[Kind], where: str) -> Kind:
    """Convert a parsed record to ``kind``; fields that ``kind`` does not have are not looked at.

    Raises
    ------
    InputError : a field has another type; the message has ``where``, the field, and what was expected and found.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}{mismatch(error)}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}: a field that is read, or its name, holds half of a surrogate pair, which UTF-8 cannot encode") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply") from None


@contextlib.contextmanager
def within_bounds(path: object) -> Iterator[None]:
    """Raise an ``InputError`` where a file cannot be read within the depth of Python's stack or the memory of the machine."""
    try:
        yield
    except RecursionError:
        raise InputError(f"{printable(path)}: a record in it is nested too deeply") from None
    except MemoryError:
        raise InputError(f"{printable(path)}: needs more memory to read than there is; give fewer or smaller files") from None


def mismatch(error: msgspec.ValidationError) -> str:
    """Say which field has the wrong type, as the end of a message that names the record.

    >>> mismatch(msgspec.ValidationError("Expected `int | null`, got `array` - at `$.scores[0]`"))
    ", field 'scores[0]': expected a whole number or null, found a list"
    """
    text = str(error)
    if match := _MISMATCH.fullmatch(text):
        expected, found, rest = match.groups()
        return f"{_field(rest)}: expected {_words(expected)}, found {_words(found)}"
    if match := _MISSING.fullmatch(text):
        name, rest = match.groups()
        return f"{_field(rest)}: has no field {printable(name, 60)!r}"
    return f": is not as expected: {printable(text, 120)}"


def _field(rest: str) -> str:
    """Name the field at the end of a message of msgspec; the record itself has no name."""
    place = _PLACE.fullmatch(rest)
    return f", field {printable(place[1], 60)!r}" if place and place[1] else ""


def _words(types: str) -> str:
    """Name msgspec's types, such as ``int | null``, in plain words."""
    names = list(dict.fromkeys(_NAMES.get(name, printable(name, 40)) for name in types.split(" | ")))
    if "a number" in names and "a whole number" in names:
        names.remove("a whole number")
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
