"""Episodes of verifiers and prime-rl, ``traces.jsonl``: a record per episode, with the traces of its agents and their weighted rewards.

The sample is the episode's trainable trace, and its score is the weighted sum of that trace's rewards. An episode that timed out is a
wrong answer; an episode without a reward, or that ended in another error, has no verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.validation import Scalar, converted
from dynamics.samples.row import SCORED, TIMED_OUT, UNSCORED, Columns, Row, SourceNotes, label, listed, name_of

NAME = "verifiers / prime-rl episodes"


class Reward(msgspec.Struct):
    """A reward of a trace and its weight in the sum."""

    score: float | bool | None = None
    weight: float | bool | None = 1.0


class Agent(msgspec.Struct):
    """The agent of a trace."""

    trainable: bool | None = True


class Trace(msgspec.Struct):
    """What one agent did in an episode."""

    agent: Agent | None = None
    rewards: dict[str, Reward | float | bool | None] | None = None
    is_timeout: bool | None = False


class Environment(msgspec.Struct):
    """The environment of an episode."""

    name: Scalar = None
    id: Scalar = None


class Task(msgspec.Struct):
    """The problem of an episode."""

    key: Scalar = None
    hash: Scalar = None
    data: dict[str, Any] | None = None


class Work(msgspec.Struct):
    """What a training run was doing when it sampled an episode."""

    step: Scalar = None


class Run(msgspec.Struct):
    """The training run that sampled an episode."""

    work: Work | None = None


class Episode(msgspec.Struct):
    """The fields of a record that are read."""

    id: Scalar = None
    env: Environment | None = None
    task: Task | None = None
    run: Run | None = None
    is_timeout: bool | None = False
    traces: list[Trace] | None = None


def matches(record: dict[str, Any]) -> bool:
    """Tell whether a file with this first record holds episodes."""
    return isinstance(record.get("traces"), list) and isinstance(record.get("task"), dict)


def plan(path: Path, first: list[dict[str, Any]], columns: Columns, notes: SourceNotes) -> Plan:
    """Choose the reward: that named by ``columns.correct``, or the weighted sum of all."""
    episodes = [converted(record, Episode, f"{printable(path)}, record {number}") for number, record in enumerate(first, start=1)]
    names = {name for episode in episodes for trace in episode.traces or [] for name in trace.rewards or {}}
    if columns.correct and columns.correct not in names:
        available = listed(sorted(names))
        raise InputError(f"{printable(path)}: has no reward {printable(columns.correct)!r}; it has {available}")
    notes.fields = {"problem": "env and task", "correct": f"reward {columns.correct}" if columns.correct else "weighted sum of rewards"}
    if len(names) > 1 and not columns.correct:
        notes.remarks.append(f"several rewards are summed: {listed(sorted(names))}; --correct takes one alone")
    return Plan(columns.correct, notes)


@dataclass
class Plan:
    """The way to read episodes: the reward (None for the weighted sum), and the notes in which unusual cases are counted."""

    reward: str | None
    notes: SourceNotes

    def rows(self, _number: int, episode: Episode) -> Iterator[Row]:
        """Yield the sample of one episode."""
        traces = episode.traces or []
        trainable = [trace for trace in traces if trace.agent is None or trace.agent.trainable] or traces
        if len(trainable) > 1:
            self.notes.counts["episodes with several trainable traces: the first is taken"] += 1
        trace = trainable[0] if trainable else Trace()
        value = self._reward(trace.rewards or {})
        timed_out = bool(episode.is_timeout or trace.is_timeout)
        if timed_out and math.isnan(value):
            value = 0.0
        status = TIMED_OUT if timed_out else UNSCORED if math.isnan(value) else SCORED
        yield Row(_problem(episode), value, status, None if episode.id is None else str(episode.id), None, None, _step(episode.run))

    def _reward(self, rewards: dict[str, Reward | float | bool | None]) -> float:
        chosen = [rewards.get(self.reward)] if self.reward else list(rewards.values())
        parts = [(reward.score, reward.weight) if isinstance(reward, Reward) else (reward, 1.0) for reward in chosen]
        if not parts:
            return math.nan
        products = [math.nan if score is None or weight is None else score * weight for score, weight in parts]
        try:
            return math.fsum(products)
        except (ValueError, OverflowError):  # infinities of both signs; a sum beyond the largest number
            return math.nan


def _problem(episode: Episode) -> str:
    env, task = episode.env or Environment(), episode.task or Task()
    data = task.data or {}
    environment = env.name or env.id or ""
    key = task.key or task.hash or data.get("id")
    if key is None:
        key = data.get("idx")
    if key is None:
        key = name_of(json.dumps(data, sort_keys=True, default=str).encode())
    return f"{environment}/{label(key)}" if environment else label(key)


def _step(run: Run | None) -> str | None:
    """Return the step of the policy that an episode was sampled from, if a training run recorded it."""
    step = run.work.step if run and run.work else None
    return None if step is None else f"step {label(step)}"
