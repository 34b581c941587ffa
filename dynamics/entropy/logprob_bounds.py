"""What the largest log-probabilities of a distribution say about its entropy."""

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
    """Bounds of entropies.

    Attributes
    ----------
    low, high : the entropy lies between these, in nats.
    mass : probability of the tokens that were given.
    """

    low: Float[np.ndarray, " tokens"]
    high: Float[np.ndarray, " tokens"]
    mass: Float[np.ndarray, " tokens"]


def bounds(logprobs: ArrayLike, vocabulary: int) -> Bounds:
    """Bound the entropy of distributions of which only the k largest log-probabilities are known, as inference servers give them.

    Parameters
    ----------
    logprobs : (tokens, k) natural logs, NaN or -inf where fewer were given. They must be the k largest, as processed by nothing: raw
        logits at temperature 1 for the entropy at 1.
    vocabulary : how many tokens there are in all.

    Returns
    -------
    ``Bounds``, rigorous: the rest of the mass is packed into as few tokens as can be, none likelier than the k-th, for ``low``, and spread
    evenly over all others for ``high``. They are bounds, not an estimate: the entropy of the k tokens alone, renormalised, is off by
    nats where the tail is flat.

    Raises
    ------
    InputError : a probability above 1, more than 1 in all, or a vocabulary of fewer than k tokens.
    """
    values = np.atleast_2d(np.asarray(logprobs, float))
    values = np.where(np.isnan(values), -np.inf, values)
    if vocabulary < values.shape[-1]:
        raise InputError(f"vocabulary={vocabulary}: fewer tokens than the {values.shape[-1]} log-probabilities given")
    p = np.exp(values)
    mass = p.sum(-1)
    if (mass > 1 + 1e-3).any() or (values > 1e-6).any():
        raise InputError(f"log-probabilities add up to {float(mass.max()):.3g}, more than 1: are they natural logs of one distribution?")
    rest = np.maximum(1 - mass, 0.0)
    counts = np.isfinite(values).sum(-1)
    known = -np.where(p > 0, p * np.where(p > 0, values, 0.0), 0.0).sum(-1)
    least = np.where(np.isfinite(values), p, np.inf).min(-1)  # no token that was not given is likelier
    others = vocabulary - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.floor(np.where(least > 0, rest / least, 0.0))
        left = np.maximum(rest - full * least, 0.0)
        packed = np.where(rest > 0, -full * least * np.log(least) - np.where(left > 0, left * np.log(left), 0.0), 0.0)
        spread = np.where((rest > 0) & (others > 0), -rest * np.log(rest / np.maximum(others, 1)), 0.0)
    return Bounds(known + np.minimum(packed, spread), known + spread, mass)
