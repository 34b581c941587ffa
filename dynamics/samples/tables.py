"""CSV and Parquet tables, including those of lighteval and TRL. They are read in batches, and only the columns that are used."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io import parquet
from dynamics.io.compression import opened
from dynamics.samples import rows
from dynamics.samples.aggregates import correct_counts, is_aggregate, is_vote, pass_k, samples_of
from dynamics.samples.row import (
    BATCH,
    MOST_SAMPLES,
    SCORED,
    UNSCORED,
    Batches,
    Columns,
    Row,
    SourceNotes,
    batches,
    fingerprint,
    label,
    listed,
    name_of,
    score,
)

#: rows of a CSV table that are read to detect what its columns hold
FIRST_ROWS = 20
MOST_COLUMNS = 10_000


def read_csv(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a CSV table; return the name of the format and the samples."""
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True, delimiter=_delimiter(path))
    with opened(path) as stream:
        try:
            reader = csv.open_csv(_arrow(stream), parse_options=parse)
            names = reader.schema.names
            first = next(iter(reader), None)
        except MemoryError:
            raise
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"{printable(path)}: is no CSV table: {printable(str(error), 120)}") from None
    _check_names(names, printable(path))
    seen = rows.kinds(first.slice(0, FIRST_ROWS).to_pylist()) if first is not None else rows.Kinds()
    layout = rows.layout(names, columns, printable(path), seen)
    rows.describe(layout, columns, notes)
    wanted = list(dict.fromkeys([*layout.fields(), *([layout.text] if layout.text else [])]))

    def parts() -> Iterator[Any]:
        # all values are read as text, because a type inferred from the first block could fail on a later block; empty values are missing
        convert = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=True)
        with opened(path) as stream:
            try:
                yield from csv.open_csv(_arrow(stream), parse_options=parse, convert_options=convert)
            except MemoryError:
                raise
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise InputError(f"{printable(path)}: is damaged, or no CSV table: {printable(str(error), 120)}") from None

    return layout.name, rows.finished(layout, _columns(parts(), layout, printable(path), notes), printable(path), notes)


def _check_names(names: list[str], path: str) -> None:
    """Refuse a table with two columns of one name, or with so many columns that a row is no record."""
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{path}: has {len(names):,} columns, which no log has; is the delimiter or the quoting of the table damaged?")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(f"{path}: has two columns called {printable(repeated[0])!r}; rename one")


def _delimiter(path: Path) -> str:
    """Return the delimiter of a table: the mark that its first line has most often, a comma if there is none."""
    with opened(path) as stream:
        line = stream.readline(1 << 16)
    return max(",\t;|", key=lambda mark: line.count(mark.encode()))


def is_csv(path: Path) -> bool:
    """Tell whether a file is a CSV table of more than one column, as far as its first block says."""
    import pyarrow as pa
    from pyarrow import csv

    with opened(path) as stream:
        try:
            names = csv.open_csv(
                _arrow(stream), parse_options=csv.ParseOptions(newlines_in_values=True, delimiter=_delimiter(path))
            ).schema.names
        except (pa.ArrowException, UnicodeDecodeError):
            return False
    return len(names) > 1


def read_parquet(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a Parquet table; return the name of the format and the samples."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with parquet.damage(path):
        file = ParquetFile(path)
        schema = file.schema_arrow
        names = schema.names
    _check_names(names, printable(path))
    if file.metadata.num_rows > MOST_SAMPLES:
        raise InputError(f"{printable(path)}: has {file.metadata.num_rows:,} rows; over {MOST_SAMPLES:,} samples are not read at once")

    def parts(wanted: list[str]) -> Iterator[Any]:
        yield from file.iter_batches(BATCH, columns=wanted)

    old = {"full_prompt", "predictions", "metrics"} <= set(names) and pa.types.is_struct(schema.field("metrics").type)
    if old or {"doc", "model_response", "metric"} <= set(names):
        name, batches = _lighteval(path, schema, parts, columns, notes)
        return name, _guarded(batches, path)
    layout = rows.layout(names, columns, printable(path), _kinds(schema))
    rows.describe(layout, columns, notes)
    wanted = list(dict.fromkeys([*layout.fields(), *([layout.text] if layout.text else [])]))
    return layout.name, _guarded(
        rows.finished(layout, _columns(parts(wanted), layout, printable(path), notes), printable(path), notes), path
    )


def _kinds(schema: Any) -> rows.Kinds:
    """Tell by their types what the columns of a table hold."""
    import pyarrow as pa

    def having(*tests: Callable[[Any], bool]) -> frozenset[str]:
        return frozenset(field.name for field in schema if any(test(field.type) for test in tests))

    kinds = pa.types
    return rows.Kinds(
        having(kinds.is_floating, kinds.is_integer, kinds.is_boolean),
        having(kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list),
        having(kinds.is_string, kinds.is_large_string),
        having(kinds.is_boolean),
    )


def _guarded(batches: Batches, path: Path) -> Batches:
    with parquet.damage(path):
        yield from batches


def _columns(parts: Iterator[Any], layout: rows.Layout, path: str, notes: SourceNotes) -> Batches:
    reader = rows.Reader(layout, path, notes, "row")
    start = 1
    for part in parts:
        values = {name: column.to_pylist() for name, column in zip(part.schema.names, part.columns, strict=True)}
        texts = values.get(layout.text) if layout.text else None
        fingerprints = None if texts is None else [None if text is None else fingerprint(_bytes(text)) for text in texts]
        yield from reader.batch(range(start, start + part.num_rows), values, fingerprints)
        start += part.num_rows


def _arrow(stream: Any) -> Any:
    import pyarrow as pa

    return pa.PythonFile(stream, "r")


def _bytes(text: Any) -> bytes:
    return (text if isinstance(text, str) else json.dumps(text, default=str)).encode("utf-8", "surrogatepass")


def _lighteval(
    path: Path, schema: Any, parts: Callable[[list[str]], Iterator[Any]], columns: Columns, notes: SourceNotes
) -> tuple[str, Batches]:
    """Read lighteval's details: a row per problem, with all its responses and the metrics of the problem.

    The verdicts of several responses are recovered from an aggregate metric (pass@k, avg@n). Other metrics are of the best of the responses
    (exact matches) or of their vote (maj@n), and give a verdict only where there is one response.
    """
    import pyarrow as pa

    struct, old = ("metric", False) if "metric" in schema.names else ("metrics", True)
    holders = ("metrics",) if old else ("metric", "doc", "model_response")
    if plain := [name for name in holders if not pa.types.is_struct(schema.field(name).type)]:
        raise InputError(
            f"{printable(path)}: its column {plain[0]!r} is of type {schema.field(plain[0]).type}, not a struct as in lighteval"
        )
    types = {field.name: field.type for field in schema.field(struct).type}
    metric = _metric(types, columns, notes, printable(path))
    notes.fields = {"problem": "full_prompt" if old else "doc.task_name and doc.id", "correct": f"metric {metric}"}
    texts = "predictions" if old else "model_response.text"
    identity = ["full_prompt"] if old else ["doc.id", "doc.task_name"]
    for name in (texts, identity[0]):
        if not _has(schema, name):
            raise InputError(f"{printable(path)}: has no column {name!r}, as lighteval's details have")

    def make() -> Iterator[Row]:
        number = 0
        for part in parts([*identity, texts, f"{struct}.{metric}"]):
            for row in part.to_pylist():
                number += 1
                answers = _texts(row["predictions"] if old else (row["model_response"] or {}).get("text"))
                where = f"{printable(path)}, row {number}, metric {metric!r}"
                verdicts = _verdicts(metric, score((row[struct] or {}).get(metric), where), len(answers), where, notes)
                doc = row.get("doc") or {}
                problem = name_of(_bytes(row["full_prompt"])) if old else f"{doc.get('task_name') or ''}/{label(doc.get('id'))}"
                for sample, (verdict, text) in enumerate(zip(verdicts, answers, strict=True)):
                    status = SCORED if verdict == verdict else UNSCORED
                    yield Row(problem, verdict, status, sample, None, fingerprint(_bytes(text)))

    return "lighteval details", batches(make())


def _has(schema: Any, name: str) -> bool:
    """Tell whether a table has a column; a dot separates the name of a struct from that of its field."""
    column, _, field = name.partition(".")
    return column in schema.names and (not field or field in [part.name for part in schema.field(column).type])


def _metric(types: dict[str, Any], columns: Columns, notes: SourceNotes, path: str) -> str:
    """Choose the metric: the one named, or the aggregate of the most samples with the smallest k, or the first other one."""
    import pyarrow as pa

    plain = [name for name, kind in types.items() if not pa.types.is_nested(kind)]
    aggregate = sorted(
        (name for name in plain if is_aggregate(name)),
        key=lambda name: (-(samples_of(name) or math.inf), pass_k(name) or 1),
    )
    others = [name for name in plain if not is_aggregate(name) and not is_vote(name)]
    metric = columns.correct or next(iter([*aggregate, *others, *plain]), "")
    if metric not in types:
        raise InputError(f"{path}: has no metric {printable(metric)!r}; it has {listed(types)}")
    if metric not in plain:
        raise InputError(f"{path}: metric {printable(metric)!r} is of the whole task, not of a response; there are {listed(plain)}")
    if len(plain) > 1:
        also = listed(name for name in plain if name != metric)
        notes.remarks.append(f"verdict is {metric}; --correct takes another: {also}")
    return metric


def _texts(value: Any) -> list[str]:
    return list(value or [""]) if isinstance(value, list) or not value else [value]


def _verdicts(metric: str, value: float, responses: int, where: str, notes: SourceNotes) -> list[float]:
    """Return a verdict for each response of a problem, given only the value of a metric."""
    if value == value and is_aggregate(metric):
        n = samples_of(metric) or responses
        if n > MOST_SAMPLES:
            raise InputError(f"{where}: is of {n:,} samples, more than are read at once")
        fits = [count for count in correct_counts(metric, value, n) if count <= responses]
        if not fits:
            raise InputError(f"{where}: {value} fits no number of correct responses out of {n}")
        if len(fits) > 1:
            notes.counts[f"problems whose {metric} fits several numbers of correct samples: the smallest is taken"] += 1
        if n < responses:
            notes.counts[f"responses without a verdict: {metric} is of the first {n} of a problem"] += responses - n
        graded = min(n, responses)
        return [float(response < fits[0]) for response in range(graded)] + [math.nan] * (responses - graded)
    if responses > 1 and value == value:
        raise InputError(
            f"{where}: is one value for {responses} responses, of the best of them or of a vote, so it is no verdict of each; "
            "name an aggregate such as pass@k or avg@n with --correct, or run the task with it"
        )
    return [value] + [math.nan] * (responses - 1)
