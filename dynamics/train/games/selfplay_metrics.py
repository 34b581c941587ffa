"""Metrics of both roles of a self-play step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dynamics.train.answers import answer_metrics
from dynamics.train.games.buffer import Buffer
from dynamics.train.games.game import JudgedCompletion
from dynamics.train.games.proposals import Proposal
from dynamics.train.tasks.problem import Question
from dynamics.train.token_kinds import TokenKinds


def proposer_metrics(
    proposals: list[Proposal], buffer: Buffer, task_types: Sequence[str], steps_without_valid: int, complexity: Callable[[str], float]
) -> dict[str, Any]:
    """Compute metrics of proposals: rewards, validity and solve rates, in total and by task type, and failure reasons.

    Parameters
    ----------
    proposals : all proposals of the step.
    buffer : buffer after the step.
    task_types : of the run.
    steps_without_valid : number of consecutive steps without a valid proposal, including this step.
    complexity : of a program.
    """
    distinct = len({proposal.text for proposal in proposals}) / len(proposals)
    metrics: dict[str, Any] = {"proposer/distinct": distinct, "buffer/size": len(buffer), "proposer/barren_steps": steps_without_valid}
    for kind, count in Counter(entry.kind for entry in buffer).items():
        metrics[f"buffer/{kind}"] = count
    for task_type in (None, *task_types):
        of_type = [proposal for proposal in proposals if task_type in (None, proposal.kind)]
        valid = [proposal for proposal in of_type if proposal.entry is not None]
        tail = f"/{task_type}" if task_type else ""
        metrics[f"proposer/reward{tail}"] = float(np.mean([proposal.reward for proposal in of_type]))
        metrics[f"proposer/valid{tail}"] = sum(proposal.valid for proposal in of_type) / len(of_type)
        metrics[f"proposer/length{tail}"] = float(np.mean([len(proposal.sampled.ids) for proposal in of_type]))
        if valid:
            metrics[f"solve_rate{tail}"] = float(np.mean([proposal.rate for proposal in valid]))
    valid = [proposal for proposal in proposals if proposal.entry is not None]
    if valid:
        metrics["solve_rate/none"] = float(np.mean([proposal.rate == 0 for proposal in valid]))
        metrics["solve_rate/all"] = float(np.mean([proposal.rate == 1 for proposal in valid]))
        sources = [proposal.entry.proposed.program for proposal in valid if proposal.entry]
        metrics["program/characters"] = float(np.mean([len(source) for source in sources]))
        metrics["program/complexity"] = float(np.mean([complexity(source) for source in sources]))
        metrics["program/distinct"] = len(set(sources)) / len(sources)
    for reason, count in Counter(proposal.reason for proposal in proposals if not proposal.valid).items():
        metrics[f"proposer/failed/{reason[:40]}"] = count / len(proposals)
    return metrics


def solver_metrics(
    questions: list[Question], solutions: list[list[JudgedCompletion]], task_types: Sequence[str], kinds: TokenKinds
) -> dict[str, Any]:
    """Compute metrics of the solver: the fraction of correct answers, in total and by task type, and of their steps.

    ``solutions`` are by question, ``kinds`` those of the tokenizer.
    """
    if not solutions:
        return {}
    right = np.array([[verdict.correct for _, _, verdict in group] for group in solutions], float)
    of = np.array([question.task for question in questions])
    metrics = {
        "reward": float(right.mean()),
        "solver/reward": float(right.mean()),
        "group/zero_std": float((right.std(1) == 0).mean()),
        "solver/length": float(np.mean([len(sampled.ids) for group in solutions for sampled, _, _ in group])),
    }
    asked = [question for question, group in zip(questions, solutions, strict=True) for _ in group]
    answered = [(text, sampled.ids) for group in solutions for sampled, text, _ in group]
    of_steps = answer_metrics(asked, [text for text, _ in answered], [ids for _, ids in answered], kinds)
    return metrics | of_steps | {f"solver/reward/{kind}": float(right[of == kind].mean()) for kind in task_types if (of == kind).any()}
