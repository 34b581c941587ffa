"""Read the rows of Parquet files of strangers in bounded memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.regular import open_regular

#: rows that are read at once, and of tables with lists or structs, whose sizes are known too late
ROWS, NESTED_ROWS = 1024, 16
#: bytes of texts that are converted at once
LARGEST = 1 << 26


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Convert the errors that arrow raises for a damaged Parquet file to an ``InputError`` of one line."""
    import pyarrow as pa

    try:
        yield
    except (InputError, MemoryError):
        raise
    except (pa.ArrowException, UnicodeDecodeError, OSError, OverflowError, ValueError) as error:
        raise InputError(f"{printable(path)}: is damaged, or no Parquet file: {printable(str(error), 120)}") from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file for the block; its texts stay packed, as they are in the file, until ``rows`` converts them.

    Raises
    ------
    InputError : it is no regular file, is damaged, or no Parquet file; also if that is found while it is read.
    """
    from pyarrow import parquet

    with os.fdopen(open_regular(path), "rb") as stream, damage(path):
        texts = [field.name for field in parquet.read_schema(stream) if _is_text(field.type)]
        stream.seek(0)
        yield parquet.ParquetFile(stream, read_dictionary=texts)


def rows(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of an open table; few are converted at once if their texts are long, because one may stand there for many rows."""
    measurable = all(_is_measurable(field.type) for field in table.schema_arrow)
    for batch in table.iter_batches(ROWS if measurable else NESTED_ROWS):
        count = max(1, LARGEST // max(1, sum(map(_longest, batch.columns))))
        for start in range(0, batch.num_rows, count):
            yield from _unpacked(batch.slice(start, count)).to_pylist()


def _unpacked(batch: Any) -> Any:
    """Return a batch with its texts in full, which are converted faster."""
    import pyarrow as pa

    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_measurable(kind: Any) -> bool:
    """Tell whether ``_longest`` knows the size of the values of a type."""
    import pyarrow as pa

    types = pa.types
    return _is_text(kind.value_type if types.is_dictionary(kind) else kind) or types.is_primitive(kind) or types.is_null(kind)


def _longest(column: Any) -> int:
    """Return the number of bytes of the longest text of a column."""
    import pyarrow as pa
    from pyarrow import compute

    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    return int(compute.max(compute.binary_length(values)).as_py() or 0) if _is_text(values.type) else 0
