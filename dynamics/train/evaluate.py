"""Graded samples of held-out problems, for ``dynamics.passk``; the untouched base at several temperatures beside the trained model.

Which model is asked at which temperatures is decided by ``loop.Run.evaluate_at_temperatures`` and its callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import generate
from dynamics.train.tasks.problem import Question, judge
from dynamics.train.tasks.prompt_formats import decode, encode_questions


def label(name: str, temperature: float) -> str:
    """Name a model at a temperature as files and figures do."""
    return f"{name}, greedy" if temperature == 0 else f"{name}, T={temperature:g}"


def file_name(name: str, temperature: float) -> str:
    """Name the file of a model at a temperature, without its ending."""
    return f"{name.replace(' ', '_')}_{'greedy' if temperature == 0 else f'T{temperature:g}'}"


def graded_samples(
    policy: Policy, questions: list[Question], name: str, temperature: float, samples: int, seed: int, max_new_tokens: int
) -> Iterator[dict[str, Any]]:
    """Ask questions of a policy, and judge its answers.

    Parameters
    ----------
    policy
        The model.
    questions
        What it is asked.
    name
        What the model is called in the rows.
    temperature
        Of sampling; 0 is greedy decoding.
    samples
        Number of samples of each question; greedy decoding gives one, whatever is asked for.
    seed
        Random seed.
    max_new_tokens
        Maximum length of an answer in tokens.

    Yields
    ------
    dict
        A row for each sample.
    """
    prompts = encode_questions(policy.tokenizer, questions)
    groups = generate(
        policy.model,
        prompts,
        1 if temperature == 0 else samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos=policy.eos,
        rng_for=lambda prompt, number: stream(seed, "evaluation", prompt, number),
        autocast=policy.autocast,
    )
    for question, prompt, group in zip(questions, prompts, groups, strict=True):
        for number, sampled in enumerate(group):
            text = decode(policy.tokenizer, sampled.ids, policy.eos)
            verdict = judge(question, text)
            yield {
                "model": label(name, temperature),
                "problem": question.id,
                "sample": number,
                "correct": verdict.correct,
                "score": verdict.score,
                "reason": verdict.reason,
                "completion": text,
                "prompt_ids": prompt.tolist(),
                "completion_ids": sampled.ids.tolist(),
                "temperature": temperature,
                "task": question.task,
                "split": question.split,
            }
