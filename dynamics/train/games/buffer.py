"""The buffer of valid tasks: references for the proposer, and tasks for the solver where new ones are missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import literal
from dynamics.train.sandbox.literals import MAX_DEPTH
from dynamics.train.tasks.problem import ProposedTask


@dataclass(frozen=True)
class BufferEntry:
    """A valid task in the buffer.

    Attributes
    ----------
    kind : deduction, abduction or induction.
    proposed : the program, and the arguments of its calls.
    outputs : of these calls.
    step : in which it was proposed; 0 before training.
    """

    kind: str
    proposed: ProposedTask
    outputs: tuple[Any, ...]
    step: int

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, for the state of a run and for rollouts."""
        return {
            "kind": self.kind,
            "program": self.proposed.program,
            "inputs": repr(self.proposed.inputs),
            "message": self.proposed.message,
            "outputs": repr(self.outputs),
            "step": self.step,
        }

    @staticmethod
    def from_json(row: dict[str, Any]) -> BufferEntry:
        """Convert from the JSON of ``to_json``."""
        inputs, outputs = (literal(row[name], 1 << 20, MAX_DEPTH + 2) for name in ("inputs", "outputs"))
        return BufferEntry(row["kind"], ProposedTask(row["program"], inputs, row["message"]), outputs, row["step"])


#: bounded; a full buffer drops its oldest tasks
Buffer = deque[BufferEntry]


def first_buffer(first: ProposedTask, outputs: tuple[Any, ...], size: int) -> Buffer:
    """Create a buffer of at most ``size`` tasks with only the first task of a language."""
    return deque([BufferEntry(kind, first, outputs, 0) for kind in ("deduction", "abduction")], maxlen=size)


def buffer_from_json(rows: Iterable[dict[str, Any]], size: int) -> Buffer:
    """Create a buffer of at most ``size`` tasks from the JSON of ``BufferEntry.to_json``."""
    return deque(map(BufferEntry.from_json, rows), maxlen=size)


def sample_to_fill(
    buffer: Buffer,
    new: Sequence[BufferEntry],
    kinds: Sequence[str],
    seed: int,
    step: int,
    count: int,
    key: Callable[[str, ProposedTask], str],
) -> list[BufferEntry]:
    """Sample tasks of the buffer that fill up a solver batch of ``count`` tasks of each type, as ``max_new`` of Absolute Zero's code.

    Parameters
    ----------
    buffer : tasks to draw from, each at most once, those of the seeding included; it may hold the new ones, which are not drawn.
    new : tasks that are in the batch already.
    kinds : task types.
    seed, step : select the random streams.
    count : size of the batch of a type.
    key : identifier that duplicates have in common.

    Returns
    -------
    Tasks type by type; fewer if the buffer has not enough.
    """
    taken = {key(entry.kind, entry.proposed) for entry in new}
    chosen: list[BufferEntry] = []
    for kind in kinds:
        pool = [entry for entry in buffer if entry.kind == kind and key(kind, entry.proposed) not in taken]
        missing = max(0, count - sum(entry.kind == kind for entry in new))
        indices = stream(seed, f"fill {kind}", step).permutation(len(pool))[:missing]
        chosen += [pool[int(index)] for index in indices]
    return chosen


def sample_earlier_tasks(buffer: Buffer, seed: int, step: int, count: int) -> list[BufferEntry]:
    """Sample at most ``count`` tasks of the buffer for the solver, in a step without a valid proposal."""
    pool = [entry for entry in buffer if entry.step or entry.kind == "induction"] or list(buffer)
    indices = stream(seed, "old tasks", step).choice(len(pool), min(len(pool), count), replace=False)
    return [pool[int(index)] for index in indices]
