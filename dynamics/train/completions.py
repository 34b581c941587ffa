"""What is to be sampled from a policy, as data: whoever computes it, the random numbers are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int

from dynamics.train.rng import stream

if TYPE_CHECKING:
    from dynamics.train.config import PolicyGradientConfig


@dataclass(frozen=True)
class SampledCompletion:
    """One completion.

    Attributes
    ----------
    ids : (tokens,) including the end-of-sequence token if it was sampled.
    logprobs : (tokens,) float32, nats; log-probabilities under the sampling distribution, after temperature and truncation.
    ended : why the completion ended: ``eos``, ``stop`` or ``length``.
    """

    ids: Int[np.ndarray, " tokens"]
    logprobs: Float32[np.ndarray, " tokens"]
    ended: str


@dataclass(frozen=True)
class Request:
    """Completions to be sampled, for each prompt one at each of ``temperatures``.

    Attributes
    ----------
    prompts : token ids, (tokens,) each.
    temperatures : of the completions of a prompt; 0 is greedy decoding.
    limit : maximum length of a completion in tokens.
    seed, purpose, where : select the random streams, with the numbers of prompt and completion; see ``dynamics.train.rng``.
    numbers : of the completions of a prompt in their random streams; 0, 1, ... if None.
    top_k, top_p : top-k and nucleus sampling; disabled by 0 and 1.
    first : number of the first prompt in the random streams.
    """

    prompts: Sequence[Int[np.ndarray, " _"]]
    temperatures: tuple[float, ...]
    limit: int
    seed: int
    purpose: str
    where: tuple[int, ...] = ()
    numbers: tuple[int, ...] | None = None
    top_k: int = 0
    top_p: float = 1.0
    first: int = 0

    @staticmethod
    def of(
        config: PolicyGradientConfig,
        prompts: Sequence[Int[np.ndarray, " _"]],
        group: int,
        purpose: str,
        step: int,
        limit: int | None = None,
    ) -> Request:
        """Ask for ``group`` completions of each prompt with the sampling settings of a run; ``limit`` is that of the settings if None."""
        return Request(
            prompts,
            (config.temperature,) * group,
            limit or config.max_new_tokens,
            config.seed,
            purpose,
            (step,),
            top_k=config.top_k,
            top_p=config.top_p,
        )

    def random(self, prompt: int, column: int) -> np.random.Generator:
        """Return the random generator of the completion in a column of a prompt of ``prompts``."""
        number = column if self.numbers is None else self.numbers[column]
        return stream(self.seed, self.purpose, *self.where, self.first + prompt, number)

    def part(self, start: int, end: int) -> Request:
        """Return the request for the prompts from ``start`` to ``end``, with the same random numbers."""
        return replace(self, prompts=self.prompts[start:end], first=self.first + start)
