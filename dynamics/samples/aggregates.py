"""Counts out of a harness's per-problem aggregates: how many of n were correct if it only wrote pass@k or the mean."""

from __future__ import annotations

import math
import re

import numpy as np

_PASS_AT = re.compile(r"(?i)^pass@(?:k:k=|k=)?(\d+)\b")
_MEAN = re.compile(r"(?i)^(avg|mean|acc|average)@")


def pass_k(name: str) -> int | None:
    """Find the k of a metric called pass@4 or pass@k:k=4&n=16; None for another metric."""
    match = _PASS_AT.match(name)
    return int(match.group(1)) if match else None


def is_aggregate(name: str) -> bool:
    """Tell whether a metric sums up several samples: pass@k, or a mean of them."""
    return pass_k(name) is not None or bool(_MEAN.match(name))


def correct_counts(name: str, value: float, n: int) -> list[int]:
    """Find every c of n that gives ``value``, to rounding: one, or several where pass@k has reached 1. Empty if none does."""
    c = np.arange(n + 1)
    k = pass_k(name)
    if k is None:
        expected = c / n
    elif k > n:
        return []
    else:
        expected = np.array([1 - math.comb(n - correct, k) / math.comb(n, k) for correct in range(n + 1)])
    return [int(count) for count in c[np.abs(expected - value) < 1e-9]]
