"""Graded samples of held-out problems, for ``dynamics.passk``.

``loop.Run.evaluate_at_temperatures`` and its callers choose the models and temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import generate
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question
from dynamics.train.tasks.prompt_formats import decode, encode_questions


def label(name: str, temperature: float) -> str:
    """Return the display name of a model at a temperature, as in files and figures."""
    return f"{name}, greedy" if temperature == 0 else f"{name}, T={temperature:g}"


def file_name(name: str, temperature: float) -> str:
    """Return the file name of a model at a temperature, without extension."""
    return f"{name.replace(' ', '_')}_{'greedy' if temperature == 0 else f'T{temperature:g}'}"


def graded_samples(
    policy: Policy, questions: list[Question], name: str, temperature: float, samples: int, seed: int, max_new_tokens: int
) -> Iterator[dict[str, Any]]:
    """Sample answers to questions and grade them.

    Parameters
    ----------
    policy
        The model.
    questions
        Questions to answer.
    name
        Name of the model in the rows.
    temperature
        Sampling temperature; 0 is greedy decoding.
    samples
        Number of samples per question; always 1 for greedy decoding.
    seed
        Random seed.
    max_new_tokens
        Maximum length of an answer in tokens.

    Yields
    ------
    dict
        One row per sample.
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
        remarks=policy.remarks,
    )
    for question, prompt, group in zip(questions, prompts, groups, strict=True):
        texts = [decode(policy.tokenizer, sampled.ids, policy.eos) for sampled in group]
        verdicts = judge_all([question] * len(texts), texts)
        for number, (sampled, text, verdict) in enumerate(zip(group, texts, verdicts, strict=True)):
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
