"""Metrics from the logs of trainers: JSON lines, lines of text, TensorBoard events."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.runs.readers.weights import entries
from dynamics.runs.view import Run, metrics_table

#: values that are kept of metrics with a name of ``METRICS``, and of all others together; names of others
MOST_KNOWN, MOST_OTHER, MOST_NAMES = 10_000_000, 2_000_000, 5_000
#: largest step
LAST_STEP = 1 << 53
#: a value in a line of a console log, ``step:3 - critic/score/mean:0.5 - ...``
CONSOLE = re.compile(rb"(?:^|\s)step:(\d{1,15}) - (.*)")
CONSOLE_VALUE = re.compile(r"([^\s:]+):(?:np\.float(?:32|64)\()?([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf))\)?$", re.I)
#: bytes of a log of text that is read, from its start, and of one of its lines
LONGEST_LOG, LONGEST_LINE = 1 << 30, 1 << 20
#: folders in folders that are searched for logs, and how many
DEPTH, FOLDERS = 4, 2_000


class Log:
    """Values of metrics by step and by the trainer's own names, as the files have them.

    Parameters
    ----------
    names : key of ``METRICS`` -> the trainer's names for it, the first that the run has is taken.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]):
        self.names = names
        self._known = {name for candidates in names.values() for name in candidates}
        self._identity: dict[str, str] = {}
        self._steps, self._values = array("q"), array("d")
        self._labels: list[str] = []
        self._others = self._dropped = 0

    def __len__(self) -> int:
        """Count the values."""
        return len(self._labels)

    def add(self, step: int, values: Iterable[tuple[str, Any]]) -> None:
        """Add the values of a step; those that are no numbers are left out."""
        for name, value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            label = self._label(name)
            if label is None:
                self._dropped += 1
                continue
            self._steps.append(step)
            self._labels.append(label)
            self._values.append(float(value) if abs(value) < 1e300 or value != value else np.copysign(np.inf, value))

    def _label(self, name: str) -> str | None:
        """Return the name as it is kept, one object for all equal ones; None if there are too many values already."""
        if name in self._known:
            return self._identity.setdefault(name, name) if len(self) < MOST_KNOWN else None
        if self._others >= MOST_OTHER or (name not in self._identity and len(self._identity) >= MOST_NAMES):
            return None
        self._others += 1
        return self._identity.setdefault(name, printable(name, 200))

    def combine(self, name: str, parts: Sequence[str], how: Callable[[pd.DataFrame], pd.Series[float]]) -> bool:
        """Add a metric that is computed from others of the same step, where all of them are there; return whether any was."""
        table = self.table()
        table = table[table["name"].isin(parts)]
        wide = table.pivot_table(index="step", columns="name", values="value", aggfunc="last", dropna=False).reindex(columns=list(parts))
        wide = wide.dropna()
        if not len(wide):
            return False
        for step, value in how(wide).items():
            self.add(int(str(step)), [(name, float(value))])
        return True

    def own_names(self) -> list[str]:
        """List the trainer's names."""
        return sorted(set(self._labels))

    def table(self) -> pd.DataFrame:
        """Return the table of the values under the trainer's own names."""
        table = metrics_table([])
        if not self._labels:
            return table
        columns = {"step": np.array(self._steps), "name": np.array(self._labels, dtype=object), "value": np.array(self._values)}
        return pd.DataFrame(columns).astype(table.dtypes.to_dict())

    def write_to(self, run: Run) -> None:
        """Put the metrics into a run, under the names of ``METRICS``."""
        there = set(self._labels)
        chosen = {key: name for key, names in self.names.items() if (name := next((name for name in names if name in there), None))}
        keys = {name: key for key, name in chosen.items()}
        table = self.table()
        table["name"] = table["name"].map(lambda name: keys.get(name, name))
        run.metrics, run.metric_names = table, {**run.metric_names, **chosen}
        if self._dropped:
            run.notes.append(f"{printable(run.path)}: {self._dropped:,} logged values are left out: the logs hold more than are read")


def json_log(path: Path, notes: list[str], line: Callable[[dict[str, Any]], tuple[Any, Mapping[str, Any]]], log: Log) -> None:
    """Read a log of JSON lines; what cannot be read becomes a note.

    Parameters
    ----------
    path : the file. An unfinished last line, as a running program leaves it, is left out.
    notes : receives what is left out.
    line : returns the step of a record and its values.
    log : receives the values.
    """
    odd = 0
    for record in records(path, notes):
        step, values = line(record) if isinstance(record, dict) else (None, {})
        if not is_step(step) or not isinstance(values, Mapping):
            odd += 1
            continue
        log.add(step, values.items())
    if odd:
        notes.append(f"{printable(path)}: {odd:,} lines are no metrics of a step and are left out")


def mean_of(log: Log, name: str, pattern: re.Pattern[str], remarks: list[str]) -> None:
    """Add the mean over the metrics that match a pattern, at the steps that have all of them, and say so if they are several."""
    parts = [part for part in log.own_names() if pattern.fullmatch(part)]
    if parts and log.combine(name, parts, lambda wide: wide.mean(axis=1)) and len(parts) > 1:
        remarks.append(f"{name} is over {len(parts)}: {', '.join(map(printable, parts[:4]))}{', ...' if len(parts) > 4 else ''}")


def is_step(value: Any) -> bool:
    """Tell whether a value is the number of a step."""
    return type(value) is int and 0 <= value < LAST_STEP


def records(path: Path, notes: list[str], most: int | None = None) -> Iterator[Any]:
    """Yield the values of a file of JSON lines, up to the first that cannot be read, which becomes a note."""
    unfinished: list[int] = []
    count = 0
    try:
        for _, record in read_json_lines(path, unfinished):
            if count == most:
                return
            count += 1
            yield record
    except InputError as error:
        notes.append(f"{error}; what follows in the file is not read")
    if unfinished:
        notes.append(f"{printable(path)}: its last line is not complete and is left out; it may still be being written")


def first_record(path: Path) -> Any:
    """Return the first value of a file of JSON lines; None if there is none."""
    return next(records(path, [], 1), None)


def console_log(path: Path, notes: list[str], log: Log) -> None:
    """Read the metrics that verl prints, ``step:3 - critic/score/mean:0.5``, from a file that its output was written to."""
    from dynamics.io.compression import opened

    left = LONGEST_LOG
    try:
        with opened(path) as stream:
            while left > 0 and (line := stream.readline(LONGEST_LINE)):
                left -= len(line)
                if match := CONSOLE.search(line):
                    parts = map(CONSOLE_VALUE.fullmatch, match[2].decode("utf-8", "replace").strip().split(" - "))
                    log.add(int(match[1]), [(part[1], float(part[2])) for part in parts if part])
    except InputError as error:
        notes.append(str(error))
    if left <= 0:
        notes.append(f"{printable(path)}: only its first {LONGEST_LOG >> 30} GiB are read")


def event_folders(folder: Path) -> list[Path]:
    """List the folders with event files of TensorBoard, and those of offline W&B runs, in a folder and in the folders in it."""
    found, waiting, seen = [], [(folder, 0)], 0
    while waiting and seen < FOLDERS:
        current, depth = waiting.pop(0)
        seen += 1
        inside = entries(current)
        if any("tfevents" in entry.name for entry in inside) or (current.name.startswith("offline-run-")):
            found.append(current)
        if depth < DEPTH and not current.name.startswith("offline-run-"):
            waiting += [(entry, depth + 1) for entry in inside if entry.is_dir() and not entry.is_symlink()]
    return found


def event_logs(folders: Iterable[Path], notes: list[str], log: Log) -> None:
    """Add the scalars of folders with events of TensorBoard or an offline W&B run; what cannot be read becomes a note."""
    from dynamics.runs.readers.tensorboard_events import scalars

    for folder in folders:
        _add_events(folder, scalars, notes, log)


def _add_events(folder: Path, scalars: Callable[[Path], list[tuple[int, str, float]]], notes: list[str], log: Log) -> None:
    try:
        for step, name, value in scalars(folder):
            if is_step(step):
                log.add(step, [(name, value)])
    except InputError as error:
        notes.append(str(error))
