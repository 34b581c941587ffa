"""CSV and Parquet tables, including those of lighteval and TRL. They are read in batches, and only the columns that are used."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened
from dynamics.samples import rows
from dynamics.samples.aggregates import correct_counts, is_aggregate
from dynamics.samples.row import SCORED, UNSCORED, Batches, Columns, Row, SourceNotes, batches, fingerprint, label, score

BATCH = 4096


def read_csv(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a CSV table; return the name of the format and the samples."""
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    with opened(path) as stream:
        try:
            names = csv.open_csv(_arrow(stream), parse_options=parse).schema.names
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
            raise InputError(f"{printable(path)}: is no CSV table: {printable(str(error), 120)}") from None
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{printable(path)}: has two columns called {printable(repeated[0])!r}; rename one")
    layout = rows.layout(names, columns, printable(path))
    rows.describe(layout, notes)
    wanted = list(dict.fromkeys([*layout.fields(), *([layout.text] if layout.text else [])]))

    def parts() -> Iterator[Any]:
        # all values are read as text, because a type inferred from the first block could fail on a later block; empty values are missing
        convert = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=True)
        with opened(path) as stream:
            try:
                yield from csv.open_csv(_arrow(stream), parse_options=parse, convert_options=convert)
            except (pa.ArrowInvalid, UnicodeDecodeError) as error:
                raise InputError(f"{printable(path)}: is damaged, or no CSV table: {printable(str(error), 120)}") from None

    return layout.name, _columns(parts(), layout, printable(path))


def read_parquet(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Read a Parquet table; return the name of the format and the samples."""
    import pyarrow as pa
    from pyarrow import parquet

    with _damage(path):
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        names = schema.names

    def parts(wanted: list[str]) -> Iterator[Any]:
        yield from file.iter_batches(BATCH, columns=wanted)

    if {"doc", "model_response", "metric"} <= set(names):
        name, batches = _lighteval(path, schema, parts, columns, notes)
        return name, _guarded(batches, path)
    numeric = {
        field.name
        for field in schema
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    }
    layout = rows.layout(names, columns, printable(path), numeric.__contains__)
    rows.describe(layout, notes)
    wanted = list(dict.fromkeys([*layout.fields(), *([layout.text] if layout.text else [])]))
    return layout.name, _guarded(_columns(parts(wanted), layout, printable(path)), path)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Convert the errors that arrow raises for a damaged Parquet file to an ``InputError`` of one line."""
    import pyarrow as pa

    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, UnicodeDecodeError, OSError, OverflowError, ValueError) as error:
        raise InputError(f"{printable(path)}: is damaged, or no Parquet file: {printable(str(error), 120)}") from None


def _guarded(batches: Batches, path: Path) -> Batches:
    with _damage(path):
        yield from batches


def _columns(parts: Iterator[Any], layout: rows.Layout, path: str) -> Batches:
    reader = rows.Reader(layout, path, "row")
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

    The verdicts of several responses are recovered from an aggregate metric (pass@k, avg@n) if available; otherwise only the first response
    has a verdict.
    """
    metrics = [field.name for field in schema.field("metric").type]
    aggregate = [name for name in metrics if is_aggregate(name)]
    metric = columns.correct or next(iter(aggregate or metrics), "")
    if metric not in metrics:
        raise InputError(f"{printable(path)}: has no metric {printable(metric)!r}; it has {', '.join(map(printable, metrics)) or 'none'}")
    notes.fields = {"problem": "doc.task_name and doc.id", "correct": f"metric {metric}"}
    if len(metrics) > 1:
        others = ", ".join(printable(name) for name in metrics if name != metric)
        notes.remarks.append(f"verdict is {metric}; --correct takes another: {others}")
    wanted = ["doc.id", "doc.task_name", "doc.query", "model_response.text", f"metric.{metric}"]

    def make() -> Iterator[Row]:
        number = 0
        for part in parts(wanted):
            three = [part.column(name).to_pylist() for name in ("doc", "model_response", "metric")]
            for doc, response, scores in zip(*three, strict=True):
                number += 1
                texts = (response or {}).get("text") or [""]
                where = f"{printable(path)}, row {number}, metric {metric!r}"
                verdicts = _verdicts(metric, score((scores or {}).get(metric), where), len(texts), where, notes)
                problem = f"{doc.get('task_name') or ''}/{label(doc.get('id'))}"
                for sample, (verdict, text) in enumerate(zip(verdicts, texts, strict=True)):
                    status = SCORED if verdict == verdict else UNSCORED
                    yield Row(problem, verdict, status, sample, None, fingerprint(_bytes(text)))

    return "lighteval details", batches(make())


def _verdicts(metric: str, value: float, responses: int, where: str, notes: SourceNotes) -> list[float]:
    """Return a verdict for each response of a problem, given only the value of a metric."""
    if value == value and is_aggregate(metric):
        fits = correct_counts(metric, value, responses)
        if not fits:
            raise InputError(f"{where}: {value} fits no number of correct responses out of {responses}")
        if len(fits) > 1:
            notes.counts[f"problems whose {metric} fits several numbers of correct samples: the smallest is taken"] += 1
        return [float(response < fits[0]) for response in range(responses)]
    if responses > 1:
        notes.counts["responses without a verdict: the metric is of the problem, not of each response"] += responses - 1
    return [value] + [float("nan")] * (responses - 1)
