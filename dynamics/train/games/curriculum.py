"""``curriculum.jsonl``: proposals from four phases of a run, all solved by the base model, so that their difficulty is comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

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
        entries = [(int(file.stem[5:]), row) for file in part for row in _read(file) if row["role"] == "proposer" and row["valid"]]
        rng = stream(seed, "curriculum", phase)
        for index in rng.permutation(len(entries))[:count]:
            step, row = entries[int(index)]
            drawn.append((phase, step, BufferEntry.from_json(row["entry"])))
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


def _read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(path)]
