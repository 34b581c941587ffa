"""JSON lines: the first records say which format it is; after that only the fields that matter are decoded, so text costs little."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, shown
from dynamics.samples import lm_eval, rows, verifiers
from dynamics.samples.row import Columns, Found, Row, Rows
from dynamics.samples.streams import lines, opened, records

#: a record as (its number, its fields, the bytes of its text) -> samples
Make = Callable[[int, Callable[[str], Any], bytes | None], Iterator[Row]]
#: records looked at to learn the fields
LOOK = 20


def read(path: Path, columns: Columns, found: Found) -> tuple[str, Rows]:
    """The name of the format, and its rows."""
    first = _first(path)
    for module in (lm_eval, verifiers):
        if module.matches(first[0]):
            chosen = module.plan(path, first, columns, found)
            return module.NAME, _decoded(path, module.FIELDS + tuple(chosen.extra), None, chosen.rows, found)
    keys = list(dict.fromkeys(key for record in first for key in record))
    numeric = {key for record in first for key, value in record.items() if isinstance(value, (int, float)) or value is None}
    layout = rows.layout(keys, columns, shown(path), numeric.__contains__)
    rows.describe(layout, found)
    reader = rows.Reader(layout, shown(path))
    return layout.name, _decoded(path, tuple(layout.fields()), layout.text, reader.rows, found)


def _first(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with opened(path) as stream:
        for number, line in itertools.islice(lines(stream, path), LOOK):
            try:
                record = json.loads(line)
            except UnicodeDecodeError as error:
                raise InputError(f"{shown(path)}, line {number}: is not UTF-8 text at byte {error.start}; convert the file first") from None
            except (ValueError, RecursionError) as error:
                if records and not line.endswith(b"\n"):
                    break
                raise InputError(f"{shown(path)}, line {number}: is not JSON: {shown(str(error), 80)}") from None
            if not isinstance(record, dict):
                raise InputError(f"{shown(path)}, line {number}: is not an object; expected one record a line")
            records.append(record)
    if not records:
        raise InputError(f"{shown(path)}: is empty")
    return records


def _decoded(
    path: Path,
    fields: tuple[str, ...],
    text: str | None,
    make: Make,
    found: Found,
) -> Rows:
    import msgspec

    places = {name: f"f{place}" for place, name in enumerate(fields)}
    members: list[Any] = [(places[name], Any, None) for name in fields]
    if text is not None and text not in places:
        places[text] = "text"
        members.append(("text", msgspec.Raw, msgspec.Raw(b"")))
    renamed = {member: name for name, member in places.items()}
    kind = msgspec.defstruct("Record", members, rename=renamed, gc=False)
    decoder = msgspec.json.Decoder(kind)
    has_text = "text" in renamed
    with opened(path) as stream:
        for number, record in records(stream, path, decoder, kind, found.torn):

            def get(name: str, record: Any = record) -> Any:
                member = places.get(name)
                return None if member is None else getattr(record, member)

            yield from make(number, get, memoryview(record.text).tobytes() if has_text else None)
