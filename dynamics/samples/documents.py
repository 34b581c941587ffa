"""JSON documents: EvalPlus, bigcode-evaluation-harness, Inspect's ``.json`` logs, and plain lists of records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.json import read_document
from dynamics.samples import inspect_log, rows
from dynamics.samples.row import SCORED, TIMED_OUT, UNSCORED, Batches, Columns, Row, SourceNotes, batches, fingerprint, label, score


def read(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Detect the format of a document; return its name and the samples."""
    outer = read_document(path, dict[str, msgspec.Raw] | list[msgspec.Raw])
    if isinstance(outer, list):
        return _list(path, outer, columns, notes)
    if "eval" in outer and "samples" in outer:
        return inspect_log.read_json(path, outer, columns, notes)
    if "eval" in outer:
        return _evalplus(path, outer["eval"], columns, notes)
    if {"results", "tests", "language"} <= set(outer):
        return _multiple(path, outer, notes)
    if outer and all(bytes(value).startswith(b"[") for value in outer.values()):
        return _bigcode(path, outer, notes)
    keys = ", ".join(printable(key, 40) for key in list(outer)[:8]) or "nothing in it"
    raise InputError(
        f"{printable(path)}: a JSON document of an unknown kind, with {keys}; expected EvalPlus, bigcode or Inspect results, or a list"
    )


def _decode(path: Path, raw: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: is not laid out as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.convert(json.loads(bytes(raw)), kind, strict=False)  # Python's json module writes NaN


def _list(path: Path, raws: list[Any], columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    if not raws:
        raise InputError(f"{printable(path)}: is an empty list")
    first = [_decode(path, raw, Any) for raw in raws[:20]]
    if not all(isinstance(record, dict) for record in first):
        raise InputError(f"{printable(path)}: is a list of something other than records")
    keys = list(dict.fromkeys(key for record in first for key in record))
    layout = rows.layout(keys, columns, printable(path))
    rows.describe(layout, notes)
    reader = rows.Reader(layout, printable(path), "record")

    def make() -> Iterator[Row]:
        for number, raw in enumerate(raws, start=1):
            record = _decode(path, raw, Any)
            if not isinstance(record, dict):
                raise InputError(f"{printable(path)}, record {number}: is not an object")
            text = record.get(layout.text) if layout.text else None
            yield from reader.rows(number, record.get, None if text is None else fingerprint(str(text).encode("utf-8", "surrogatepass")))

    return layout.name, batches(make())


def _evalplus(path: Path, raw: Any, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read EvalPlus results. As in EvalPlus, a sample passes ``plus`` only if it also passes the base tests."""
    sample = msgspec.defstruct(
        "Sample",
        [(name, Any, None) for name in ("base_status", "plus_status", "base", "plus")] + [("solution", msgspec.Raw, msgspec.Raw(b""))],
    )
    problems = _decode(path, raw, dict[str, list[sample]])  # type: ignore[valid-type]
    has_plus = any(_state(result, "plus") is not None for results in problems.values() for result in results)
    wanted = columns.correct or ("plus" if has_plus else "base")
    if wanted not in ("base", "plus") or (wanted == "plus" and not has_plus):
        raise InputError(f"{printable(path)}: has no verdict {printable(wanted)!r}; it has base{' and plus' if has_plus else ''}")
    notes.fields = {"problem": "task id", "correct": f"{wanted} tests"}
    if has_plus:
        other = "base" if wanted == "plus" else "plus"
        notes.remarks.append(f"verdict is that of the {wanted} tests; --correct {other} takes the other")

    def make() -> Iterator[Row]:
        for problem, results in problems.items():
            for index, result in enumerate(results):
                states = [_state(result, part) for part in (("base",) if wanted == "base" else ("base", "plus"))]
                missing = any(state is None for state in states)
                timed_out = any(state == "timeout" for state in states)
                verdict = (
                    math.nan if missing and "fail" not in states and not timed_out else float(all(state == "pass" for state in states))
                )
                status = UNSCORED if verdict != verdict else TIMED_OUT if timed_out else SCORED
                text = bytes(result.solution)
                yield Row(problem, verdict, status, index, None, fingerprint(text) if text else None)

    return "EvalPlus results", batches(make())


def _state(sample: Any, part: str) -> str | None:
    """Return ``pass``, ``fail``, ``timeout`` or None; older files hold [status, details] under ``base`` and ``plus``."""
    state = getattr(sample, f"{part}_status")
    if state is None:
        state = getattr(sample, part)
        state = state[0] if isinstance(state, list) and state else state
    return {"success": "pass", "failed": "fail"}.get(state, state) if isinstance(state, str) else None


def _bigcode(path: Path, outer: dict[str, Any], notes: SourceNotes) -> tuple[str, Batches]:
    """Read ``{task: [[completion id, {"passed":, "result":}], ...]}``, as logged by the harness's code metric."""
    notes.fields = {"problem": "key", "correct": "passed"}
    tasks = {task: _decode(path, raw, list[Any]) for task, raw in outer.items()}

    def make() -> Iterator[Row]:
        for task, samples in tasks.items():
            for entry in samples:
                where = f"{printable(path)}, task {printable(task, 40)}"
                if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict) and "passed" in entry[1]):
                    raise InputError(
                        f"{where}: expected [completion id, {{passed, result}}] a sample; are these generations without results?"
                    )
                verdict = score(entry[1]["passed"], where)
                timed_out = "timed out" in str(entry[1].get("result", "")).lower()
                yield Row(task, verdict, TIMED_OUT if timed_out else SCORED, label(entry[0]))

    return "bigcode-evaluation-harness logs", batches(make())


def _multiple(path: Path, outer: dict[str, Any], notes: SourceNotes) -> tuple[str, Batches]:
    """Read MultiPL-E results of the bigcode harness: ``NAME.results.json``, a file per problem."""
    notes.fields = {"problem": "name", "correct": "status OK and exit code 0"}
    name = _decode(path, outer["name"], str) if "name" in outer else path.name.removesuffix(".results.json")
    results = _decode(path, outer["results"], list[dict[str, Any]])

    def make() -> Iterator[Row]:
        for index, result in enumerate(results):
            status = str(result.get("status", ""))
            passed = status == "OK" and result.get("exit_code") == 0
            yield Row(name, float(passed), TIMED_OUT if status.lower() == "timeout" else SCORED, index)

    return "MultiPL-E results", batches(make())
