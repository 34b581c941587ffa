"""JSON lines: the first records say which format it is; after that only the fields that matter are decoded, so text costs little."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from dynamics.errors import InputError, shown
from dynamics.io.compression import lines, opened
from dynamics.samples import lm_eval, rows, verifiers
from dynamics.samples.row import BATCH, TAIL, Batches, Columns, Found, Row, batches, fingerprint

#: records looked at to learn the fields
LOOK = 20
#: a field shorter than this is not worth cutting out
WORTH_CUTTING = 200
#: the field of records whose text is not wanted
NOWHERE = "(cut out)"
BACKSLASH, SPACE, SPACE_OR_COMMA = ord("\\"), ord(" "), b" ,"


def read(path: Path, columns: Columns, found: Found) -> tuple[str, Batches]:
    """The name of the format, and its samples."""
    first = _first(path)
    for module in (lm_eval, verifiers):
        if module.matches(first[0]):
            chosen = module.plan(path, first, columns, found)
            return module.NAME, batches(_records(path, module.FIELDS + tuple(chosen.extra), chosen.rows, found))
    keys = list(dict.fromkeys(key for record in first for key in record))
    numeric = {key for record in first for key, value in record.items() if isinstance(value, (int, float)) or value is None}
    layout = rows.layout(keys, columns, shown(path), numeric.__contains__)
    rows.describe(layout, found)
    return layout.name, _batches(path, layout, first, found)


def _first(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with opened(path) as stream:
        for number, line in itertools.islice(lines(stream, path), LOOK):
            record = _parsed(line, number, path, [] if records else None)
            if record is None:
                break
            records.append(record)
    if not records:
        raise InputError(f"{shown(path)}: is empty")
    return records


def _parsed(line: bytes, number: int, path: Path, torn: list[int] | None) -> dict[str, Any] | None:
    """A line by Python's json, which also reads the NaN that it writes, or the reason why it is none.

    A last line without an end that does not parse goes to ``torn``, if given: a run was killed there.
    """
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}, line {number}: is not UTF-8 text at byte {error.start}; convert the file first") from None
    except (ValueError, RecursionError) as error:
        if torn is None or line.endswith(b"\n"):
            said = shown(str(error).partition("(char")[0].strip() or type(error).__name__, 80)
            raise InputError(f"{shown(path)}, line {number}: is not JSON: {said}") from None
        torn.append(number)
        return None
    if not isinstance(record, dict):
        raise InputError(f"{shown(path)}, line {number}: is not an object; expected one record a line")
    return record


def _records(
    path: Path, fields: tuple[str, ...], make: Callable[[int, Callable[[str], Any], bytes | None], Iterator[Row]], found: Found
) -> Iterator[Row]:
    """Record by record, for formats whose records are more than a row."""
    decode = Decoder(fields, None, [], path, found.torn)
    with opened(path) as stream:
        for number, line in lines(stream, path):
            record = decode(number, line)
            if record is None:
                return
            yield from make(number, decode.getter(record), None)


def _batches(path: Path, layout: rows.Layout, first: Sequence[dict[str, Any]], found: Found) -> Batches:
    """Thousands of records at a time, column by column."""
    fields = tuple(layout.fields())
    decode = Decoder(fields, layout.text, first, path, found.torn)
    reader = rows.Reader(layout, shown(path))
    with opened(path) as stream:
        for numbers, records, prints in decode.batches(stream):
            columns = {name: list(map(attrgetter(member), records)) for name, member in decode.members.items()}
            yield from reader.batch(numbers, columns, prints if layout.text else None, len(records))


@dataclass
class Decoder:
    """The wanted fields of a line of JSON.

    The longest field that is not wanted, as a rule the completion, is cut out of the line before the rest is parsed, which is several
    times faster than skipping over it. It is taken to reach from its key to the last occurrence of the key that follows it in the first
    record. Inside a string a quote is escaped, so ``"key":`` can only be a key; and should it be another key of that name, deeper or
    out of order, then what is left does not parse or lacks a field, and the whole line is parsed instead.
    """

    fields: tuple[str, ...]
    text: str | None
    first: Sequence[dict[str, Any]]
    path: Path
    torn: list[int]

    def __post_init__(self) -> None:
        import msgspec

        self.errors = (msgspec.DecodeError, UnicodeDecodeError)
        self.members = {name: f"f{place}" for place, name in enumerate(self.fields)}
        self.before, self.after = self._cut()
        # what all the first records have must be left after the cut; what one of them lacks may be missing
        certain = set.intersection(*(set(record) for record in self.first)) if self.first else set()
        self.kind, self.whole = self._decoder(set(), self.text)
        _, self.rest = self._decoder(certain, None if self.cut == self.text else self.text)

    def _decoder(self, certain: set[str], text: str | None) -> tuple[Any, Callable[[bytes], Any]]:
        """A kind of record with a member a field, ``text`` as bytes, and its parser, which fails without a ``certain`` field."""
        import msgspec

        must: list[Any] = [(member, Any) for name, member in self.members.items() if name in certain]
        may: list[Any] = [(member, Any, None) for name, member in self.members.items() if name not in certain]
        names = {member: name for name, member in self.members.items()} | {"text": text or NOWHERE}
        raw: Any = msgspec.Raw(b"")
        kind = msgspec.defstruct("Record", [*must, *may, ("text", msgspec.Raw if text else Any, raw)], rename=names, gc=False)
        return kind, msgspec.json.Decoder(kind).decode

    def _cut(self) -> tuple[bytes, bytes]:
        """The key to cut from and the one to cut to."""
        self.cut: str | None = None
        if not self.first:
            return b"", b""
        keys = list(self.first[0])
        sizes = {key: len(json.dumps(self.first[0][key], default=str)) for key in keys[:-1] if key not in self.members}
        if not sizes or max(sizes.values()) < WORTH_CUTTING:
            return b"", b""
        self.cut = max(sizes, key=sizes.__getitem__)
        following = keys[keys.index(self.cut) + 1]
        return json.dumps(self.cut).encode() + b":", json.dumps(following).encode() + b":"

    def batches(self, stream: IO[bytes]) -> Iterator[tuple[list[int], list[Any], list[int]]]:
        """Numbers, records and fingerprints of thousands of lines. One loop, as it runs once a line of files of gigabytes."""
        before, after, skip, rest = self.before, self.after, len(self.before), self.rest
        is_text = self.cut == self.text
        numbers: list[int] = []
        records: list[Any] = []
        prints: list[int] = []
        for number, line in enumerate(stream, start=1):
            if before:
                start, stop = line.find(before), line.rfind(after)
                if 0 < start < stop and line[start - 1] != BACKSLASH and line[stop - 1] != BACKSLASH:
                    try:
                        record = rest(line[:start] + line[stop:])
                    except self.errors:
                        pass
                    else:
                        numbers.append(number)
                        records.append(record)
                        if is_text:
                            start += skip
                            while line[start] == SPACE:
                                start += 1
                            while line[stop - 1] in SPACE_OR_COMMA:
                                stop -= 1
                            prints.append(hash((stop - start, line[max(start, stop - TAIL) : stop])))
                        else:
                            prints.append(fingerprint(memoryview(record.text)))
                        if len(records) == BATCH:
                            yield numbers, records, prints
                            numbers, records, prints = [], [], []
                        continue
            if line.isspace():
                continue
            record = self(number, line)
            if record is None:
                break
            numbers.append(number)
            records.append(record)
            prints.append(fingerprint(memoryview(record.text)))
        yield numbers, records, prints

    def __call__(self, number: int, line: bytes) -> Any:
        """The record of a line, all of it parsed; None for a last line that is cut off."""
        try:
            return self.whole(line)
        except self.errors:
            parsed = _parsed(line, number, self.path, self.torn)
            if parsed is None:
                return None
            said = {self.members[name]: parsed.get(name) for name in self.members}
            text = parsed.get(self.text) if self.text else None
            return self.kind(**said, text=json.dumps(text).encode() if text is not None else b"")

    def getter(self, record: Any) -> Callable[[str], Any]:
        """The fields of a record by name; None for what it lacks."""
        members = self.members

        def get(name: str) -> Any:
            member = members.get(name)
            return None if member is None else getattr(record, member)

        return get
