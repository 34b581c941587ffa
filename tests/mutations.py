"""Wrong values in every field of a record: what a stranger's log may hold in place of what a reader expects."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

#: JSON texts, most of which Python's json module cannot write
WRONG: dict[str, str] = {
    "null": "null",
    "true": "true",
    "negative": "-1",
    "fraction": "0.5",
    "a million millions": str(10**12),
    "401 digits": "1" + "0" * 400,
    "5000 digits": "9" * 5000,
    "large": "1e308",
    "beyond floats": "1e999",
    "nan": "NaN",
    "minus infinity": "-Infinity",
    "empty": '""',
    "half a pair": '"\\ud800"',
    "null byte": '"a\\u0000b"',
    "control characters": '"\\u001b[31mred\\n"',
    "digits": '"' + "7" * 5000 + '"',
    "three parts": '"a_1_' + "9" * 5000 + '"',
    "list": "[]",
    "list of null": "[null]",
    "list of verdicts": "[true, false]",
    "list of texts": '["a", "\\ud800"]',
    "nested lists": "[" * 200 + "]" * 200,
    "object": "{}",
    "object of objects": '{"a": {}, "\\ud800": [1]}',
    "empty key": '{"": null}',
    "nested objects": '{"a":' * 200 + "1" + "}" * 200,
}
#: what stands for a wrong value until the document is written
MARK = "wrong value "
DELETED = "deleted value"
DOUBLED = "doubled key"

Path = tuple[str | int, ...]


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the places in a document: every key, and the first and last entry of every list."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from paths(value[index], (*at, index))


def mutated(document: Any, at: Path, what: str) -> str:
    """Write ``document`` as JSON with a wrong value at a place; ``what`` is a key of ``WRONG``, ``DELETED`` or ``DOUBLED``."""
    document = copy.deepcopy(document)
    parent = document
    for step in at[:-1]:
        parent = parent[step]
    last = at[-1]
    if what == DELETED:
        del parent[last]
    elif what == DOUBLED and isinstance(last, str):
        parent[MARK + DOUBLED + last] = [parent[last]]
    elif what == DOUBLED:
        parent.append(parent[last])
    else:
        parent[last] = MARK + what
    return written(document)


def written(document: Any) -> str:
    """Write a document that holds marks of wrong values as JSON."""
    text = json.dumps(document).replace(MARK + DOUBLED, "")
    return re.sub(f'"{MARK}([^"]*)"', lambda match: WRONG[match[1]], text)


def every(document: Any) -> Iterator[tuple[Path, str]]:
    """Yield all places of a document with all wrong values."""
    for at in paths(document):
        for what in (*WRONG, DELETED, DOUBLED):
            yield at, what
