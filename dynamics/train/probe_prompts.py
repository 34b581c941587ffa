"""Entropy on a fixed set of prompts during training, which separates changes of the policy from changes of its prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from dynamics.errors import InputError
from dynamics.train.batch import Batch
from dynamics.train.completions import Request
from dynamics.train.policy import Policy
from dynamics.train.sampling import sample
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import encode_questions
from dynamics.train.token_kinds import entropy_by_kind

#: number of prompts per role, and of samples per prompt
COUNT, SAMPLES = 24, 2
#: by role: token ids of the prompts, and the maximum completion length
ProbePrompts = dict[str, tuple[list[Int[np.ndarray, " _"]], int]]


def solver_probes(source: Source, policy: Policy, seed: int, limit: int) -> ProbePrompts:
    """Return validation problems as probe prompts for the solver, or {} if the source has no validation problems."""
    try:
        questions = source.questions("validation", COUNT, seed)
    except InputError:
        return {}
    return {"solver": (encode_questions(policy.tokenizer, questions), limit)}


def entropies(policy: Policy, probes: ProbePrompts, seed: int, tokens: int) -> dict[str, float]:
    """Measure ``probe/ROLE/entropy``, also by kind of token, and ``probe/ROLE/nll_sampled``, nats per token of samples at temperature 1.

    All calls use the same random numbers, so that results differ only through the policy. ``tokens`` limits the size of a micro-batch.
    """
    metrics: dict[str, float] = {}
    for role, (ids, limit) in probes.items():
        groups = sample(policy, Request(ids, (1.0,) * SAMPLES, limit, seed, f"fixed {role}", (0,)))
        completions = [completion.ids for group in groups for completion in group]
        prompt_of = np.repeat(np.arange(len(ids)), SAMPLES)
        blank = [""] * len(completions)
        batch = Batch(ids, completions, prompt_of, np.zeros(len(completions)), blank, blank, blank)
        _, entropy, surprisal = policy.measure(batch, tokens)
        metrics[f"probe/{role}/entropy"] = float(entropy.double().mean())
        metrics[f"probe/{role}/nll_sampled"] = float(surprisal.double().mean())
        metrics |= entropy_by_kind(entropy.double().cpu().numpy(), completions, policy.token_kinds, f"probe/{role}")
    return metrics
