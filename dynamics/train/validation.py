"""Held-out problems during training: the same validation problems, answered greedily and at temperature 1, every so many steps.

The answers after a step are a function of the weights and the step, so a resumed run has the same. They are kept, a file a step, because
an interval over problems needs each of them; ``metrics.jsonl`` has the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.train import answers, checks, evaluate
from dynamics.train.config import TrainConfig
from dynamics.train.policy import Policy
from dynamics.train.tasks.problem import Question, Source
from dynamics.train.tasks.prompt_formats import encode_questions

#: name of a manner of answering -> its temperature
MANNERS = {"greedy": 0.0, "T=1": 1.0}
PURPOSE = "validation"


@dataclass(frozen=True)
class Validation:
    """Problems that are asked again and again.

    Attributes
    ----------
    questions : of the split ``validation``; the policy is never trained on them.
    prompts : token ids of each, (tokens,).
    """

    questions: Sequence[Question]
    prompts: Sequence[Int[np.ndarray, " _"]]

    def describe(self, config: TrainConfig) -> dict[str, Any]:
        """Return what ``run.json`` says of it: the number of problems, in all and by group, and of answers to each."""
        groups = {name: len(members) for name, members in groups_of(self.questions).items()}
        return {"problems": len(self.questions), "samples": {"greedy": 1, "T=1": config.validation_samples}, "groups": groups}


def prepare(source: Source, tokenizer: Any, config: TrainConfig) -> Validation | None:
    """Draw the problems of a run; None if it has no validation.

    Raises
    ------
    InputError : see ``checks.validation_questions``.
    """
    if not config.validate_every:
        return None
    questions = checks.validation_questions(source, config, config.validation_problems)
    return Validation(questions, encode_questions(tokenizer, questions))


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether the policy is evaluated after a step; 0 is before training."""
    return bool(config.validate_every) and (step % config.validate_every == 0 or step == config.steps)


def measure(policy: Policy, validation: Validation, config: TrainConfig, step: int, name: str) -> tuple[dict[str, float], list[Any]]:
    """Ask all problems.

    Parameters
    ----------
    policy : the policy after ``step``.
    validation : the problems.
    config : settings of the run.
    step : number of steps that were trained.
    name : of the method.

    Returns
    -------
    Metrics for ``metrics.jsonl``, and a row for each answer.

    Notes
    -----
    Random numbers differ by step, so that neighbouring steps err independently. The problems are the same: a difference of two steps is
    one of the policy, but all steps share what is special about the problems.
    """
    samples = config.validation_samples
    asked = [temperature for temperature in MANNERS.values() if samples or not temperature]
    groups = evaluate.sample(policy, validation.prompts, asked, samples, config.seed, config.max_new_tokens, PURPOSE, (step,))
    rows: list[dict[str, Any]] = []
    model = f"{name}, step {step}"
    for temperature, chosen in evaluate.by_temperature(groups, asked, samples):
        graded = evaluate.graded(policy.tokenizer, policy.eos, validation.questions, validation.prompts, chosen, model, temperature)
        asked_of = [question for question, group in zip(validation.questions, chosen, strict=True) for _ in group]
        for question, row in zip(asked_of, graded, strict=True):
            del row["prompt_ids"]
            ids = np.array(row.pop("completion_ids"), np.int64)
            cut = len(ids) >= config.max_new_tokens and int(ids[-1]) not in policy.eos
            row |= {"step": step, "length": len(ids), "truncated": cut}
            rows.append(row | answers.row(question, row["completion"], ids, policy.token_kinds))
    return summary(rows, validation.questions), rows


def score(policy: Policy, questions: Sequence[Question], config: TrainConfig) -> float:
    """Return the fraction of validation problems that a policy answers correctly under greedy decoding."""
    prompts = encode_questions(policy.tokenizer, questions)
    groups = evaluate.sample(policy, prompts, [0.0], 1, config.seed, config.max_new_tokens, PURPOSE, (0,))
    graded = evaluate.graded(policy.tokenizer, policy.eos, questions, prompts, groups, "", 0.0)
    return float(np.mean([row["correct"] for row in graded]))


def groups_of(questions: Sequence[Question]) -> dict[str, set[str]]:
    """Return the identifiers of the questions of each group that has some of them but not all: by task, set and depth."""
    groups: dict[str, set[str]] = {}
    for question in questions:
        depth = [f"depth={question.depth}"] if question.depth else []
        for group in (f"task={question.task}", f"set={question.split}", *depth):
            groups.setdefault(group, set()).add(question.id)
    return {name: groups[name] for name in sorted(groups) if len(groups[name]) < len(questions)}


def summary(rows: Sequence[dict[str, Any]], questions: Sequence[Question]) -> dict[str, float]:
    """Average the answers: ``validation/MEASURE/MANNER`` of all problems, ``validation/MEASURE/MANNER/GROUP`` of a group.

    Every problem has as many answers as any other, so that problems weigh the same.
    """
    groups: dict[str, set[str] | None] = {"": None} | {f"/{name}": members for name, members in groups_of(questions).items()}
    metrics: dict[str, float] = {}
    for manner, temperature in MANNERS.items():
        of_manner = [row for row in rows if row["temperature"] == temperature]
        for tail, members in groups.items():
            chosen = [row for row in of_manner if members is None or row["problem"] in members]
            if chosen:
                metrics |= {f"validation/{name}/{manner}{tail}": value for name, value in _means(chosen).items()}
    return metrics


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "pass@1": float(np.mean([row["correct"] for row in rows])),
        "length": float(np.mean([row["length"] for row in rows])),
        "truncated": float(np.mean([row["truncated"] for row in rows])),
    } | answers.means(rows)
