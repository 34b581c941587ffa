"""Metrics of a Trainer: ``trainer_state.json``, LLaMA-Factory's ``trainer_log.jsonl``, event files of TensorBoard, and files of W&B."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.side_files import parse_json
from dynamics.runs.logged_names import TRAINER
from dynamics.runs.readers import tensorboard_events, wandb_files
from dynamics.runs.readers.hf_files import json_file
from dynamics.runs.readers.looking import exists
from dynamics.runs.readers.metric_names import LARGEST_STEP, Scalar, check_number, common_names, drop_repeated, take

STATE = "trainer_state.json"
#: file that LLaMA-Factory appends a line to whenever it logs
LLAMA_FACTORY = "trainer_log.jsonl"
#: totals of training and of the evaluation after it
RESULTS = "all_results.json"
#: methods whose loss on other prompts is no loss of texts, because they sample
SAMPLING = frozenset(["grpo", "rloo", "ppo", "onlinedpo", "xpo", "nashmd", "gspo", "drgrpo"])
#: methods that call something else ``kl``: a sum over a sequence, or a baseline
OTHER_KL = frozenset(["kto", "ppo", "onlinedpo", "xpo", "nashmd"])
#: times that a run is resumed
RESUMED = 1000
#: characters of a name
LONGEST = 100
#: entries of a log that are no metrics
_UNMEASURED = frozenset(["step", "epoch", "current_steps", "total_steps", "percentage"])


@dataclass
class Log:
    """What the logs of a run say.

    Attributes
    ----------
    rows : step, name and value of each metric.
    state : ``trainer_state.json`` of the newest step, without its log.
    settings : that the logs of TensorBoard or W&B hold, by name.
    source : file that the metrics are from, or most of them.
    dropped : number of values by step that a later file, or a later line, of the same log replaced.
    """

    rows: list[Scalar] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    dropped: Counter[int] = field(default_factory=Counter)

    @property
    def last(self) -> int:
        """The last step that is logged; 0 if none is."""
        return max((step for step, _, _ in self.rows), default=0)

    @property
    def steps(self) -> int | None:
        """Number of steps that were made; None if no file says it."""
        made = self.state.get("global_step")
        return max(made if type(made) is int and 0 < made <= LARGEST_STEP else 0, self.last) or None

    def table(self, method: str | None) -> tuple[pd.DataFrame, dict[str, str]]:
        """Return the table of metrics, and what the trainer calls those of ``METRICS``."""
        names: dict[str, tuple[str, ...]] = dict(TRAINER)
        if method in SAMPLING:
            del names["held_out_loss"]
        elif "eval_loss" not in (present := {name for _, name, _ in self.rows}):
            several = [name for name in sorted(present) if name.startswith("eval_") and name.endswith("_loss")]
            names["held_out_loss"] = tuple(several if len(several) == 1 else ())
        if method in OTHER_KL:
            del names["kl"]
        return common_names(self.rows, names)


def read_log(folder: Path, states: list[Path], notes: list[str]) -> Log:
    """Read the metrics of a run.

    Parameters
    ----------
    folder : of the run.
    states : folders that may hold ``trainer_state.json``, the newest first.
    notes : lines are added on what could not be read.

    Returns
    -------
    The metrics of the newest readable state, and those of later steps from other logs, which are written before the next checkpoint.
    """
    log = Log()
    for parent in states:
        if document := json_file(parent / STATE):
            log.state = {name: value for name, value in document.items() if name != "log_history"}
            log.source = STATE
            take(lambda document=document, parent=parent: _add_history(document, log.rows, parent / STATE), parent / STATE, notes)  # type: ignore[misc]
            break
    _add(log, LLAMA_FACTORY, *_llama_factory(folder, notes))
    _add_results(log, json_file(folder / RESULTS))
    _add_foreign(log, "TensorBoard", lambda: _events(folder, log.settings, notes), notes, bool(tensorboard_events.event_files(folder)))
    _add_foreign(log, "W&B", lambda: _wandb(folder, log.settings, notes), notes, bool(wandb_files.run_files(folder)))
    return log


def _add(log: Log, source: str, rows: list[Scalar], dropped: Counter[int]) -> None:
    """Add the metrics of later steps than those that are known, and which of them were replaced."""
    last = log.last
    log.rows += [row for row in rows if row[0] > last]
    log.dropped.update({step: count for step, count in dropped.items() if step > last})
    if rows and not log.source:
        log.source = source


def _add_results(log: Log, results: Mapping[str, Any]) -> None:
    """Add the evaluation after the last step, which scripts of transformers and LLaMA-Factory make after they have saved the state."""
    step = log.steps
    known = {name for other, name, _ in log.rows if other == step}
    for name, value in results.items():
        if step and name.startswith("eval_") and name not in known and (number := _number(value)) is not None:
            log.rows.append((step, printable(name), number))


def _add_foreign(log: Log, source: str, read: Callable[[], tuple[list[Scalar], Counter[int]]], notes: list[str], present: bool) -> None:
    """Add the metrics of files that need a package; a note if it is not installed and there are no others."""
    if not present:
        return
    try:
        rows, dropped = read()
    except InputError as error:
        if not log.rows:
            notes.append(f"no metrics: {error}")
        return
    _add(log, source, rows, dropped)


def _add_history(document: Mapping[str, Any], rows: list[Scalar], path: Path) -> None:
    history = document.get("log_history")
    if not isinstance(history, list):
        raise InputError(f"{printable(path)}: has no list log_history; the metrics were left out")
    odd = sum(not _add_entry(entry, "step", rows) for entry in history)
    check_number(rows, path)
    if odd:
        raise InputError(f"{printable(path)}: {odd} of {len(history)} entries of log_history have no step; they were left out")


def _add_entry(entry: Any, step_name: str, rows: list[Scalar]) -> bool:
    """Add the numbers of an entry of a log; return whether it has a step."""
    step = entry.get(step_name) if isinstance(entry, dict) else None
    if type(step) is not int or not 0 <= step <= LARGEST_STEP:
        return False
    for name, value in entry.items():
        if name not in _UNMEASURED and (number := _number(value)) is not None:
            rows.append((step, name if name.isprintable() and len(name) < LONGEST else sys.intern(printable(name)), number))
    return True


def _number(value: Any) -> float | None:
    """Return a logged number; null, which TRL writes if there is no valid value, is not a number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _llama_factory(folder: Path, notes: list[str]) -> tuple[list[Scalar], Counter[int]]:
    path = folder / LLAMA_FACTORY
    rows: list[Scalar] = []
    dropped: Counter[int] = Counter()

    def read() -> None:
        odd = last = resumed = 0
        for _, line in read_json_lines(path, unfinished=[]):
            start = len(rows)
            odd += not _add_entry(line, "current_steps", rows)
            check_number(rows, path)
            if len(rows) > start:
                step = rows[-1][0]
                if step < last:
                    resumed += 1
                    drop_repeated(rows, start, dropped)
                if resumed > RESUMED:
                    raise InputError(f"{printable(path)}: goes back to earlier steps over {RESUMED} times; its later lines were left out")
                last = step
        if odd:
            raise InputError(f"{printable(path)}: {odd} lines have no current_steps; they were left out")

    if exists(path):
        take(read, path, notes)
    return rows, dropped


def _events(folder: Path, settings: dict[str, Any], notes: list[str]) -> tuple[list[Scalar], Counter[int]]:
    events = tensorboard_events.read_events(tensorboard_events.event_files(folder), notes)
    for tag in ("args", "model_config"):
        settings |= _json_text(events.texts.get(tag, ""))
    return _renamed(events.rows), events.dropped


def _renamed(rows: Iterable[Scalar]) -> list[Scalar]:
    return [(step, trainers_name(name), value) for step, name, value in rows if name not in ("train/epoch", "epoch")]


def _json_text(text: str) -> dict[str, Any]:
    """Read settings that a Trainer logged as text; empty if they are none."""
    try:
        value = parse_json(text.encode(), "settings") if text else {}
    except InputError:  # a text that another program logged under this name
        return {}
    return value if isinstance(value, dict) else {}


def _wandb(folder: Path, settings: dict[str, Any], notes: list[str]) -> tuple[list[Scalar], Counter[int]]:
    logged = wandb_files.read_runs(wandb_files.run_files(folder), notes)
    settings |= logged.settings
    return _renamed(logged.rows), logged.dropped


def trainers_name(name: str) -> str:
    """Undo what transformers does to names for TensorBoard and W&B.

    >>> trainers_name("train/loss"), trainers_name("eval/loss"), trainers_name("actor/loss")
    ('loss', 'eval_loss', 'actor/loss')
    """
    if name.startswith("train/"):
        return name.removeprefix("train/")
    return f"eval_{name.removeprefix('eval/')}" if name.startswith("eval/") else name
