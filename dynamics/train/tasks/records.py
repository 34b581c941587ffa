"""Tasks from files of prompts with completions or answers."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.paths import no_such_path
from dynamics.io.validation import within_bounds
from dynamics.train.tasks.judges import LibraryScorer, ScoredAnswer
from dynamics.train.tasks.problem import Question, Verdict
from dynamics.train.tasks.prompt_formats import extract_answer

#: rows of a table that are read at once
MOST_ROWS = 10_000_000
HALF_PAIR = re.compile("[\ud800-\udfff]")
#: the number of answers of the file that are judged before those of the model; one of them must be accepted
_CHECKED = 8


class Records:
    """Prompts with completions or answers from a JSON-lines or Parquet file; math-verify grades answers as mathematics, in the sandbox.

    Parameters
    ----------
    path : the file.
    allow_unconfined : run math-verify without a sandbox if none is available.
    """

    def __init__(self, path: str, allow_unconfined: bool = False):
        self.name = Path(path).name
        self.path = path
        self.rows = read_records(path)
        self.scorer = LibraryScorer(printable(path), "math_verify", "mathematics", {}, self._correct, allow_unconfined)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return the rows of a split: of every ten rows, the tenth is for the test set and the ninth for validation."""
        del seed  # the order of the rows is fixed
        return [self._question(number, row, split) for number, row in self._rows(split)[:count]]

    def check_gradable(self, split: str, count: int) -> None:
        """Check that answers to the rows of a split can be graded: each row has an answer, and math-verify accepts the first of them."""
        for number, row in self._rows(split)[:count]:
            if row.get("answer") is None:
                raise InputError(
                    f"{printable(self.path)}, row {number + 1}: has no answer to grade completions by; add the field answer, or use sft "
                    "with --eval-problems 0"
                )
        _ = self.scorer.judge

    def executor(self) -> str:
        """Describe where answers are scored."""
        return self.scorer.executor()

    def _correct(self) -> list[tuple[Any, str]]:
        """Return the first answers of the file; each is a question to the scorer and its correct answer."""
        answers = [str(row["answer"]) for row in self.rows if row.get("answer") is not None]
        return [(answer, answer) for answer in answers[:_CHECKED]]

    def _rows(self, split: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the rows of a split with their positions in the file, counted from 0."""
        remainder = {"test": 9, "validation": 8}.get(split)
        rows = [(n, row) for n, row in enumerate(self.rows) if (n % 10 == remainder if remainder is not None else n % 10 < 8)]
        if not rows:
            raise InputError(f"{self.path}: has {len(self.rows)} rows, too few for a {split} set; give ten or more")
        return rows

    def _question(self, number: int, row: dict[str, Any], split: str) -> Question:
        answer = row.get("answer")
        completion = row.get("completion", answer)
        verify: Callable[[str], Verdict] = _unverifiable
        if answer is not None:
            verify = ScoredAnswer(self.scorer, pickle.dumps(str(answer)), _answer)
        return Question(f"{self.name} row {number + 1}", row["prompt"], completion, "data", split, verify)


def _answer(text: str) -> str:
    return extract_answer(text) or text


def _unverifiable(_: str) -> Verdict:
    raise InputError("a row without an answer cannot be verified: rlvr needs the fields prompt and answer")


def read_records(path: str) -> list[dict[str, Any]]:
    """Read rows with ``prompt`` and ``completion`` or ``answer``, all text, from a JSON-lines or Parquet file."""
    file = Path(path)
    if not file.exists():
        raise InputError(no_such_path(path, "file"))
    with within_bounds(path):
        rows = _read_parquet(file) if file.suffix == ".parquet" else [row for _, row in read_json_lines(file)]
    if not rows:
        raise InputError(f"{printable(path)}: has no rows")
    for number, row in enumerate(rows, start=1):
        fields = _fields(row)
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise InputError(f"{printable(path)}, row {number}: has no text field prompt; it has {fields}")
        if not isinstance(row.get("completion", row.get("answer")), (str, int, float)):
            raise InputError(f"{printable(path)}, row {number}: has neither completion nor answer; it has {fields}")
        texts = [row.get(name) for name in ("prompt", "completion", "answer")]
        if any(isinstance(text, str) and not text.isascii() and HALF_PAIR.search(text) for text in texts):
            raise InputError(f"{printable(path)}, row {number}: holds half of a surrogate pair, which no tokenizer reads")
    return rows


def _fields(row: Any) -> str:
    """List the fields of a row, only the first of many."""
    if not isinstance(row, dict):
        return f"no fields, but is of type {type(row).__name__}"
    return ", ".join(printable(key, 30) for key in islice(row, 12)) + (", ..." if len(row) > 12 else "") if row else "nothing"


def _read_parquet(file: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dynamics.io.regular import open_regular

    try:
        with open(open_regular(file), "rb") as stream:
            table = pq.ParquetFile(stream)
            if table.metadata.num_rows > MOST_ROWS:
                raise InputError(f"{printable(file)}: has over {MOST_ROWS:,} rows, more than are read at once; give a part of them")
            rows: list[Any] = table.read().to_pylist()
    except (InputError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{printable(file)}: cannot be read as Parquet: {printable(error)}") from None
    return rows
