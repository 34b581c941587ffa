"""JSON documents of evaluation harnesses, and lists of records.

EvalPlus, BigCodeBench, bigcode-evaluation-harness, MultiPL-E, Inspect's ``.json`` logs, LiveCodeBench, OpenCompass, SkyThought and the
lists of lm-evaluation-harness 0.4.2 and earlier; in YAML, MultiPL-E's results and those of Large Language Monkeys, a file per problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.json import encode, read_document
from dynamics.io.side_files import why_not_json
from dynamics.io.validation import mismatch
from dynamics.io.yaml import parse_yaml
from dynamics.samples import inspect_log, lm_eval, rows
from dynamics.samples.row import (
    BATCH,
    SCORED,
    TIMED_OUT,
    UNSCORED,
    Batches,
    Columns,
    Row,
    SourceNotes,
    batches,
    fingerprint,
    label,
    listed,
    number,
    score,
)

#: fields of OpenCompass's details that hold a verdict
OPENCOMPASS = ("correct", "is_correct", "cascade_correct", "judge_correct")
#: bytes of a part of a document that Python's json module parses, and lists and objects of one that is parsed as a whole
LENIENT, CONTAINERS = 1 << 28, 5_000_000


def read(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Detect the format of a document; return its name and the samples."""
    outer = read_document(path, dict[str, msgspec.Raw] | list[msgspec.Raw])
    if isinstance(outer, list):
        return _list(path, outer, columns, notes)
    return _read_object(path, outer, columns, notes)


def _read_object(path: Path, outer: dict[str, Any], columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    if "eval" in outer and "samples" in outer:
        return inspect_log.read_json(path, outer, columns, notes)
    if "eval" in outer:
        return _evalplus(path, outer["eval"], columns, notes)
    if {"results", "tests", "language"} <= set(outer):
        return _multiple(path, outer, notes)
    if "details" in outer:
        return _opencompass(path, outer["details"], columns, notes)
    if outer and all(bytes(value).startswith(b"[") for value in outer.values()):
        return _bigcode(path, outer, notes)
    if outer and all(bytes(value).startswith(b"{") and b'"responses"' in bytes(value) for value in outer.values()):
        return _skythought(path, outer, notes)
    keys = ", ".join(printable(key, 40) for key in list(outer)[:8]) or "nothing in it"
    if "metrics" in outer or "results" in outer or "score" in outer:
        raise InputError(
            f"{printable(path)}: holds totals of a whole evaluation ({keys}), not the verdict of each sample; give the file of samples"
        )
    raise InputError(
        f"{printable(path)}: a JSON document of an unknown kind, with {keys}; expected EvalPlus, bigcode or Inspect results, or a list"
    )


def read_yaml(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a YAML document: MultiPL-E's results, a problem with a list of verdicts (Large Language Monkeys), or a list of records."""
    value = parse_yaml(path)
    if isinstance(value, dict) and {"results", "tests", "language"} <= set(value):
        return _multiple(path, {str(name): msgspec.Raw(encode(part)) for name, part in value.items()}, notes)
    records = value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise InputError(f"{printable(path)}: is no record and no list of records")
    if isinstance(value, dict) and not set(map(str.lower, map(str, value))) & {*rows.PROBLEM, *rows.CONTENT} and not columns.problem:
        value.setdefault("id", path.name.partition(".")[0])  # a file per problem, named by it
    return _list(path, [msgspec.Raw(encode(record)) for record in records], columns, notes)


def _decode(path: Path, raw: Any, kind: Any) -> Any:
    size = memoryview(raw).nbytes
    if size > CONTAINERS and kind is Any and bytes(raw).count(b"[") + bytes(raw).count(b"{") > CONTAINERS:
        raise InputError(f"{printable(path)}: a record holds over {CONTAINERS:,} lists and objects; it is not a record")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: is not laid out as expected{mismatch(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    if size > LENIENT:
        raise InputError(
            f"{printable(path)}: a part of over {LENIENT >> 20} MiB holds NaN or half of a surrogate pair; save it as JSON lines"
        )
    try:
        return msgspec.convert(json.loads(bytes(raw)), kind, strict=False)  # Python's json module writes NaN
    except msgspec.ValidationError as error:
        raise InputError(f"{printable(path)}: is not laid out as expected{mismatch(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)}: is not laid out as expected: {why_not_json(error)}") from None


def _list(path: Path, raws: list[Any], columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    if not raws:
        raise InputError(f"{printable(path)}: is an empty list")
    first = [_decode(path, raw, Any) for raw in raws[:20]]
    if len(raws) == 3 and isinstance(first[0], dict) and "detail" in first[0] and isinstance(first[1], dict):
        return _livecodebench(path, first[1], notes)
    if not all(isinstance(record, dict) for record in first):
        raise InputError(f"{printable(path)}: is a list of something other than records")
    if lm_eval.matches(first[0]):
        return lm_eval.NAME, batches(_lm_eval(path, raws, lm_eval.plan(path, first, columns, notes), first[0]))
    keys = list(dict.fromkeys(key for record in first for key in record))
    layout = rows.layout(keys, columns, printable(path), rows.kinds(first))
    rows.describe(layout, columns, notes)
    rows.note_contents(layout, first, notes)
    reader = rows.Reader(layout, printable(path), notes, "record")

    def make() -> Batches:
        for start in range(0, len(raws), BATCH):
            records = [_decode(path, raw, Any) for raw in raws[start : start + BATCH]]
            numbers = range(start + 1, start + len(records) + 1)
            for number_, record in zip(numbers, records, strict=True):
                if not isinstance(record, dict):
                    raise InputError(f"{printable(path)}, record {number_}: is not an object")
            values = {name: [record.get(name) for record in records] for name in layout.fields()}
            texts = [record.get(layout.text) if layout.text else None for record in records]
            fingerprints = [None if text is None else fingerprint(str(text).encode("utf-8", "surrogatepass")) for text in texts]
            yield from reader.batch(numbers, values, fingerprints)

    return layout.name, rows.finished(layout, make(), printable(path), notes)


def _lm_eval(path: Path, raws: list[Any], plan: lm_eval.Plan, first: dict[str, Any]) -> Iterator[Row]:
    """Read the list that lm-evaluation-harness 0.4.2 and earlier wrote into a file named ``.jsonl``."""
    if plan.wants_filters(first):
        plan.choose_filter(str(_decode(path, raw, dict[str, Any]).get("filter")) for raw in raws)
    for line, raw in enumerate(raws, start=1):
        record = _decode(path, raw, dict[str, Any])
        lm_eval.check(record, f"{printable(path)}, record {line}")
        yield from plan.rows(line, record.get)
    plan.finish()


def _livecodebench(path: Path, results: dict[str, Any], notes: SourceNotes) -> tuple[str, Batches]:
    """Read LiveCodeBench's ``*_eval.json``: by problem and sample, the result of each test; a sample is correct if all are positive."""
    notes.fields = {"problem": "number of the problem", "correct": "all tests passed"}

    def make() -> Iterator[Row]:
        for problem, samples in results.items():
            for index, tests in enumerate(samples if isinstance(samples, list) else [None]):
                if not isinstance(tests, list) or not all(isinstance(test, (bool, int, float)) for test in tests):
                    raise InputError(f"{printable(path)}, problem {printable(problem)}: expected a list of test results for each sample")
                yield Row(problem, float(all(test > 0 for test in tests)), SCORED, index)

    return "LiveCodeBench results", batches(make())


def _opencompass(path: Path, raw: Any, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read OpenCompass results: ``details``, by number or as a list, with a verdict or one for each run of the problem."""
    details = _decode(path, raw, dict[str, Any] | list[Any])
    records = details if isinstance(details, list) else [record for key, record in details.items() if key != "type"]
    if not records or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{printable(path)}: its details are no records of samples")
    keys = [str(index) for index in range(len(records))] if isinstance(details, list) else [key for key in details if key != "type"]
    wanted = columns.correct or next((name for name in OPENCOMPASS if any(name in record for record in records)), None)
    if wanted is None or not any(wanted in record for record in records):
        had = listed(records[0])
        raise InputError(f"{printable(path)}: no field of its details says whether a sample is correct; they have {had}")
    notes.fields = {"problem": "file name and number", "correct": wanted}
    dataset = path.name.partition(".")[0]

    def make() -> Iterator[Row]:
        for key, record in zip(keys, records, strict=True):
            where = f"{printable(path)}, detail {printable(key, 40)}, field {wanted!r}"
            verdicts, runs = record.get(wanted), [record.get(name) for name in ("pred", "predictions", "prediction")]
            verdicts = verdicts if isinstance(verdicts, list) else [verdicts]
            if len(verdicts) > 1 and not any(isinstance(run, list) and len(run) == len(verdicts) for run in runs):
                raise InputError(f"{where}: is a list of {len(verdicts)}, and the record has not as many predictions")
            for index, verdict in enumerate(verdicts):
                yield Row(f"{dataset}/{label(record.get('example_abbr', key))}", score(verdict, where), SCORED, index)

    return "OpenCompass results", batches(make())


def _skythought(path: Path, outer: dict[str, Any], notes: SourceNotes) -> tuple[str, Batches]:
    """Read SkyThought's results by problem. Its responses are by number, or lists by temperature; a temperature is a model."""
    notes.fields = {"problem": "key", "correct": "correctness"}
    problems = {problem: _decode(path, raw, dict[str, Any]).get("responses") for problem, raw in outer.items()}
    temperatures = {key for responses in problems.values() if isinstance(responses, dict) for key in responses if not key.isdecimal()}

    def make() -> Iterator[Row]:
        for problem, responses in problems.items():
            items = responses.items() if isinstance(responses, dict) else enumerate(responses if isinstance(responses, list) else [])
            for key, group in items:
                temperature = number(key) if key in temperatures else None
                model = f"T={key}" if len(temperatures) > 1 and key in temperatures else None
                for response in group if isinstance(group, list) else [group]:
                    where = f"{printable(path)}, problem {printable(problem, 40)}"
                    if not isinstance(response, dict) or "correctness" not in response:
                        raise InputError(f"{where}: a response has no correctness; are these generations without results?")
                    text = str(response.get("content") or "").encode("utf-8", "surrogatepass")
                    verdict = score(response["correctness"], where)
                    yield Row(problem, verdict, SCORED, None, None, fingerprint(text), model, temperature)

    return "SkyThought results", batches(make())


class _EvalPlusSample(msgspec.Struct):
    """The fields of a sample of EvalPlus or BigCodeBench that are read; older files hold [status, details] under ``base`` and ``plus``."""

    base_status: str | None = None
    plus_status: str | None = None
    base: str | list[Any] | None = None
    plus: str | list[Any] | None = None
    status: str | None = None
    solution: msgspec.Raw = msgspec.Raw(b"")


class _MultiPLSample(msgspec.Struct):
    """The fields of a sample of MultiPL-E that are read."""

    status: str = ""
    exit_code: int | None = None


def _evalplus(path: Path, raw: Any, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read EvalPlus or BigCodeBench results. As in EvalPlus, a sample passes ``plus`` only if it also passes the base tests."""
    problems = _decode(path, raw, dict[str, list[_EvalPlusSample]])
    states = {result.status for results in problems.values() for result in results if result.status is not None}
    if states and not any(_state(result, "base") for results in problems.values() for result in results):
        return _bigcodebench(path, problems, states, notes)
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


def _bigcodebench(path: Path, problems: dict[str, list[_EvalPlusSample]], states: set[str], notes: SourceNotes) -> tuple[str, Batches]:
    """Make the samples of BigCodeBench's results, whose ``status`` is pass, fail or timeout."""
    if unknown := states - {"pass", "fail", "timeout"}:
        raise InputError(f"{printable(path)}: has the status {printable(min(unknown))!r}; expected pass, fail or timeout")
    notes.fields = {"problem": "task id", "correct": "status"}

    def make() -> Iterator[Row]:
        for problem, results in problems.items():
            for index, result in enumerate(results):
                verdict = math.nan if result.status is None else float(result.status == "pass")
                status = UNSCORED if verdict != verdict else TIMED_OUT if result.status == "timeout" else SCORED
                text = bytes(result.solution)
                yield Row(problem, verdict, status, index, None, fingerprint(text) if text else None)

    return "BigCodeBench results", batches(make())


def _state(sample: _EvalPlusSample, part: str) -> str | None:
    """Return ``pass``, ``fail``, ``timeout`` or None."""
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
    results = _decode(path, outer["results"], list[_MultiPLSample])

    def make() -> Iterator[Row]:
        for index, result in enumerate(results):
            passed = result.status == "OK" and result.exit_code == 0
            yield Row(name, float(passed), TIMED_OUT if result.status.lower() == "timeout" else SCORED, index)

    return "MultiPL-E results", batches(make())
