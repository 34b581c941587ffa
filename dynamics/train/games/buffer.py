"""The buffer of valid tasks: what proposers are shown, and what solvers may go back to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import literal
from dynamics.train.tasks.problem import ProposedTask


@dataclass(frozen=True)
class Entry:
    """A valid task in the buffer."""

    kind: str
    proposed: ProposedTask
    outputs: tuple[Any, ...]
    step: int

    def packed(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "program": self.proposed.program,
            "inputs": repr(self.proposed.inputs),
            "message": self.proposed.message,
            "outputs": repr(self.outputs),
            "step": self.step,
        }

    @staticmethod
    def unpacked(row: dict[str, Any]) -> Entry:
        inputs, outputs = (literal(row[name], 1 << 20) for name in ("inputs", "outputs"))
        return Entry(row["kind"], ProposedTask(row["program"], inputs, row["message"]), outputs, row["step"])

    @property
    def key(self) -> str:
        return f"{self.kind} {self.proposed.program} {sorted(map(repr, self.proposed.inputs))}"


#: a full one forgets its oldest tasks
Buffer = deque[Entry]


def first_buffer(identity: ProposedTask, size: int) -> Buffer:
    """A buffer of at most ``size`` tasks that holds the identity program alone."""
    return deque([Entry(kind, identity, ("abc",), 0) for kind in ("deduction", "abduction")], maxlen=size)


def unpacked_buffer(rows: Iterable[dict[str, Any]], size: int) -> Buffer:
    return deque(map(Entry.unpacked, rows), maxlen=size)


def old_tasks(buffer: Buffer, seed: int, step: int, count: int) -> list[Entry]:
    """At most ``count`` tasks of the buffer for the solver, in a step without a valid proposal."""
    pool = [entry for entry in buffer if entry.step or entry.kind == "induction"] or list(buffer)
    places = stream(seed, "old tasks", step).choice(len(pool), min(len(pool), count), replace=False)
    return [pool[int(place)] for place in places]
