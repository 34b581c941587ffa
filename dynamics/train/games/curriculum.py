"""``curriculum.jsonl``: proposals from four phases of a run, all solved by the base model, so that their difficulty is comparable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted
from dynamics.runs.directory import RunDirectory
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Refused

if TYPE_CHECKING:  # checks of a command line import this module, and need no torch
    from dynamics.train.games.game import JudgedCompletion

#: phase, step and task of a proposal
PhaseProposal = tuple[int, int, BufferEntry]


def draw(directory: RunDirectory, seed: int, count: int) -> list[PhaseProposal]:
    """Draw at most ``count`` valid proposals of each phase from the rollouts of a run."""
    files = directory.step_files("rollouts")
    drawn: list[PhaseProposal] = []
    for phase, part in enumerate(np.array_split(list(files), min(4, len(files)))):
        entries = [(int(step), *entry) for step in part for entry in read_proposals(files[int(step)])]
        rng = stream(seed, "curriculum", phase)
        for index in rng.permutation(len(entries))[:count]:
            step, where, entry = entries[int(index)]
            drawn.append((phase, step, entry.converted(where)))
    return drawn


def rows(
    proposals: list[PhaseProposal], solutions: list[list[JudgedCompletion]], complexity: Callable[[str], float]
) -> list[dict[str, Any]]:
    """Build the rows of ``curriculum.jsonl`` from proposals, the graded solutions of each, and the complexity of programs."""
    return [
        {
            "phase": phase,
            "step": step,
            "task": entry.kind,
            "program": entry.proposed.program,
            "solve_rate": float(np.mean([verdict.correct for _, _, verdict in group])),
            "samples": len(group),
            "length": float(np.mean([len(sampled.ids) for sampled, _, _ in group])),
            "characters": len(entry.proposed.program),
            "complexity": complexity(entry.proposed.program),
        }
        for (phase, step, entry), group in zip(proposals, solutions, strict=True)
    ]


class Entry(msgspec.Struct):
    """A valid proposal as rollouts hold it."""

    kind: str
    program: str
    inputs: str
    message: str
    outputs: str
    step: int

    def converted(self, where: str) -> BufferEntry:
        """Return the task; ``where`` it was read is named if its inputs or outputs are no literals."""
        try:
            return BufferEntry.from_json(msgspec.structs.asdict(self))
        except (Refused, ValueError) as error:
            raise InputError(f"{where}: its inputs or outputs are no literals: {printable(error, 80)}") from None


class _Rollout(msgspec.Struct):
    """The fields of a rollout that are read."""

    role: str
    valid: bool = False
    entry: Entry | None = None


def read_proposals(path: Path) -> list[tuple[str, Entry]]:
    """Return each valid proposal in a file of rollouts, with its place in the file."""
    found = []
    for number, row in read_json_lines(path):
        where = f"{printable(path)}, line {number}"
        rollout = converted(row, _Rollout, where)
        if rollout.role == "proposer" and rollout.valid:
            if rollout.entry is None:
                raise InputError(f"{where}: is a valid proposal without its entry; restore the file from a copy")
            found.append((where, rollout.entry))
    return found
