"""Episodes of verifiers and prime-rl, ``traces.jsonl``: a record per episode, with the traces of its agents and their weighted rewards.

The sample is the episode's trainable trace, and its score is the weighted sum of that trace's rewards. An episode that timed out is a
wrong answer; an episode without a reward, or that ended in another error, has no verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.samples.row import SCORED, TIMED_OUT, UNSCORED, Columns, Row, SourceNotes, label, name_of

NAME = "verifiers / prime-rl episodes"
FIELDS = ("id", "env", "task", "run", "ok", "is_timeout", "traces")


def matches(record: dict[str, Any]) -> bool:
    """Tell whether a file with this first record holds episodes."""
    return isinstance(record.get("traces"), list) and isinstance(record.get("task"), dict)


def plan(path: Path, first: list[dict[str, Any]], columns: Columns, notes: SourceNotes) -> Plan:
    """Choose the reward: that named by ``columns.correct``, or the weighted sum of all."""
    names = {name for record in first for trace in record["traces"] if isinstance(trace, dict) for name in trace.get("rewards") or {}}
    if columns.correct and columns.correct not in names:
        available = ", ".join(map(printable, sorted(names))) or "none"
        raise InputError(f"{printable(path)}: has no reward {printable(columns.correct)!r}; it has {available}")
    notes.fields = {"problem": "env and task", "correct": f"reward {columns.correct}" if columns.correct else "weighted sum of rewards"}
    if len(names) > 1 and not columns.correct:
        notes.remarks.append(f"several rewards are summed: {', '.join(map(printable, sorted(names)))}; --correct takes one alone")
    return Plan(columns.correct, notes)


@dataclass
class Plan:
    """The way to read episodes: the reward (None for the weighted sum), and the notes in which unusual cases are counted."""

    reward: str | None
    notes: SourceNotes

    def rows(self, _number: int, get: Callable[[str], Any]) -> Iterator[Row]:
        """Yield the sample of one episode, whose fields ``get`` looks up."""
        traces = [trace for trace in get("traces") or [] if isinstance(trace, dict)]
        trainable = [trace for trace in traces if (trace.get("agent") or {}).get("trainable", True)] or traces
        if len(trainable) > 1:
            self.notes.counts["episodes with several trainable traces: the first is taken"] += 1
        trace = trainable[0] if trainable else {}
        value = self._reward(trace.get("rewards") or {})
        timed_out = bool(get("is_timeout") or trace.get("is_timeout"))
        if timed_out and math.isnan(value):
            value = 0.0
        status = TIMED_OUT if timed_out else UNSCORED if math.isnan(value) else SCORED
        yield Row(self._problem(get), value, status, _text(get("id")), None, None, _step(get("run")))

    def _reward(self, rewards: dict[str, Any]) -> float:
        chosen = [rewards.get(self.reward)] if self.reward else list(rewards.values())
        parts: list[Any] = [
            (reward.get("score"), reward.get("weight", 1.0)) if isinstance(reward, dict) else (reward, 1.0) for reward in chosen
        ]
        if not parts or not all(isinstance(number, (int, float)) for part in parts for number in part):
            return math.nan
        return math.fsum(score * weight for score, weight in parts)

    @staticmethod
    def _problem(get: Callable[[str], Any]) -> str:
        env, task = get("env") or {}, get("task") or {}
        data = task.get("data") or {}
        environment = env.get("name") or env.get("id") or ""
        key = task.get("key") or task.get("hash") or data.get("id")
        if key is None:
            key = data.get("idx")
        if key is None:
            key = name_of(json.dumps(data, sort_keys=True, default=str).encode())
        return f"{environment}/{label(key)}" if environment else label(key)


def _step(run: Any) -> str | None:
    """Return the step of the policy that an episode was sampled from, if a training run recorded it."""
    work = (run or {}).get("work") or {}
    step = work.get("step")
    return None if step is None else f"step {label(step)}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
