"""Answers with steps: how long their scratchpads are, how many have steps, and how many of the steps are right.

A task whose completions have steps that can be checked, each on its own, gives its questions a ``check_steps``. Of other tasks only the
length of answers is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.train.tasks.problem import Question
from dynamics.train.token_kinds import TokenKinds


def row(question: Question, text: str, ids: Int[np.ndarray, " tokens"], kinds: TokenKinds) -> dict[str, Any]:
    """Describe an answer: ``scratchpad``, its tokens before the answer mark, and ``steps``, the counts of its ``StepChecks``.

    Either is there only if the tokenizer has an answer mark, or the question can check steps.
    """
    described: dict[str, Any] = {} if kinds.answer_mark is None else {"scratchpad": kinds.scratchpad_length(ids)}
    return described | ({} if question.check_steps is None else {"steps": vars(question.check_steps(text))})


def rows(
    questions: Sequence[Question], texts: Sequence[str], ids: Sequence[Int[np.ndarray, " _"]], kinds: TokenKinds
) -> list[dict[str, Any]]:
    """Describe answers, each with its question; equal answers to a question are checked once."""
    known: dict[tuple[int, str, int], dict[str, Any]] = {}
    found = []
    for question, text, tokens in zip(questions, texts, ids, strict=True):
        key = (id(question), text, len(tokens))
        if key not in known:
            known[key] = row(question, text, tokens, kinds)
        found.append(known[key])
    return found


def means(described: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Average answers.

    Parameters
    ----------
    described : from ``row``.

    Returns
    -------
    scratchpad : mean number of tokens before the answer mark.
    with_steps : share of the answers with a step.
    steps : mean number of steps of an answer.
    true_steps, on_path, repeated : share of all steps that are ``StepChecks.true``, ``on_path``, ``repeated``; absent without a step.
    covered : mean over answers with steps of ``covered / needed``; absent if there are none.

    Notes
    -----
    Answers with many steps weigh more in the shares of steps. A policy that chooses for which problems it writes steps changes which
    problems these are about; ``pass@1`` is over all.
    """
    answers = list(described)
    lengths = [answer["scratchpad"] for answer in answers if "scratchpad" in answer]
    metrics = {"scratchpad": float(np.mean(lengths))} if lengths else {}
    checks = [answer["steps"] for answer in answers if "steps" in answer]
    if not checks:
        return metrics
    written = sum(check["written"] for check in checks)
    metrics |= {"with_steps": float(np.mean([check["written"] > 0 for check in checks])), "steps": written / len(checks)}
    if written:
        metrics |= {
            name: sum(check[part] for check in checks) / written
            for name, part in {"true_steps": "true", "on_path": "on_path", "repeated": "repeated"}.items()
        }
        metrics["covered"] = float(np.mean([check["covered"] / check["needed"] for check in checks if check["written"]]))
    return metrics


def answer_metrics(
    questions: Sequence[Question], texts: Sequence[str], ids: Sequence[Int[np.ndarray, " _"]], kinds: TokenKinds
) -> dict[str, float]:
    """Average the answers of a training step: ``answers/MEASURE``, and ``answers/MEASURE/task=TASK`` if they are of several kinds.

    Beside the measures of ``means``, ``answers/distinct`` is the mean over problems of the number of different answers / number of answers,
    as texts; absent if no problem has several.
    """
    described = rows(questions, texts, ids, kinds)
    groups = {"": described}
    tasks = [question.task for question in questions]
    if len(set(tasks)) > 1:
        for name in sorted(set(tasks)):
            groups[f"/task={name}"] = [answer for answer, task in zip(described, tasks, strict=True) if task == name]
    metrics = {f"answers/{name}{tail}": value for tail, group in groups.items() for name, value in means(group).items()}
    by_problem: dict[str, list[str]] = {}
    for question, text in zip(questions, texts, strict=True):
        by_problem.setdefault(question.id, []).append(text)
    shares = [len(set(group)) / len(group) for group in by_problem.values() if len(group) > 1]
    return metrics | ({"answers/distinct": float(np.mean(shares))} if shares else {})
