"""Bounds on the entropy of a distribution from its largest log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dynamics.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Bounds:
    """Bounds on entropies.

    Attributes
    ----------
    low, high : lower and upper bound of the entropy, in nats.
    mass : total probability of the given tokens.
    """

    low: Float[np.ndarray, " tokens"]
    high: Float[np.ndarray, " tokens"]
    mass: Float[np.ndarray, " tokens"]


def bounds(logprobs: ArrayLike, vocabulary: int) -> Bounds:
    """Bound the entropy of distributions given the k largest log-probabilities, as returned by inference servers.

    Parameters
    ----------
    logprobs : (tokens, k) natural logarithms, NaN or -inf where fewer are known. They must be the k largest of the unmodified
        distribution: without penalties or truncation, and at temperature 1 for the entropy at temperature 1.
    vocabulary : size of the vocabulary.

    Returns
    -------
    ``Bounds``. For ``low`` the remaining probability is concentrated on as few tokens as possible, none more likely than the k-th; for
    ``high`` it is spread evenly over all other tokens. These bounds are rigorous, but they are not estimates. The entropy of the k tokens
    alone, renormalised, is not an estimate either: it is off by nats if the tail is flat.

    Raises
    ------
    InputError : a probability above 1, more than 1 in all, or a vocabulary of fewer than k tokens.
    """
    values = np.atleast_2d(np.asarray(logprobs, float))
    values = np.where(np.isnan(values), -np.inf, values)
    if vocabulary < values.shape[-1]:
        raise InputError(f"vocabulary={vocabulary} is less than the {values.shape[-1]} log-probabilities given")
    p = np.exp(values)
    mass = p.sum(-1)
    if (mass > 1 + 1e-3).any() or (values > 1e-6).any():
        raise InputError(
            f"the probabilities sum to {float(mass.max()):.3g}, more than 1: are the log-probabilities natural logs of one distribution?"
        )
    rest = np.maximum(1 - mass, 0.0)
    counts = np.isfinite(values).sum(-1)
    known = -np.where(p > 0, p * np.where(p > 0, values, 0.0), 0.0).sum(-1)
    least = np.where(np.isfinite(values), p, np.inf).min(-1)  # no other token is more likely
    others = vocabulary - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.floor(np.where(least > 0, rest / least, 0.0))
        left = np.maximum(rest - full * least, 0.0)
        packed = np.where(rest > 0, -full * least * np.log(least) - np.where(left > 0, left * np.log(left), 0.0), 0.0)
        spread = np.where((rest > 0) & (others > 0), -rest * np.log(rest / np.maximum(others, 1)), 0.0)
    return Bounds(known + np.minimum(packed, spread), known + spread, mass)
