"""Where a model is unsure: per-token entropy of a causal language model over text or rollouts.

    python -m dynamics.entropy MODEL TEXTS --out traces.parquet
    python -m dynamics.entropy base run/rollouts/step_100.jsonl --against tuned --json -

As a library::

    import dynamics
    dynamics.entropy.from_logits(logits, temperature=0.7).entropy       # torch or numpy, exact where it is nearly 0
    dynamics.entropy.from_hidden(hidden, lm_head.weight, targets=ids)   # without forming the logits
    dynamics.entropy.trace(model, tokenizer, texts).tokens              # a DataFrame, a row a token

Conventions. Nats, float64, temperature 1 unless said. The entropy of a row is that of the distribution its token was drawn from; the first
token of a text has none. Means are over tokens; intervals are bootstrapped over texts, as tokens of a text are not independent.
"""

from __future__ import annotations

from dynamics.entropy.logits import TokenStats, divergence, from_hidden, from_logits
from dynamics.entropy.logprob_bounds import Bounds, bounds
from dynamics.entropy.reward_fit import Fit, fit
from dynamics.entropy.summaries import SCHEMA, Forking, by_token, change_by_percentile, forking, summary, to_dict
from dynamics.entropy.traces import Trace, trace
from dynamics.models import load
from dynamics.rollouts.logprobs import read_logprobs
from dynamics.rollouts.texts import Document

__all__ = [
    "SCHEMA",
    "Bounds",
    "Document",
    "Fit",
    "Forking",
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
    "summary",
    "to_dict",
    "trace",
]
