"""JSON lines. The format is detected from the first records; after that, only the fields that are used are decoded."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened
from dynamics.io.json_lines import UNFINISHED, numbered_lines, parse_line
from dynamics.io.validation import converted
from dynamics.samples import lm_eval, rows, verifiers
from dynamics.samples.row import BATCH, TAIL, Batches, Columns, Row, SourceNotes, batches, fingerprint

#: records that are read to detect the fields
FIRST_RECORDS = 20
#: minimum length of a field that is cut out
WORTH_CUTTING = 200
#: field name for the text of records if the text is not used
NOWHERE = "(cut out)"
BACKSLASH, SPACE, SPACE_OR_COMMA = ord("\\"), ord(" "), b" ,"
#: errors of msgspec for lines that Python's json module may still read
ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Detect the format of a file; return its name and the samples."""
    first = _first_records(path)
    if verifiers.matches(first[0]):
        episodes = verifiers.plan(path, first, columns, notes)
        return verifiers.NAME, batches(_read_episodes(path, episodes, notes))
    if lm_eval.matches(first[0]):
        return lm_eval.NAME, batches(_lm_eval_rows(path, lm_eval.plan(path, first, columns, notes), first[0], notes))
    keys = list(dict.fromkeys(key for record in first for key in record))
    layout = rows.layout(keys, columns, printable(path), rows.kinds(first))
    rows.describe(layout, columns, notes)
    rows.note_contents(layout, first, notes)
    return layout.name, rows.finished(layout, _read_columns(path, layout, first, notes), printable(path), notes)


def _first_records(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with opened(path) as stream:
        for number, line in itertools.islice(numbered_lines(stream, path), FIRST_RECORDS):
            record = _parse_record(line, number, path, [] if records else None)
            if record is None:
                break
            _refuse_repeated_keys(line, number, path)
            records.append(record)
    if not records:
        raise InputError(f"{printable(path)}: is empty")
    return records


def _refuse_repeated_keys(line: bytes, number: int, path: Path) -> None:
    """Raise an error if a record has a key twice: which of the two values counts depends on the parser."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # the outermost object is the last one

    try:
        json.loads(line, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        seen = Counter(keys)
        twice = next(key for key in keys if seen[key] > 1)
        raise InputError(
            f"{printable(path)}, line {number}: has the field {printable(twice, 40)!r} twice; which of them counts is not defined"
        )


def _parse_record(line: bytes, number: int, path: Path, unfinished: list[int] | None) -> dict[str, Any] | None:
    """Decode a whole line; return None for an incomplete last line if ``unfinished`` is a list, to which its number is added."""
    record = parse_line(line, number, path, unfinished)
    if record is UNFINISHED:
        return None
    if not isinstance(record, dict):
        raise InputError(f"{printable(path)}, line {number}: is not an object; expected one record a line")
    return record


def _lm_eval_rows(path: Path, plan: lm_eval.Plan, first: dict[str, Any], notes: SourceNotes) -> Iterator[Row]:
    if plan.wants_filters(first):
        plan.choose_filter(_values(path, "filter"))
    decoder = RecordDecoder(lm_eval.FIELDS + tuple(plan.extra), None, [], path, notes.unfinished, lm_eval.KINDS)
    with opened(path) as stream:
        for number, line in numbered_lines(stream, path):
            record = decoder.decode(number, line)
            if record is None:
                break
            yield from plan.rows(number, decoder.getter(record))
    plan.finish()


def _values(path: Path, name: str) -> Iterator[str]:
    """Read one field of every record."""
    decoder = RecordDecoder((name,), None, [], path, [])
    with opened(path) as stream:
        for number, line in numbered_lines(stream, path):
            record = decoder.decode(number, line)
            if record is None:
                return
            yield str(decoder.getter(record)(name))


def _read_episodes(path: Path, plan: verifiers.Plan, notes: SourceNotes) -> Iterator[Row]:
    """Read the episodes of verifiers record by record."""
    decode = msgspec.json.Decoder(verifiers.Episode).decode
    with opened(path) as stream:
        for number, line in numbered_lines(stream, path):
            try:
                episode = decode(line)
            except ERRORS:
                parsed = _parse_record(line, number, path, notes.unfinished)
                if parsed is None:
                    return
                episode = converted(parsed, verifiers.Episode, f"{printable(path)}, line {number}")
            yield from plan.rows(number, episode)


def _read_columns(path: Path, layout: rows.Layout, first: Sequence[dict[str, Any]], notes: SourceNotes) -> Batches:
    """Read thousands of records at a time, column by column."""
    decoder = RecordDecoder(tuple(layout.fields()), layout.text, first, path, notes.unfinished)
    reader = rows.Reader(layout, printable(path), notes)
    with opened(path) as stream:
        for numbers, records, fingerprints in decoder.batches(stream):
            columns = {name: list(map(attrgetter(member), records)) for name, member in decoder.members.items()}
            yield from reader.batch(numbers, columns, fingerprints if layout.text else None)


@dataclass
class RecordDecoder:
    """Decode the required fields of a line of JSON.

    The longest field that is not required, usually the completion, is cut out of the line before the rest is parsed. With completions of
    1,000 to 20,000 characters, this is three times as fast as letting the parser skip it. The field is assumed to extend from its key to
    the last occurrence of the key that follows it in the first record. Quotes inside a string are escaped, so ``"key":`` can only be a
    key. If it is another key of that name, nested or in another order, the remaining text does not parse or lacks a field, and the whole
    line is parsed instead.

    Attributes
    ----------
    fields : names of the required fields.
    text : the field whose fingerprint is computed, or None.
    first : the first records of the file, which determine the field to cut out; empty to cut nothing.
    path : of the file, for errors.
    unfinished : list to which the number of an incomplete last line is added.
    kinds : types of fields; a field that is not among them can be of any type.
    """

    fields: tuple[str, ...]
    text: str | None
    first: Sequence[dict[str, Any]]
    path: Path
    unfinished: list[int]
    kinds: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the parsers of a whole line and of a line without the field that is cut out."""
        self.members = {name: f"f{index}" for index, name in enumerate(self.fields)}
        self.plain = all(map(_is_plain, (*self.fields, self.text or "")))
        self.cut_field, self.key, self.next_key = self._learn_cut()
        # fields that all the first records have must remain after the cut; other fields may be missing
        required = set.intersection(*(set(record) for record in self.first)) if self.first else set()
        self.optional = [json.dumps(name).encode() + b":" for name in self.fields if name not in required]
        self.checked = msgspec.defstruct("Checked", [(name, kind, None) for name, kind in self.kinds.items()])
        self.record_type, self.decode_line = self._parser(set(), self.text)
        _, self.decode_rest = self._parser(required, None if self.cut_field == self.text else self.text)

    def _parser(self, required: set[str], text: str | None) -> tuple[Any, Callable[[bytes], Any]]:
        """Make a record type with a member per field, ``text`` as bytes, and its parser, which fails if a ``required`` field is missing."""
        kinds = {member: self.kinds.get(name, Any) for name, member in self.members.items()}
        present: list[Any] = [(member, kinds[member]) for name, member in self.members.items() if name in required]
        optional: list[Any] = [(member, kinds[member], None) for name, member in self.members.items() if name not in required]
        names = {member: name for name, member in self.members.items()} | {"text": text or NOWHERE} if self.plain else {}
        raw: Any = msgspec.Raw(b"")
        record_type = msgspec.defstruct(
            "Record", [*present, *optional, ("text", msgspec.Raw if text else Any, raw)], rename=names, gc=False
        )
        return record_type, msgspec.json.Decoder(record_type).decode

    def _learn_cut(self) -> tuple[str | None, bytes, bytes]:
        """Choose the field to cut out; return its name, its key as written in a line, and the key that follows."""
        if not self.first or not self.plain:
            return None, b"", b""
        keys = list(self.first[0])
        sizes = {key: len(json.dumps(self.first[0][key], default=str)) for key in keys[:-1] if key not in self.members}
        if not sizes or max(sizes.values()) < WORTH_CUTTING:
            return None, b"", b""
        longest = max(sizes, key=sizes.__getitem__)
        following = keys[keys.index(longest) + 1]
        return longest, json.dumps(longest).encode() + b":", json.dumps(following).encode() + b":"

    def batches(self, stream: IO[bytes]) -> Iterator[tuple[list[int], list[Any], list[int]]]:
        """Yield the numbers, records and fingerprints of thousands of lines at a time."""
        numbers: list[int] = []
        records: list[Any] = []
        fingerprints: list[int] = []
        for number, line in numbered_lines(stream, self.path):
            decoded = self._decode_cut(line) if self.key else None
            if decoded is None:
                record = self.decode(number, line)
                if record is None:
                    break
                decoded = record, fingerprint(memoryview(record.text))
            numbers.append(number)
            records.append(decoded[0])
            fingerprints.append(decoded[1])
            if len(records) == BATCH:
                yield numbers, records, fingerprints
                numbers, records, fingerprints = [], [], []
        yield numbers, records, fingerprints

    def _decode_cut(self, line: bytes) -> tuple[Any, int] | None:
        """Decode a line without its longest field; return record and fingerprint, or None if the line has another layout."""
        start, stop = line.find(self.key), line.rfind(self.next_key)
        if not 0 < start < stop or line[start - 1] == BACKSLASH or line[stop - 1] == BACKSLASH:
            return None
        if self.optional and any(line.find(name, start, stop) >= 0 for name in self.optional):
            return None  # a field that some records lack may lie between the two keys
        try:
            record = self.decode_rest(line[:start] + line[stop:])
        except ERRORS:
            return None
        if self.cut_field != self.text:
            return record, fingerprint(memoryview(record.text))
        start += len(self.key)
        while line[start] == SPACE:
            start += 1
        while line[stop - 1] in SPACE_OR_COMMA:
            stop -= 1
        return record, hash((stop - start, line[max(start, stop - TAIL) : stop]))

    def decode(self, number: int, line: bytes) -> Any:
        """Decode a whole line into a record; return None for an incomplete last line."""
        try:
            if self.plain:
                return self.decode_line(line)
        except ERRORS:
            pass
        parsed = _parse_record(line, number, self.path, self.unfinished)
        if parsed is None:
            return None
        values = {name: parsed[name] for name in self.kinds if name in parsed}
        converted(values, self.checked, f"{printable(self.path)}, line {number}")
        text = parsed.get(self.text) if self.text else None
        return self.record_type(
            **{member: parsed.get(name) for name, member in self.members.items()},
            text=json.dumps(text).encode() if text is not None else b"",
        )

    def getter(self, record: Any) -> Callable[[str], Any]:
        """Return a function that looks up a field of ``record`` by name, and returns None for a missing field."""
        members = self.members

        def get(name: str) -> Any:
            member = members.get(name)
            return None if member is None else getattr(record, member)

        return get


def _is_plain(name: str) -> bool:
    """Tell whether msgspec can look for a field of this name."""
    return name.isprintable() and not set(name) & set('"\\')
