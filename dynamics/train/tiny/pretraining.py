"""Pre-training data of the embedded model: batches of random examples in the small language.

The pre-training loop, in ``model``, is separate from ``dynamics.train.update``: prompts have a loss weight, the learning rate schedule
differs, and there is no policy yet, because loading the policy trains this model. Any change of the arithmetic would change the weights of
all cached models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from dynamics.train.llama import padded_rows
from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Expressions
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, TASK_TYPES
from dynamics.train.tasks.prompt_formats import problem_in_notation
from dynamics.train.tasks.triplets import draw_triplet

if TYPE_CHECKING:
    from torch import Tensor

#: fraction of each kind of example
MIX = {"deduction": 0.22, "abduction": 0.22, "induction": 0.22, "PD": 0.12, "PA": 0.12, "PI": 0.10}


def example(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a question and its answer from the pre-training programs."""
    kinds = list(MIX)
    kind = kinds[int(np.searchsorted(np.cumsum(list(MIX.values())), rng.random(), side="right").clip(max=len(kinds) - 1))]
    while True:
        if kind in TASK_TYPES:
            problem = draw_triplet(rng, kind, "pretraining")
            if problem is not None:
                return problem_in_notation(problem)
        elif (proposal := _proposal(rng, kind)) is not None:
            return proposal


def _proposal(rng: np.random.Generator, kind: str) -> tuple[str, str] | None:
    """Draw a proposer prompt and its completion: a program and an input given a reference, or inputs for a program."""
    family, program = programs.draw_of(rng, "pretraining")
    inputs = [family.inputs(rng, False) for _ in range(PAIRS if kind == "PI" else 1)]
    if len({repr(value) for value in inputs}) < len(inputs) or Expressions().run(program, [(value,) for value in inputs]).values is None:
        return None
    answer = "<in>".join(programs.compact(value) for value in inputs)
    if kind == "PI":
        return f"<PI>{program}<sep>", answer
    other, reference = programs.draw_of(rng, "pretraining")
    return f"<{kind}><ref>{reference}<in>{programs.compact(other.inputs(rng, False))}<sep>", f"{program}<in>{answer}"


#: number of batches that are drawn together and sorted by length
_POOL = 8


def batch(
    seed: int, step: int, size: int, prompt_weight: float, tokenizer: Any
) -> tuple[Int[Tensor, "examples length"], Float[Tensor, "examples length"]]:
    """Build the batch of a step from examples of similar length, for little padding.

    Parameters
    ----------
    seed, step : select the random examples.
    size : number of examples.
    prompt_weight : loss weight of the tokens of the question; those of the answer have 1, padding has 0.
    tokenizer : of the embedded model.

    Returns
    -------
    Token ids and loss weights, (``size``, length) each.
    """
    pool = _pool(seed, step // _POOL, size, tokenizer)
    rows = pool[(step % _POOL) * size : (step % _POOL + 1) * size]
    return padded_rows(rows, prompt_weight, max(len(ids) for ids, _ in rows))


_pools: dict[tuple[int, int, int], list[tuple[list[int], int]]] = {}


def _pool(seed: int, number: int, size: int, tokenizer: Any) -> list[tuple[list[int], int]]:
    """Return token ids and question length of the examples of several steps, as batches in random order."""
    if (seed, number, size) not in _pools:
        _pools.clear()
        rng = stream(seed, "pretraining", number)
        pairs = [example(rng) for _ in range(_POOL * size)]
        prompts = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
        answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        rows = [(prompt + answer + [tokenizer.eos_token_id], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
        rows.sort(key=lambda row: len(row[0]))
        order = rng.permutation(_POOL)
        _pools[seed, number, size] = [row for index in order for row in rows[index * size : (index + 1) * size]]
    return _pools[seed, number, size]
