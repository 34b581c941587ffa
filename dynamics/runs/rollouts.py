"""Sampled completions of a run, as one table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynamics.errors import InputError, printable
from dynamics.io import parquet
from dynamics.io.compression import opened
from dynamics.io.json_lines import read_json_lines
from dynamics.runs.completions import Completion, NoCompletion, clean, reader
from dynamics.runs.view import RolloutFile, Run

#: columns of the table, and what stands in them
COLUMNS = {
    "step": "optimizer step; -1 if nothing says it",
    "prompt": "text, or the contents of its messages with their roles; token ids if the trainer keeps only these",
    "completion": "text",
    "reward": "total reward; NaN if there is none",
    "tokens": "number of tokens of the completion; NaN if it is not known",
    "truncated": "whether the completion was cut; None if it is not known",
    "role": "of a game, such as proposer; empty elsewhere",
    "held_out": "whether the problem is not trained on",
    "file": "where it was read",
}
#: bytes of all files that are read, and of the start of a file from which the number of its records is estimated
MOST_BYTES, START = 1 << 30, 1 << 20
#: characters of the texts that are kept in memory
MOST_CHARACTERS = 1 << 29
#: columns of TRL's tables that are no rewards
NO_REWARD = frozenset(["step", "prompt", "completion", "advantage", "reward"])


def read_rollouts(run: Run, most: int = 200_000) -> tuple[pd.DataFrame, list[str]]:
    """Read the completions that a run has kept.

    Parameters
    ----------
    run : the run.
    most : number of completions; of more, whole files are left out, evenly over training, the first and the last stay.

    Returns
    -------
    table : a row per completion, with ``COLUMNS``, in the order of steps and files.
    notes : what was left out, a line each.
    """
    notes: list[str] = []
    files = _selected(run, most, notes)
    rewards = _rewards(run)
    found = _Found(most)
    for place, file in enumerate(files):
        if found.is_full:
            notes.append(f"{printable(run.path)}: {len(files) - place:,} files of samples are not read: those before hold {most:,} samples")
            break
        _read(file, rewards, found, notes)
    return found.table(), notes


@dataclass
class _Found:
    """The completions that were read, and equal texts only once."""

    most: int
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    characters: int = 0

    def add(self, row: Completion, file: RolloutFile, name: str) -> None:
        """Add a row."""
        step = file.step if file.step is not None else row.step
        prompt = self.prompts.setdefault(row.prompt, row.prompt)
        self.characters += len(row.completion) + (len(prompt) if prompt is row.prompt else 0)
        rest = (row.completion, row.reward, row.tokens, row.truncated, row.role, file.held_out, name)
        self.rows.append((-1 if step is None else step, prompt, *rest))

    @property
    def is_full(self) -> bool:
        """Whether no more rows are read."""
        return len(self.rows) >= self.most or self.characters >= MOST_CHARACTERS

    def table(self) -> pd.DataFrame:
        """Return the table, by step; rows of a step stay in the order of the files."""
        table = pd.DataFrame(self.rows, columns=list(COLUMNS))
        types = {"step": "int64", "reward": "float64", "tokens": "float64", "held_out": "bool"}
        types |= dict.fromkeys(("prompt", "completion", "truncated", "role", "file"), "object")
        if table["role"].nunique() == 1:  # no game: our solver alone
            table["role"] = ""
        return table.astype(types).sort_values("step", kind="stable", ignore_index=True)


def _selected(run: Run, most: int, notes: list[str]) -> list[RolloutFile]:
    """Choose the files that are read: all, or some evenly over training, of training and of held-out problems alike."""
    sizes = {file.path: _size(file.path) for file in run.rollouts}
    rows, size = (sum(part[place] for part in sizes.values()) for place in (0, 1))
    share = min(1.0, most / max(rows, 1), MOST_BYTES / max(size, 1))
    if share == 1.0:
        return run.rollouts
    kept: list[RolloutFile] = []
    for held_out in (False, True):
        files = [file for file in run.rollouts if file.held_out is held_out]
        count = min(len(files), max(2, int(len(files) * share)))
        kept += [files[place] for place in sorted(set(np.linspace(0, len(files) - 1, count).round().astype(int)))] if files else []
    if len(kept) < len(run.rollouts):
        notes.append(
            f"{printable(run.path)}: {len(run.rollouts) - len(kept):,} of {len(run.rollouts):,} files of samples left out, evenly over "
            f"training: together they hold about {rows:,} samples"
        )
    order = {file.path: place for place, file in enumerate(run.rollouts)}
    return sorted(kept, key=lambda file: order[file.path])


def _size(path: Path) -> tuple[int, int]:
    """Estimate the number of records of a file from its start; return it with the number of bytes."""
    try:
        size = path.stat().st_size
        if path.suffix == ".parquet":
            with parquet.opened(path) as table:
                return table.metadata.num_rows, size
        with opened(path) as stream:
            start = stream.read(START)
    except Exception:  # whatever is wrong is told when the file is read
        return 0, 0
    return round(start.count(b"\n") * max(1.0, size / max(len(start), 1))), size


def _rewards(run: Run) -> Callable[[Sequence[str]], list[tuple[str, float]]]:
    """Return a function that finds the columns of rewards of TRL's tables, and their weights, from what the run has logged."""
    logged = {match[1] for name in run.metrics["name"].unique() if (match := re.fullmatch(r"rewards/(.+)/mean", str(name)))}
    weights = _weights(run.config.get("reward_weights"))

    def columns(names: Sequence[str]) -> list[tuple[str, float]]:
        found = [name for name in names if name in logged] or [name for name in names if name not in NO_REWARD]
        return list(zip(found, weights if len(weights) == len(found) else [1.0] * len(found), strict=True))

    return columns


def _weights(value: Any) -> list[float]:
    try:
        values = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return []
    return [float(one) for one in values] if isinstance(values, list) and all(isinstance(one, (int, float)) for one in values) else []


def _read(file: RolloutFile, rewards: Callable[[Sequence[str]], list[tuple[str, float]]], found: _Found, notes: list[str]) -> None:
    """Read a file; what cannot be read becomes a note, and so do records that hold no completion, together."""
    name, where = clean(str(file.path)), printable(file.path)
    bad: list[str] = []
    before = len(found.rows)
    unfinished: list[int] = []
    records = _parquet(file.path, rewards) if file.path.suffix == ".parquet" else read_json_lines(file.path, unfinished)
    count, broken = 0, False
    try:
        for place, completions in _completions(records):
            count += 1
            if isinstance(completions, str):
                bad.append(f"{place} {completions}")
                continue
            if found.is_full:
                notes.append(f"{where}: only its first {len(found.rows) - before:,} samples are read")
                break
            for completion in completions:
                found.add(completion, file, name)
    except InputError as error:
        notes.append(f"{error}; what follows in the file is not read" if count else str(error))
        broken = True
    except RecursionError:
        notes.append(f"{where}: a record in it is nested too deeply; what follows in the file is not read")
    if bad:
        notes.append(f"{where}: {len(bad):,} of {count:,} records left out; the first: {bad[0]}")
    if unfinished:
        notes.append(f"{where}: its last line is not complete and is left out; it may still be being written")
    elif not count and not broken:
        notes.append(f"{where}: holds no samples")


def _completions(records: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, list[Completion] | str]]:
    """Yield the position of each record and its completions, or what is wrong with it."""
    read = None
    for place, record in records:
        if not isinstance(record, dict):
            yield place, "is no object"
            continue
        read = read or reader(record)
        try:
            yield place, list(read(record))
        except NoCompletion as error:
            yield place, str(error)


def _parquet(path: Path, rewards: Callable[[Sequence[str]], list[tuple[str, float]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table of TRL; the reward is the weighted sum over its functions, of those that apply."""
    import pyarrow as pa

    with parquet.opened(path) as table:
        kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)  # null: no reward of a function applied
        numbers = [column.name for column in table.schema_arrow if any(is_kind(column.type) for is_kind in kinds)]
        columns = rewards(numbers)
        for place, row in enumerate(parquet.rows(table), 1):
            if "reward" not in row and columns:
                row["reward"] = _sum(row, columns)
            yield place, row


def _sum(row: Mapping[str, Any], columns: Sequence[tuple[str, float]]) -> float:
    """Sum the rewards of the functions that returned one, as TRL does; NaN if none did."""
    parts = [row[name] * weight for name, weight in columns if isinstance(row.get(name), (int, float)) and not math.isnan(row[name])]
    return math.fsum(parts) if parts and all(map(math.isfinite, parts)) else sum(parts) if parts else math.nan
