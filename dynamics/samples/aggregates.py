"""Recover the number of correct samples of a problem from an aggregate of a harness: pass@k or the mean of n samples."""

from __future__ import annotations

import re

import numpy as np

_PASS_AT = re.compile(r"(?i)^pass@(?:k:k=|k=)?(\d{1,9})\b")
_MEAN = re.compile(r"(?i)^(avg|mean|acc|average)@")
_SAMPLES = re.compile(r"(?i)(?:^(?:avg|mean|acc|average)@|[:&?]n=)(\d{1,9})(?!\d)")
_VOTE = re.compile(r"(?i)^maj(ority)?[@_-]")


def pass_k(name: str) -> int | None:
    """Return the k of a metric named like pass@4 or pass@k:k=4&n=16; None for other metrics."""
    match = _PASS_AT.match(name)
    return int(match.group(1)) if match else None


def is_aggregate(name: str) -> bool:
    """Tell whether a metric aggregates several samples: pass@k or a mean."""
    return pass_k(name) is not None or bool(_MEAN.match(name))


def is_vote(name: str) -> bool:
    """Tell whether a metric or filter is named like maj@8: its verdict is that of the most frequent answer, not of a sample."""
    return bool(_VOTE.match(name))


def samples_of(name: str) -> int | None:
    """Return the number of samples that an aggregate named like avg@64 or pass@k:k=1&n=4 is of; None if its name does not say."""
    match = _SAMPLES.search(name)
    return int(match.group(1)) if match else None


def correct_counts(name: str, value: float, n: int) -> list[int]:
    """List every c of n that gives ``value`` up to rounding. There are several if pass@k has reached 1; the list can be empty."""
    c = np.arange(n + 1)
    k = pass_k(name)
    if k is None:
        expected = c / n
    elif k > n:
        return []
    else:  # the share of draws of k without a correct one is multiplied by (n - c - k) / (n - c) for each further correct sample
        rest = np.arange(n, 0, -1)
        expected = 1 - np.concatenate([[1.0], np.cumprod(np.maximum(rest - k, 0) / rest)])
    return [int(count) for count in c[np.abs(expected - value) < 1e-9]]
