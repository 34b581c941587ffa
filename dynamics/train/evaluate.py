"""Graded samples of held-out problems, for ``dynamics.passk``; the untouched base at several temperatures beside the trained model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import generate
from dynamics.train.tasks.problem import Question, judge
from dynamics.train.tasks.prompt_formats import decode, encode_questions


def label(name: str, temperature: float) -> str:
    """How a model at a temperature is called in files and figures."""
    return f"{name}, greedy" if temperature == 0 else f"{name}, T={temperature:g}"


def file_name(name: str, temperature: float) -> str:
    return f"{name.replace(' ', '_')}_{'greedy' if temperature == 0 else f'T{temperature:g}'}"


def evaluate(
    policy: Policy, questions: list[Question], name: str, temperature: float, samples: int, seed: int, max_new_tokens: int
) -> Iterator[dict[str, Any]]:
    """A row a sample. Greedy decoding gives one sample a problem, whatever is asked for."""
    asked = encode_questions(policy.tokenizer, questions)
    count = 1 if temperature == 0 else samples
    groups = generate(
        policy.model,
        asked,
        count,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos=policy.eos,
        rng_for=lambda prompt, number: stream(seed, "evaluation", prompt, number),
        autocast=policy.autocast,
    )
    for question, ids, group in zip(questions, asked, groups, strict=True):
        for number, one in enumerate(group):
            text = decode(policy.tokenizer, one.ids, policy.eos)
            verdict = judge(question, text)
            yield {
                "model": label(name, temperature),
                "problem": question.id,
                "sample": number,
                "correct": verdict.correct,
                "score": verdict.score,
                "reason": verdict.reason,
                "completion": text,
                "prompt_ids": ids.tolist(),
                "completion_ids": one.ids.tolist(),
                "temperature": temperature,
                "task": question.task,
                "split": question.split,
            }
