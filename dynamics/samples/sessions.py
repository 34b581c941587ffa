"""Tell problems and sessions apart by the ``uid`` that verl writes into its dumps.

Without ``uid``, problems are told apart by their text, so that two problems of the same text (the same question about two images) are taken
for one. ``uid`` is one of these:

- the id of a problem: the rows of a ``uid`` have one prompt and are the samples of that problem;
- the id of a session, or ``PROBLEM_SESSION_OUTPUT``: an agent's session has several outputs, each in a row with its own prompt and with the
  score of the session. The session is one sample, that of its last output, as in verl's own validation metrics.

verl draws these ids at random in each run. Problems are therefore named by their text, so that two runs over the same problems can be
compared. Only where several problems have the same text, the id is added, and such problems of two runs are not paired.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.samples.row import Batch, Batches, Row, SourceNotes, batches

_OUTPUT = re.compile(r"(.+)_(\d{1,18})_(\d{1,18})")
_SESSION = re.compile(r"(.+)_(\d+)")


@dataclass(frozen=True)
class _Session:
    """A sample: its problem, the text of its first output's prompt, and its last output."""

    problem: str
    text: str
    last: Row


def by_uid(made: Batches, path: str, notes: SourceNotes) -> Batches:
    """Return the samples of rows whose ``sample`` is their uid and whose ``problem`` is derived from the text of the prompt."""
    groups: dict[str | None, list[Row]] = defaultdict(list)
    for batch in made:
        for row in _rows(batch):
            groups[row.model].append(row)
    for model, rows in groups.items():
        try:
            found = _sessions(rows, notes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        notes.counts["outputs of sessions with several: a session is one sample, that of its last output"] += len(rows) - len(found)
        yield from batches(_named(found, model, notes))
    notes.counts += Counter()  # drop what did not occur


def _rows(batch: Batch) -> Iterator[Row]:
    columns: list[Sequence[Any]] = [[None] * len(batch) if column is None else column for column in vars(batch).values()]
    for values in zip(*columns, strict=True):
        row = Row(*values)
        yield row._replace(status=row.status or Row._field_defaults["status"])


def _sessions(rows: Sequence[Row], notes: SourceNotes) -> list[_Session]:
    """Group the outputs of one policy into sessions."""
    if any(row.sample is None for row in rows):
        return [_Session(row.problem, row.problem, row) for row in rows]
    uids: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        uids[str(row.sample)].append(row)
    keys = {uid: match.groups() for uid in uids if (match := _OUTPUT.fullmatch(uid))}
    if len(keys) == len(uids) == len(rows) and _is_numbered(list(keys.values())):
        return _by_output(uids, keys, notes)
    parts = [_split(uid, outputs) for uid, outputs in uids.items()]
    if all(len(session) == 1 for sessions in parts for session in sessions) and not _are_sessions(uids):
        return [_Session(uid, row.problem, row) for uid, outputs in uids.items() for row in outputs]
    several = any(len(sessions) > 1 for sessions in parts)
    found = []
    for uid, sessions in zip(uids, parts, strict=True):
        match = _SESSION.fullmatch(uid)
        problem = uid if several else f"{match.group(1) if match else ''} {sessions[0][0].problem}"
        found += [_session(problem, outputs, notes) for outputs in sessions]
    return found


def _is_numbered(keys: Sequence[tuple[str, ...]]) -> bool:
    """Tell whether ids are PROBLEM_SESSION_OUTPUT: the outputs of each session are numbered from 0."""
    outputs: dict[tuple[str, str], set[int]] = defaultdict(set)
    for problem, session, output in keys:
        outputs[problem, session].add(int(output))
    return all(numbers == set(range(len(numbers))) for numbers in outputs.values())


def _by_output(uids: dict[str, list[Row]], keys: dict[str, tuple[str, ...]], notes: SourceNotes) -> list[_Session]:
    outputs: dict[tuple[str, str], list[tuple[int, Row]]] = defaultdict(list)
    for uid, (problem, session, output) in keys.items():
        outputs[problem, session].append((int(output), uids[uid][0]))
    return [
        _session(problem, [row for _, row in sorted(numbered, key=lambda pair: pair[0])], notes)
        for (problem, _), numbered in outputs.items()
    ]


def _split(uid: str, outputs: Sequence[Row]) -> list[list[Row]]:
    """Split the outputs with one uid into sessions. Each starts with the prompt of the problem, and no prompt occurs in it twice."""
    sessions: list[list[Row]] = []
    for row in outputs:
        if row.problem == outputs[0].problem:
            sessions.append([])
        sessions[-1].append(row)
    for session in sessions:
        if len({row.problem for row in session}) < len(session):
            raise InputError(
                f"uid {printable(uid, 40)} has outputs of several sessions in no order that tells the sessions apart; name the field of "
                "the problem with --problem and that of the sample with --sample"
            )
    return sessions


def _are_sessions(uids: dict[str, list[Row]]) -> bool:
    """Tell whether uids with a row each are PROBLEM_SESSION: the sessions of a problem have one text."""
    if any(len(rows) > 1 for rows in uids.values()):
        return False
    texts: dict[str, set[str]] = defaultdict(set)
    for uid, rows in uids.items():
        match = _SESSION.fullmatch(uid)
        if match is None:
            return False
        texts[match.group(1)].add(rows[0].problem)
    return len(texts) < len(uids) and all(len(contents) == 1 for contents in texts.values())


def _session(problem: str, outputs: Sequence[Row], notes: SourceNotes) -> _Session:
    if len({row.score for row in outputs}) > 1:
        notes.counts["sessions whose outputs have different scores: that of the last output is taken"] += 1
    return _Session(problem, outputs[0].problem, outputs[-1])


def _named(sessions: Sequence[_Session], model: str | None, notes: SourceNotes) -> Iterator[Row]:
    """Yield the samples; a problem is named by its text and, if others have the same text, by its id."""
    problems: dict[str, set[str]] = defaultdict(set)
    for session in sessions:
        problems[session.text].add(session.problem)
    alike = sum(len(ids) for ids in problems.values() if len(ids) > 1)
    if alike:
        notes.counts["problems of equal text, which uid tells apart: a comparison pairs them only if two files have the same uids"] += alike
    for session in sessions:
        name = f"{session.text} {session.problem}" if len(problems[session.text]) > 1 else session.text
        yield session.last._replace(problem=name, sample=None, model=model)
