"""``curriculum.jsonl``: proposals from four phases of a run, all solved by the base model, so that their difficulty is comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.io.json_lines import read_json_lines
from dynamics.runs.directory import RunDirectory
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.selfplay_metrics import JudgedCompletion
from dynamics.train.proposer_rewards import complexity
from dynamics.train.rng import stream

#: phase, step and task of a proposal
PhaseProposal = tuple[int, int, BufferEntry]


def draw(directory: RunDirectory, seed: int, count: int) -> list[PhaseProposal]:
    """Draw at most ``count`` valid proposals of each phase from the rollouts of a run."""
    files = sorted((directory.path / "rollouts").glob("step_*.jsonl"), key=lambda path: int(path.stem[5:]))
    drawn: list[PhaseProposal] = []
    for phase, part in enumerate(np.array_split(np.array(files, object), min(4, len(files)))):
        entries = [entry for file in part for entry in _proposals(file)]
        rng = stream(seed, "curriculum", phase)
        drawn += [_phase_proposal(phase, *entries[int(index)]) for index in rng.permutation(len(entries))[:count]]
    return drawn


def rows(proposals: list[PhaseProposal], solutions: list[list[JudgedCompletion]]) -> list[dict[str, Any]]:
    """Build the rows of ``curriculum.jsonl`` from proposals and the graded solutions of each."""
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


def _proposals(path: Path) -> list[tuple[Path, int, Any]]:
    """Read the valid proposals of a step, each with its file and line."""
    rows = ((number, row if isinstance(row, dict) else {"role": "proposer", "valid": True}) for number, row in read_json_lines(path))
    return [(path, number, row.get("entry")) for number, row in rows if row.get("role") == "proposer" and row.get("valid")]


def _phase_proposal(phase: int, path: Path, line: int, entry: Any) -> PhaseProposal:
    try:
        return phase, int(path.stem[5:]), BufferEntry.from_json(entry)
    except Exception:  # whatever is missing, or cannot be parsed
        raise InputError(f"{path}, line {line}: is not a proposal of this run; restore the file from a copy") from None
