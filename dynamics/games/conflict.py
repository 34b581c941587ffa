"""Conflict between the roles of a game: the angle between their gradients, and what part of the update each makes.

One policy that plays several roles takes the sum of their gradients. The measures are this project's reconstruction; ANCORA (arXiv
2604.27644) studies the same conflict. A gradient is a dictionary of arrays by parameter name, as of torch or numpy; sums are float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynamics.errors import InputError

#: arrays by parameter name
Gradient = Mapping[str, Any]


def dot(first: Gradient, second: Gradient) -> float:
    """Compute the inner product over all parameters, in float64."""
    if first.keys() != second.keys():
        raise InputError("two gradients have different parameters; both must be of one model")
    return math.fsum(float(np.dot(_flat(first[name]), _flat(second[name]))) for name in first)


def cosine(first: Gradient, second: Gradient) -> float:
    """Compute the cosine of two gradients; NaN if one is 0.

    Negative: a step along one undoes the other. In many dimensions unrelated gradients have a cosine near 0, so a small positive one is
    no agreement; and noise lowers the cosine of two gradients of the same direction: compare with that of two halves of one role's batch.
    The optimizer changes it: Adam's step is not along the gradient.
    """
    norms = norm(first) * norm(second)
    return dot(first, second) / norms if norms else math.nan


def norm(gradient: Gradient) -> float:
    """Compute the L2 norm."""
    return math.sqrt(dot(gradient, gradient))


def norm_ratio(first: Gradient, second: Gradient) -> float:
    """Compute the norm of the first over that of the second; NaN if the second is 0.

    It depends on how the loss weighs the roles: under a mean over tokens a role with longer completions has the larger gradient.
    """
    below = norm(second)
    return norm(first) / below if below else math.nan


def shares(parts: Mapping[str, Gradient]) -> dict[str, float]:
    """Compute what part of the update's length each part makes: <g_part, g> / <g, g> with g the sum of all parts; they sum to 1.

    For roles, or for invalid proposals against everything else. Negative for a part that the rest outweighs, above 1 where others pull
    back; NaN if the sum is 0.
    """
    if not parts:
        return {}
    first = next(iter(parts.values()))
    total = {name: sum((_flat(part[name]) for part in parts.values()), np.zeros(np.size(_flat(first[name])))) for name in first}
    length = dot(total, total)
    return {name: dot(part, total) / length if length else math.nan for name, part in parts.items()}


def _flat(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
    return np.asarray(array, np.float64).ravel()
