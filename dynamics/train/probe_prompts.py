"""Entropy on prompts that stay the same while a model trains: tells a change of the policy from a change of what it is asked."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Int

from dynamics.errors import InputError
from dynamics.train.batch import Batch
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import generate
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import encode_questions

#: prompts of a role, and samples of each
COUNT, SAMPLES = 24, 2
#: role -> token ids of its prompts, and the longest completion that is sampled
ProbePrompts = dict[str, tuple[list[Int[np.ndarray, " _"]], int]]


def solver_probes(source: Source, policy: Policy, seed: int, limit: int) -> ProbePrompts:
    """Choose validation problems for the solver; none where the source is too small to have any."""
    try:
        questions = source.questions("validation", COUNT, seed)
    except InputError:
        return {}
    return {"solver": (encode_questions(policy.tokenizer, questions), limit)}


def entropies(policy: Policy, probes: ProbePrompts, seed: int, tokens: int) -> dict[str, float]:
    """``probe/ROLE/entropy`` and ``probe/ROLE/nll_sampled``: nats a token of what the policy samples at temperature 1.

    The random numbers are the same at every call, so that what differs between two calls is the policy. ``tokens`` are computed at once.
    """
    found: dict[str, float] = {}
    for role, (ids, limit) in probes.items():
        groups = generate(
            policy.model,
            ids,
            SAMPLES,
            max_new_tokens=limit,
            eos=policy.eos,
            rng_for=partial(stream, seed, f"fixed {role}", 0),
            autocast=policy.autocast,
        )
        completions = [completion.ids for group in groups for completion in group]
        prompt_of = np.repeat(np.arange(len(ids)), SAMPLES)
        blank = [""] * len(completions)
        batch = Batch(ids, completions, prompt_of, np.zeros(len(completions)), blank, blank, blank)
        _, entropy, surprisal = policy.measure(batch, tokens)
        found[f"probe/{role}/entropy"] = float(entropy.double().mean())
        found[f"probe/{role}/nll_sampled"] = float(surprisal.double().mean())
    return found
