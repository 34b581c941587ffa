"""What is recorded of a step of self-play: metrics of both roles, and rows of rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynamics.train.games.buffer import Buffer
from dynamics.train.games.proposals import Proposal
from dynamics.train.games.rewards import complexity
from dynamics.train.samplers.transformers import Sampled
from dynamics.train.tasks.problem import Question, Verdict

#: a completion, its text, and the verdict on it
Judged = tuple[Sampled, str, Verdict]


def proposer_metrics(proposals: list[Proposal], buffer: Buffer, task_types: Sequence[str], steps_without_valid: int) -> dict[str, Any]:
    distinct = len({one.text for one in proposals}) / len(proposals)
    found: dict[str, Any] = {"proposer/distinct": distinct, "buffer/size": len(buffer), "proposer/barren_steps": steps_without_valid}
    for kind, count in Counter(entry.kind for entry in buffer).items():
        found[f"buffer/{kind}"] = count
    for task_type in (None, *task_types):
        mine = [one for one in proposals if task_type in (None, one.kind)]
        valid = [one for one in mine if one.entry is not None]
        tail = f"/{task_type}" if task_type else ""
        found[f"proposer/reward{tail}"] = float(np.mean([one.reward for one in mine]))
        found[f"proposer/valid{tail}"] = len(valid) / len(mine)
        found[f"proposer/length{tail}"] = float(np.mean([len(one.sampled.ids) for one in mine]))
        if valid:
            found[f"solve_rate{tail}"] = float(np.mean([one.rate for one in valid]))
    valid = [one for one in proposals if one.entry is not None]
    if valid:
        found["solve_rate/none"] = float(np.mean([one.rate == 0 for one in valid]))
        found["solve_rate/all"] = float(np.mean([one.rate == 1 for one in valid]))
        sources = [one.entry.proposed.program for one in valid if one.entry]
        found["program/characters"] = float(np.mean([len(source) for source in sources]))
        found["program/complexity"] = float(np.mean([complexity(source) for source in sources]))
        found["program/distinct"] = len(set(sources)) / len(sources)
    for reason, count in Counter(one.reason for one in proposals if one.entry is None).items():
        found[f"proposer/failed/{reason[:40]}"] = count / len(proposals)
    return found


def solver_metrics(questions: list[Question], tried: list[list[Judged]], task_types: Sequence[str]) -> dict[str, Any]:
    if not tried:
        return {}
    right = np.array([[verdict.correct for _, _, verdict in group] for group in tried], float)
    kinds = np.array([question.task for question in questions])
    found = {
        "reward": float(right.mean()),
        "solver/reward": float(right.mean()),
        "group/zero_std": float((right.std(1) == 0).mean()),
        "solver/length": float(np.mean([len(sampled.ids) for group in tried for sampled, _, _ in group])),
    }
    return found | {f"solver/reward/{kind}": float(right[kinds == kind].mean()) for kind in task_types if (kinds == kind).any()}


def proposal_row(proposal: Proposal) -> dict[str, Any]:
    sampled, reward = proposal.sampled, proposal.reward
    row = _row(proposal.prompt, proposal.text, proposal.ids, sampled, "proposer", proposal.kind, reward) | {
        "valid": proposal.entry is not None,
        "reason": proposal.reason,
        "solve_rate": proposal.rate if proposal.entry is not None else None,
    }
    return row | ({"entry": proposal.entry.packed()} if proposal.entry is not None else {})


def solver_row(question: Question, ids: Any, judged: Judged, reward: float) -> dict[str, Any]:
    sampled, text, verdict = judged
    row = _row(question.prompt, text, ids, sampled, "solver", question.task, reward)
    return row | {"problem": question.id, "reason": verdict.reason, "correct": verdict.correct}


def _row(prompt: str, text: str, ids: Any, sampled: Sampled, role: str, task: str, reward: float) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "completion": text,
        "prompt_ids": ids.tolist(),
        "completion_ids": sampled.ids.tolist(),
        "role": role,
        "task": task,
        "reward": reward,
        "ended": sampled.ended,
    }
