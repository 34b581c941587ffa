"""A graded sample as returned by every reader, and the parsing of verdicts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from dynamics.errors import InputError, printable

#: outcomes of a sample. The first three have a verdict: a timeout and an answer that could not be extracted are wrong answers.
SCORED, TIMED_OUT, NO_ANSWER, UNSCORED = "scored", "timed out", "no answer", "unscored"
STATUSES = (SCORED, TIMED_OUT, NO_ANSWER, UNSCORED)


class Row(NamedTuple):
    """A sample.

    Attributes
    ----------
    problem : id of the problem.
    score : NaN without a verdict.
    status : one of ``STATUSES``.
    sample : number or id of the sample within its problem; None if the file does not number its samples.
    answer : the extracted answer.
    fingerprint : of the completion, see ``fingerprint``.
    model, temperature : model and temperature of the sample.
    content : a hash of the problem, if the file has one.
    """

    problem: str
    score: float
    status: str = SCORED
    sample: str | int | None = None
    answer: str | None = None
    fingerprint: int | None = None
    model: str | None = None
    temperature: float | None = None
    content: str | None = None


@dataclass
class SourceNotes:
    """Remarks of a reader on a file.

    Attributes
    ----------
    fields : name of the field that was used for each role.
    remarks : choices that affect the interpretation of the numbers.
    counts : description of an unusual case -> number of cases.
    unfinished : numbers of incomplete lines.
    alternatives : fields that could be the verdict instead.
    contents : text of the first problems by id, if the file has it.
    """

    fields: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unfinished: list[int] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """Field names given by the caller; None to detect a field by its usual names."""

    problem: str | None = None
    correct: str | None = None
    sample: str | None = None
    model: str | None = None
    answer: str | None = None


Rows = Iterator[Row]
#: number of bytes at the end of a completion that are hashed with its length
TAIL = 128
#: samples per batch
BATCH = 4096
#: samples that are read at once; each takes up to 300 bytes of memory
MOST_SAMPLES = 10_000_000


@dataclass
class Batch:
    """Many rows as columns: a list for each field of ``Row``, or None if no row has the field."""

    problem: list[str]
    score: Any
    status: list[str] | None = None
    sample: list[str | int | None] | None = None
    answer: list[str | None] | None = None
    fingerprint: list[int | None] | None = None
    model: list[str | None] | None = None
    temperature: list[float | None] | None = None
    content: list[str | None] | None = None

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.problem)


Batches = Iterator[Batch]


def batches(rows: Rows) -> Batches:
    """Group rows into batches."""
    while chunk := list(islice(rows, BATCH)):
        yield Batch(*map(list, zip(*chunk, strict=True)))


_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "pass", "passed", "correct", "c", "success", "succeeded", "ok", "right"), 1.0),
    **dict.fromkeys(("false", "f", "no", "fail", "failed", "incorrect", "i", "failure", "wrong", "n"), 0.0),
    **dict.fromkeys(("timeout", "timed out", "timed_out", "not_attempted"), 0.0),
    "p": 0.5,
    **dict.fromkeys(("", "nan", "none", "null", "na", "n/a", "error"), math.nan),
}


def is_word(value: Any) -> bool:
    """Tell whether a value is a word for right or wrong, such as pass or timeout."""
    return isinstance(value, str) and len(value) > 1 and _WORDS.get(value.strip().lower()) in (0.0, 1.0)


def score(value: Any, where: Any) -> float:
    """Convert a verdict to a number: 1, 0, a reward, or NaN if missing. ``where`` is the location for the error, or a function."""
    if value is True:
        return 1.0
    if value is False:
        return 0.0
    if isinstance(value, (int, float)):
        return as_float(value)
    if value is None:
        return math.nan
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS:
            return _WORDS[word]
        try:
            return float(word)
        except ValueError:
            pass
    raise InputError(f"{where() if callable(where) else where}: {shown(value)} is no verdict: expected true, false or a number")


def as_float(value: int | float) -> float:
    """Convert to float; a whole number that is too large for it becomes infinity, as it does when it is written with a point."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def shown(value: Any, limit: int = 60) -> str:
    """Show a value of a record in a message."""
    try:
        return printable(repr(value[:limit] if isinstance(value, (str, list)) else value), limit)
    except (ValueError, RecursionError):  # a number of more digits than Python writes; deep nesting
        return f"a value of type {type(value).__name__}"


def fingerprint(text: bytes | memoryview) -> int:
    """Hash a completion by its length and last bytes, to distinguish completions without storing them; valid within this process only."""
    return hash((len(text), bytes(text[-TAIL:])))


def name_of(content: bytes) -> str:
    """Derive the name of a problem without an id from its content."""
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def label(value: Any) -> str:
    """Convert an id to text; 3, 3.0 and "3" give the same text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def listed(names: Iterable[object], limit: int = 12) -> str:
    """List names of a file in a message, only the first of many."""
    names = list(names)
    if not names:
        return "none"
    return ", ".join(printable(name, 40) for name in names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def number(value: Any) -> float | None:
    """Convert a setting such as the temperature to a number, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return as_float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
