"""Metrics from the logs of trainers: JSON lines, lines of text, TensorBoard events."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.runs.completions import finite_or_infinite
from dynamics.runs.readers.looking import is_readable
from dynamics.runs.readers.metric_names import LARGEST_STEP, MOST, Scalar, common_names, repeated_steps
from dynamics.runs.readers.settings import flat, unfolded
from dynamics.runs.readers.tensorboard_events import Events, event_files, read_events
from dynamics.runs.readers.wandb_files import Logged, read_runs, run_files
from dynamics.runs.view import Run

#: values that are kept of metrics without a name in ``METRICS``
MOST_OTHERS = MOST // 2
#: a value in a line of a console log, ``step:3 - critic/score/mean:0.5 - ...``
CONSOLE = re.compile(rb"(?:^|\s)step:(\d{1,15}) - (.*)")
CONSOLE_VALUE = re.compile(r"([^\s:]+):(?:np\.float(?:32|64)\()?([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf))\)?$", re.I)
#: bytes of a log of text that is read, from its start, and of one of its lines
LONGEST_LOG, LONGEST_LINE = 1 << 30, 1 << 20


class Log:
    """Values of metrics by step, under the trainer's own names, as the files have them.

    Parameters
    ----------
    names : key of ``METRICS`` -> the trainer's names for it; the first that the run has is taken.

    Attributes
    ----------
    rows : step, name and value of each, in the order of the files.
    settings : what W&B recorded of the settings; empty if it recorded nothing.
    dropped : number of values by step that a later file replaced.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]):
        self.names = names
        self.rows: list[Scalar] = []
        self.settings: dict[str, Any] = {}
        self.dropped: Counter[int] = Counter()
        self._known = {name for candidates in names.values() for name in candidates}
        self._others = self._dropped = 0

    def add(self, step: int, values: Iterable[tuple[str, Any]]) -> None:
        """Add the values of a step; those that are no numbers are left out.

        Of more values than can be kept, those of metrics without a name in ``METRICS`` are left out first.
        """
        for name, value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            known = name in self._known
            if len(self.rows) >= MOST or (not known and self._others >= MOST_OTHERS):
                self._dropped += 1
                continue
            self._others += not known
            self.rows.append((step, sys.intern(printable(name, 200)), finite_or_infinite(value)))

    def combine(self, name: str, parts: Sequence[str], how: Callable[[pd.DataFrame], pd.Series[float]]) -> bool:
        """Add a metric that is computed from others, at the steps that have all of them; return whether any has.

        Of several values of a step the last counts. A part that is NaN at a step makes the metric NaN there.
        """
        chosen = set(parts)
        steps: dict[int, dict[str, float]] = {}
        for step, part, value in self.rows:
            if part in chosen:
                steps.setdefault(step, {})[part] = value
        wide = pd.DataFrame.from_dict(
            {step: values for step, values in sorted(steps.items()) if len(values) == len(chosen)}, orient="index", columns=list(parts)
        )
        for index, value in how(wide).items() if len(wide) else ():
            self.add(int(str(index)), [(name, float(value))])
        return len(wide) > 0

    def mean_of(self, name: str, pattern: re.Pattern[str], remarks: list[str]) -> None:
        """Add the mean over the metrics that match a pattern, at the steps that have all of them, and say so if they are several."""
        parts = [part for part in self.own_names() if pattern.fullmatch(part)]
        if parts and self.combine(name, parts, lambda wide: wide.mean(axis=1, skipna=False)) and len(parts) > 1:
            remarks.append(f"{name} is over {len(parts)}: {', '.join(map(printable, parts[:4]))}{', ...' if len(parts) > 4 else ''}")

    def own_names(self) -> list[str]:
        """List the trainer's names."""
        return sorted({name for _, name, _ in self.rows})

    def write_to(self, run: Run) -> None:
        """Put the metrics into a run, under the names of ``METRICS``."""
        run.metrics, run.metric_names = common_names(self.rows, self.names)
        run.remarks += filter(None, [repeated_steps(run.metrics, self.dropped)])
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
        if is_step(step) and isinstance(values, Mapping):
            log.add(step, values.items())
        else:
            odd += 1
    if odd:
        notes.append(f"{printable(path)}: {odd:,} lines are no metrics of a step and are left out")


def is_step(value: Any) -> TypeGuard[int]:
    """Tell whether a value is the number of a step."""
    return type(value) is int and 0 <= value <= LARGEST_STEP


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
    """Return the first value of a file of JSON lines; None if there is none, or the file cannot be opened, which is told."""
    return next(records(path, [], 1), None) if is_readable(path) else None


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


def event_logs(folders: Iterable[Path], notes: list[str], log: Log, wandb: Iterable[Path] = ()) -> None:
    """Add the scalars of TensorBoard's events in folders and below them; if there are none, those of offline runs of W&B, and settings.

    Parameters
    ----------
    folders : where both are looked for.
    notes : receives what cannot be read.
    log : receives scalars and settings.
    wandb : further files of W&B.
    """
    folders = list(folders)
    events = dict.fromkeys(file for folder in folders for file in event_files(folder))
    files = dict.fromkeys([*(file for folder in folders for file in run_files(folder)), *wandb])
    try:
        read = read_events(list(events), notes) if events else Events()
        logged = read_runs(list(files), notes) if files else Logged()
    except InputError as error:  # a package that reads them is not installed
        notes.append(str(error))
        return
    log.settings = flat(unfolded(logged.settings))
    rows, log.dropped = (read.rows, read.dropped) if read.rows else (logged.rows, logged.dropped)
    for step, name, value in rows:
        if is_step(step):
            log.add(step, [(name, value)])


def learning_rate(run: Run, configured: float | None) -> float | None:
    """Return the learning rate that the settings give, else the largest that was logged; None if there is neither."""
    logged = run.series("learning_rate").dropna()
    if configured is not None or not len(logged):
        return configured
    largest, short = float(logged.max()), np.float32(logged.max())
    return float(str(short)) if float(short) == largest else largest  # TensorBoard keeps 32 bits of 2e-05
