"""Graded samples of held-out problems, for ``dynamics.passk``.

``loop.Run.evaluate_at_temperatures`` and its callers choose the models and temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.train import sampling
from dynamics.train.completions import Request
from dynamics.train.policy import Policy
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question
from dynamics.train.tasks.prompt_formats import decode


def label(name: str, temperature: float) -> str:
    """Return the display name of a model at a temperature, as in files and figures."""
    return f"{name}, greedy" if temperature == 0 else f"{name}, T={temperature:g}"


def file_name(name: str, temperature: float) -> str:
    """Return the file name of a model at a temperature, without extension."""
    return f"{name.replace(' ', '_')}_{'greedy' if temperature == 0 else f'T{temperature:g}'}"


def columns(temperatures: Sequence[float], samples: int) -> list[tuple[float, int]]:
    """List the temperature and the number of each sample of a prompt; a greedy one has no others."""
    return [(temperature, number) for temperature in temperatures for number in range(samples if temperature else 1)]


def by_temperature(
    groups: Sequence[Sequence[Int[np.ndarray, " _"]]], temperatures: Sequence[float], samples: int
) -> Iterator[tuple[float, list[Sequence[Int[np.ndarray, " _"]]]]]:
    """Take what ``sample`` returned apart: each temperature, with the answers at it by prompt."""
    column = 0
    for temperature in temperatures:
        count = len(columns([temperature], samples))
        yield temperature, [group[column : column + count] for group in groups]
        column += count


def sample(
    policy: Policy,
    prompts: Sequence[Int[np.ndarray, " _"]],
    temperatures: Sequence[float],
    samples: int,
    seed: int,
    max_new_tokens: int,
    purpose: str = "evaluation",
    where: Sequence[int] = (),
) -> list[list[Int[np.ndarray, " _"]]]:
    """Sample answers at several temperatures, in one batch: each prompt is computed once for all of them.

    Samples of one number have the same random numbers at all temperatures.

    Parameters
    ----------
    policy
        The model.
    prompts
        Token ids, (tokens,) each.
    temperatures
        Sampling temperatures; 0 is greedy decoding.
    samples
        Number of samples per prompt and temperature; always 1 for greedy decoding.
    seed
        Random seed.
    max_new_tokens
        Maximum length of an answer in tokens.
    purpose, where
        Select the random streams, beside the indices of prompt and sample, see ``dynamics.train.rng``.

    Returns
    -------
    By prompt, token ids of each of ``columns``, (tokens,) each.
    """
    asked = columns(temperatures, samples)
    request = Request(
        prompts,
        tuple(temperature for temperature, _ in asked),
        max_new_tokens,
        seed,
        purpose,
        tuple(where),
        tuple(number for _, number in asked),
    )
    groups = sampling.sample(policy, request)
    return [[sampled.ids for sampled in group] for group in groups]


def graded(
    tokenizer: Any,
    eos: list[int],
    questions: Sequence[Question],
    prompts: Sequence[Int[np.ndarray, " _"]],
    groups: Sequence[Sequence[Int[np.ndarray, " _"]]],
    name: str,
    temperature: float,
) -> Iterator[dict[str, Any]]:
    """Grade answers at one temperature.

    Parameters
    ----------
    tokenizer, eos
        Of the model: its tokenizer, and the token ids that end a completion.
    questions, prompts
        The questions, and their token ids, (tokens,) each.
    groups
        Token ids of the answers to each question, (tokens,) each.
    name
        Name of the model in the rows.
    temperature
        Sampling temperature.

    Yields
    ------
    dict
        One row per sample.
    """
    for question, prompt, group in zip(questions, prompts, groups, strict=True):
        texts = [decode(tokenizer, ids, eos) for ids in group]
        verdicts = judge_all([question] * len(texts), texts)
        for number, (ids, text, verdict) in enumerate(zip(group, texts, verdicts, strict=True)):
            yield {
                "model": label(name, temperature),
                "problem": question.id,
                "sample": number,
                "correct": verdict.correct,
                "score": verdict.score,
                "reason": verdict.reason,
                "completion": text,
                "prompt_ids": prompt.tolist(),
                "completion_ids": ids.tolist(),
                "temperature": temperature,
                "task": question.task,
                "split": question.split,
            } | question.about_program()
