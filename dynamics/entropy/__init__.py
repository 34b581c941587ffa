"""Per-token entropy of a causal language model over texts or rollouts.

    python -m dynamics.entropy MODEL TEXTS --out traces.parquet
    python -m dynamics.entropy base run/rollouts/step_100.jsonl --against tuned --json -

As a library::

    import dynamics
    dynamics.entropy.from_logits(logits, temperature=0.7).entropy       # torch or numpy; accurate also near 0
    dynamics.entropy.from_hidden(hidden, lm_head.weight, targets=ids)   # without materialising the logits
    dynamics.entropy.trace(model, tokenizer, texts).tokens              # a DataFrame with a row per token

Conventions. Nats, float64, temperature 1 unless stated otherwise. The entropy of a token is that of the distribution from which it was
drawn; the first token of a text has none. Means are over tokens; intervals are bootstrapped over texts, because the tokens of a text are
not independent.
"""

from __future__ import annotations

from dynamics.entropy.logits import TokenStats, divergence, from_hidden, from_logits
from dynamics.entropy.logprob_bounds import Bounds, bounds
from dynamics.entropy.reward_fit import Fit, fit
from dynamics.entropy.summaries import SCHEMA, Forking, by_token, change_by_percentile, forking, summary, to_dict
from dynamics.entropy.traces import Trace, trace
from dynamics.models import load
from dynamics.rollouts.logprobs import TokenLogprobs, read_logprobs, read_token_logprobs
from dynamics.rollouts.texts import Document

__all__ = [
    "SCHEMA",
    "Bounds",
    "Document",
    "Fit",
    "Forking",
    "TokenLogprobs",
    "TokenStats",
    "Trace",
    "bounds",
    "by_token",
    "change_by_percentile",
    "divergence",
    "fit",
    "forking",
    "from_hidden",
    "from_logits",
    "load",
    "read_logprobs",
    "read_token_logprobs",
    "summary",
    "to_dict",
    "trace",
]
