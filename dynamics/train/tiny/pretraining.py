"""What the embedded model is pre-trained on: random examples of the small language, in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Expressions
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, TASK_TYPES
from dynamics.train.tasks.prompt_formats import in_notation
from dynamics.train.tasks.triplets import triplet

if TYPE_CHECKING:
    import torch

#: share of each kind of example
MIX = {"deduction": 0.22, "abduction": 0.22, "induction": 0.22, "PD": 0.12, "PA": 0.12, "PI": 0.10}


def example(rng: np.random.Generator) -> tuple[str, str]:
    """A question and its answer, from the programs of pre-training."""
    kinds = list(MIX)
    kind = kinds[int(np.searchsorted(np.cumsum(list(MIX.values())), rng.random(), side="right").clip(max=len(kinds) - 1))]
    while True:
        if kind in TASK_TYPES:
            problem = triplet(rng, kind, "pretraining")
            if problem is not None:
                return in_notation(problem)
        elif (made := _proposal(rng, kind)) is not None:
            return made


def _proposal(rng: np.random.Generator, kind: str) -> tuple[str, str] | None:
    """What a proposer is asked and writes: a program and an input after a reference, or inputs for a program."""
    family, program = programs.draw_of(rng, "pretraining")
    inputs = [family.inputs(rng, False) for _ in range(PAIRS if kind == "PI" else 1)]
    if len({repr(one) for one in inputs}) < len(inputs) or Expressions().run(program, [(one,) for one in inputs]).values is None:
        return None
    given = "<in>".join(programs.compact(one) for one in inputs)
    if kind == "PI":
        return f"<PI>{program}<sep>", given
    other, reference = programs.draw_of(rng, "pretraining")
    return f"<{kind}><ref>{reference}<in>{programs.compact(other.inputs(rng, False))}<sep>", f"{program}<in>{given}"


#: batches made at once and sorted by length among themselves
_POOL = 8


def batch(seed: int, step: int, size: int, prompt_weight: float, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and loss weights of a step, (``size``, length) each; of examples of similar length, to have little padding."""
    import torch

    pool = _pool(seed, step // _POOL, size, tokenizer)
    rows = pool[(step % _POOL) * size : (step % _POOL + 1) * size]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for place, (row, border) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, :border] = prompt_weight
        weights[place, border : len(row)] = 1.0
    return ids, weights


_pools: dict[tuple[int, int, int], list[tuple[list[int], int]]] = {}


def _pool(seed: int, number: int, size: int, tokenizer: Any) -> list[tuple[list[int], int]]:
    """Tokens and the length of the question, of the examples of several steps, in batches whose order is random."""
    if (seed, number, size) not in _pools:
        _pools.clear()
        rng = stream(seed, "pretraining", number)
        pairs = [example(rng) for _ in range(_POOL * size)]
        asked = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
        told = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        rows = [(a + b + [tokenizer.eos_token_id], len(a)) for a, b in zip(asked, told, strict=True)]
        rows.sort(key=lambda row: len(row[0]))
        order = rng.permutation(_POOL)
        _pools[seed, number, size] = [row for place in order for row in rows[place * size : (place + 1) * size]]
    return _pools[seed, number, size]
