"""A sampler beside the trainer: it has weights of its own, which are brought up to date, and what it draws is checked.

Such a sampler can be wrong without a word: a reload of weights may report success and leave some as they were, keys and values of the
weights before may be used again, a temperature or a dtype may be another. So the log-probabilities that it gives for the tokens that it has
drawn are compared with those that the trainer measures for the same tokens, at every request, and the run stops if they differ by more than
rounding does (``LIMITS``).

In bfloat16, rounding differs by more than a small step changes. So whenever the sampler takes weights, it and the trainer score the same
earlier completions again: its log-probabilities must have moved as the trainer's have (``Movement``).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from dynamics.errors import InputError
from dynamics.train.batch import Batch
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.policy import Policy
from dynamics.train.samplers.transformers import check_lengths


class Limits(NamedTuple):
    """How far log-probabilities of sampler and trainer may differ, in nats: on average over tokens, and at any token."""

    mean: float
    largest: float


#: by compute dtype of the policy; docs/vllm.md has what was measured
LIMITS = {"float32": Limits(1e-3, 2e-2), "bfloat16": Limits(5e-2, 3.0)}
#: number of tokens that are checked at the first request of a step or after weights were taken, and at others
CHECKED_TOKENS, CHECKED_LATER = 512, 128
#: how often completions are scored again before newer ones are
SCORED_AGAIN = 20
#: a sampler that has the weights has slope 1, one that has those before 0; how many standard errors below the middle stop a run
ERRORS = 6.0


class Backend(Protocol):
    """What draws completions, with weights of its own.

    Attributes
    ----------
    name : for messages.
    """

    name: str

    def load(self, policy: Policy) -> None:
        """Take the weights of a policy as they are now; ``InputError`` if it cannot."""

    def draw(self, request: Request, eos: Sequence[int]) -> list[list[SampledCompletion]]:
        """Draw the completions of each prompt; the log-probabilities of greedy ones are those at temperature 1.

        What was asked for before must not matter.
        """

    def score(
        self, prompts: Sequence[Int[np.ndarray, " _"]], completions: Sequence[Int[np.ndarray, " _"]]
    ) -> list[Float[np.ndarray, " _"]]:
        """Return the log-probability at temperature 1 of each token of these completions, each of which has its prompt.

        Prompt, completion and one more token are within the positions of the model.
        """

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it, with its ``name``."""

    def close(self) -> None:
        """Give back the memory."""


class Row(NamedTuple):
    """A completion that is checked."""

    prompt: Int[np.ndarray, " _"]
    ids: Int[np.ndarray, " tokens"]
    logprobs: Float[np.ndarray, " tokens"]
    temperature: float


@dataclass(frozen=True)
class Difference:
    """Absolute difference of log-probabilities of sampler and trainer, in nats: its mean over ``tokens``, and the largest."""

    mean: float
    largest: float
    tokens: int


@dataclass(frozen=True)
class Movement:
    """How the sampler's log-probabilities of given tokens have moved where the trainer's have, when both got other weights.

    Attributes
    ----------
    slope : of the sampler's changes by the trainer's, through the origin: 1 if it has the same weights, 0 if it has those before.
    error : standard error of the slope, for rounding that is independent between completions but not within.
    """

    slope: float
    error: float

    @staticmethod
    def of(trainer: Sequence[Float[np.ndarray, " _"]], sampler: Sequence[Float[np.ndarray, " _"]]) -> Movement | None:
        """Fit it to the changes of the log-probabilities of completions; None if the trainer's have not changed."""
        size = sum(float(change @ change) for change in trainer)
        if size == 0:
            return None
        slope = sum(float(change @ other) for change, other in zip(trainer, sampler, strict=True)) / size
        rests = [float(change @ (other - slope * change)) for change, other in zip(trainer, sampler, strict=True)]
        return Movement(slope, float(np.linalg.norm(rests)) / size)

    @property
    def stale(self) -> bool:
        """Whether the sampler cannot have taken the weights."""
        return self.slope + ERRORS * self.error < 0.5


@dataclass
class _Scored:
    """Completions, each with its prompt, and their log-probabilities at temperature 1 under the weights that the sampler has.

    They were scored ``times`` times.
    """

    prompts: Sequence[Int[np.ndarray, " _"]]
    completions: Sequence[Int[np.ndarray, " _"]]
    trainer: Sequence[Float[np.ndarray, " _"]]
    sampler: Sequence[Float[np.ndarray, " _"]]
    times: int = 0


class Checked:
    """Draws completions from policies by a backend; see ``policy.Sampler``.

    Any number of policies of one architecture can be sampled from: the backend takes the weights of the one that is asked for unless it
    has them.

    Parameters
    ----------
    backend : draws them.
    microbatch : maximum number of tokens of a micro-batch in which the trainer measures.

    Attributes
    ----------
    movement : when weights were last taken; None if nothing was scored yet, or nothing has changed.
    """

    def __init__(self, backend: Backend, microbatch: int):
        self.backend, self.microbatch = backend, microbatch
        self._of: weakref.ref[Policy] | None = None  # whose weights the backend has, and their version
        self._version = -1
        self._loaded = 0
        self._first = True  # since metrics were asked for; so that a resumed run, which has to take weights, checks as many tokens
        self._scored: _Scored | None = None
        self.movement: Movement | None = None
        self._seconds = {"sync": 0.0, "check": 0.0}
        self._seen: list[Difference] = []

    def sample(self, policy: Policy, request: Request) -> list[list[SampledCompletion]]:
        """Sample completions; returns those of each prompt.

        Raises
        ------
        InputError
            A prompt is too long, or the log-probabilities of the sampler are not the trainer's.
        """
        names = [f"prompt {number}" for number in range(len(request.prompts))]
        check_lengths(policy.model, request.prompts, [request.limit] * len(names), names)
        if not request.prompts:
            return []
        begin = time.perf_counter()
        changed = self._load(policy)
        loaded = time.perf_counter()
        if changed:
            self._check_movement(policy)
        moved = time.perf_counter()
        groups = self.backend.draw(request, policy.eos)
        drawn = time.perf_counter()
        truncated = request.top_k or request.top_p < 1
        asked, answers = self._untruncated(policy, request) if truncated else (request, groups)
        self._check(policy, _chosen(asked, answers, CHECKED_TOKENS if changed or self._first else CHECKED_LATER))
        self._first = False
        self._seconds["sync"] += loaded - begin
        self._seconds["check"] += time.perf_counter() - drawn + moved - loaded
        greedy = [temperature == 0 for temperature in request.temperatures]
        return [
            [replace(one, logprobs=np.zeros_like(one.logprobs)) if zero else one for one, zero in zip(group, greedy, strict=True)]
            for group in groups
        ]

    def _load(self, policy: Policy) -> bool:
        """Have the backend take the weights of the policy; return whether it had others."""
        if self._of is not None and self._of() is policy and self._version == policy.version:
            return False
        self._of = None  # until it has them
        self.backend.load(policy)
        self._of, self._version = weakref.ref(policy), policy.version
        self._loaded += 1
        return True

    def _check_movement(self, policy: Policy) -> None:
        before = self._scored
        if before is None:
            return
        now = self._score(policy, before.prompts, before.completions)
        self.movement = Movement.of(_changes(before.trainer, now.trainer), _changes(before.sampler, now.sampler))
        self._scored = replace(now, times=before.times + 1)
        if self.movement is not None and self.movement.stale:
            raise InputError(
                f"{self.backend.name}: has not taken the weights of the trainer: where the trainer's log-probabilities of the same tokens "
                f"have moved by 1, its own have by {self.movement.slope:.2g} (standard error {self.movement.error:.2g}); use --sampler "
                "transformers"
            )

    def _score(self, policy: Policy, prompts: Sequence[Int[np.ndarray, " _"]], completions: Sequence[Int[np.ndarray, " _"]]) -> _Scored:
        sampler = [values.astype(float) for values in self.backend.score(prompts, completions)]
        return _Scored(prompts, completions, self._measured(policy, prompts, completions, 1.0), sampler)

    def _measured(
        self, policy: Policy, prompts: Sequence[Int[np.ndarray, " _"]], completions: Sequence[Int[np.ndarray, " _"]], temperature: float
    ) -> list[Float[np.ndarray, " _"]]:
        """Return the log-probabilities of completions, each with its prompt, that the trainer measures in this process."""
        blank = [""] * len(completions)
        own = np.arange(len(prompts))
        batch = Batch(prompts, completions, own, np.ones(len(prompts)), blank, blank, blank, temperature=temperature)
        values = policy.measure_here(batch, self.microbatch)[0].double().cpu().numpy()
        return np.split(values, np.cumsum(batch.lengths)[:-1])

    def _untruncated(self, policy: Policy, request: Request) -> tuple[Request, list[list[SampledCompletion]]]:
        """Draw some completions from the whole distribution, to be checked: the trainer measures no truncated ones."""
        asked = replace(request.part(0, 16), top_k=0, top_p=1.0, temperatures=request.temperatures[:1], limit=min(request.limit, 64))
        asked = replace(asked, numbers=None if asked.numbers is None else asked.numbers[:1])
        return asked, self.backend.draw(asked, policy.eos)

    def _check(self, policy: Policy, rows: Sequence[Row]) -> None:
        if self._scored is None or self._scored.times >= SCORED_AGAIN:
            longer = [row for row in rows if len(row.ids) > 1]  # without its last token, one more is within the model's positions
            if longer:
                self._scored = self._score(policy, [row.prompt for row in longer], [row.ids[:-1] for row in longer])
        found = self.difference(policy, rows)
        self._seen.append(found)
        limits = LIMITS[policy.compute]
        if not (found.mean <= limits.mean and found.largest <= limits.largest):  # not a number is none of them
            raise InputError(
                f"{self.backend.name}: its log-probabilities differ from the trainer's by {found.mean:.2g} on average and by up to "
                f"{found.largest:.2g} nats, over {found.tokens} tokens that it drew; rounding in {policy.compute} gives at most "
                f"{limits.mean:g} and {limits.largest:g}. It has other weights, or computes otherwise: use --sampler transformers"
            )

    def difference(self, policy: Policy, rows: Sequence[Row]) -> Difference:
        """Compare the log-probabilities of completions with those that the trainer measures for them."""
        apart = []
        for temperature in sorted({row.temperature for row in rows}):
            chosen = [row for row in rows if row.temperature == temperature]
            measured = self._measured(policy, [row.prompt for row in chosen], [row.ids for row in chosen], temperature)
            apart.append(np.abs(np.concatenate(measured) - np.concatenate([row.logprobs for row in chosen])))
        joined = np.concatenate(apart)
        return Difference(float(joined.mean()), float(joined.max()), len(joined))

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it."""
        return self.backend.describe()

    def measured(self) -> dict[str, float]:
        """Return metrics of what was sampled since they were asked for; none if nothing was."""
        self._first = True
        seen, self._seen = self._seen, []
        loaded, self._loaded = self._loaded, 0
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        if not seen:
            return {}
        tokens = sum(found.tokens for found in seen)
        return {
            "time/syncs": loaded,
            "sampler/checked_tokens": tokens,
            "sampler/checked_difference": sum(found.mean * found.tokens for found in seen) / tokens,
            "sampler/checked_max_difference": max(found.largest for found in seen),
            "time/sync_seconds": seconds["sync"],
            "time/check_seconds": seconds["check"],
        }

    def close(self) -> None:
        """Give back the memory."""
        self.backend.close()


def _chosen(request: Request, groups: Sequence[Sequence[SampledCompletion]], tokens: int) -> list[Row]:
    """Choose completions of at most so many tokens from all prompts and columns, at least one."""
    places = [(prompt, column) for column in range(len(request.temperatures)) for prompt in range(len(request.prompts))]
    order = np.random.default_rng(len(places)).permutation(len(places))
    rows: list[Row] = []
    left = tokens
    for place in order:
        prompt, column = places[place]
        one = groups[prompt][column]
        if rows and len(one.ids) > left:
            break
        rows.append(Row(request.prompts[prompt], one.ids, one.logprobs, request.temperatures[column] or 1.0))
        left -= len(one.ids)
    return rows


def _changes(before: Sequence[Float[np.ndarray, " _"]], now: Sequence[Float[np.ndarray, " _"]]) -> list[Float[np.ndarray, " _"]]:
    return [new - old for old, new in zip(before, now, strict=True)]
