"""Bounds on the entropy of a distribution from its largest log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dynamics.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: how far the probabilities of one distribution may add up to more than 1, or fall short of it where no token is left
SLACK = 1e-3


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


def bounds(logprobs: ArrayLike, vocabulary: int, ceiling: ArrayLike | None = None, rounding: ArrayLike = 0.0) -> Bounds:
    """Bound the entropy of distributions of which some log-probabilities are known, as returned by inference servers.

    Parameters
    ----------
    logprobs : (tokens, k) natural logarithms, NaN or -inf where fewer are known. Without ``ceiling`` they must be the k largest of the
        unmodified distribution: without penalties or truncation, and at temperature 1 for the entropy at temperature 1.
    vocabulary : size of the vocabulary.
    ceiling : (tokens,) log-probabilities that no token beside the given ones exceeds, 0 if nothing is known about them; by default the
        least of the given ones. A list of the k largest and the sampled token has the k-th largest for ceiling.
    rounding : error of the log-probabilities: one of x is off by at most rounding * (1 + abs(x)). A number, or (tokens,).

    Returns
    -------
    ``Bounds``. For ``low`` the remaining probability is concentrated on as few tokens as possible, none more likely than the ceiling; for
    ``high`` it is spread evenly over all other tokens. These bounds are rigorous, but they are not estimates. The entropy of the k tokens
    alone, renormalised, is not an estimate either: it is off by nats if the tail is flat.

    Raises
    ------
    InputError : a probability above 1, more than 1 in all, a vocabulary of fewer than k tokens, or one whose other tokens cannot have the
        remaining probability.
    """
    values = np.atleast_2d(np.asarray(logprobs, float))
    values = np.where(np.isnan(values), -np.inf, values)
    if vocabulary < values.shape[-1]:
        raise InputError(f"vocabulary={vocabulary} is less than the {values.shape[-1]} log-probabilities given")
    known = np.isfinite(values)
    size = np.where(known, np.abs(values), 0.0)
    error = np.where(known, np.broadcast_to(rounding, len(values))[:, None] * (1 + size), 0.0)
    p = np.exp(values)
    mass, most = p.sum(-1), np.exp(values + error).sum(-1)
    least = np.exp(values - error).sum(-1)
    if (least > 1 + SLACK).any() or (values - error > 1e-6).any():
        raise InputError(
            f"the probabilities sum to {float(mass.max()):.3g}, more than 1: are the log-probabilities natural logs of one distribution?"
        )
    cap = _largest_of_the_others(values, ceiling, rounding)
    others = vocabulary - known.sum(-1)
    rest = np.maximum(1 - most, 0.0), np.clip(1 - least, 0.0, 1.0)
    if (impossible := rest[0] > others * cap + SLACK).any():
        row = int(np.argmax(impossible))
        raise InputError(
            f"vocabulary={vocabulary}: {others[row]:,} other tokens of at most {cap[row]:.3g} each cannot have the remaining "
            f"{rest[0][row]:.3g}: the vocabulary is larger, or the log-probabilities are not the largest of a whole distribution"
        )
    entropy = (p * size).sum(-1)
    doubt = (np.exp(values + error) * (1 + size + error) * error).sum(-1)
    low, high = _least_entropy(rest, cap), _largest_entropy(rest, others)
    return Bounds(np.maximum(entropy - doubt + np.minimum(low, high), 0.0), entropy + doubt + high, mass)


def _largest_of_the_others(
    values: Float[np.ndarray, "tokens k"], ceiling: ArrayLike | None, rounding: ArrayLike
) -> Float[np.ndarray, " tokens"]:
    """Return the largest probability that a token beside the given ones can have."""
    if ceiling is None:
        top = np.where(np.isfinite(values), values, np.inf).min(-1, initial=np.inf)
    else:
        top = np.broadcast_to(np.asarray(ceiling, float), len(values))
    top = np.minimum(top, 0.0)
    return np.minimum(np.exp(top + np.broadcast_to(rounding, len(values)) * (1 + np.abs(top))), 1.0)


def _entropy_of(p: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " tokens"]:
    return -p * np.log(np.where(p > 0, p, 1.0))


def _least_entropy(
    rest: tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]],
    cap: Float[np.ndarray, " tokens"],
) -> Float[np.ndarray, " tokens"]:
    """Return the least of -sum p log p over tokens of at most ``cap`` each whose total is between both values of ``rest``.

    All tokens but one have ``cap`` or nothing. Between two multiples of ``cap`` this is a concave function of the total, so that its least
    value is at an end of the interval or at the first multiple inside.
    """
    start, stop = rest
    divisor = np.where(cap > 0, cap, 1.0)

    def packed(total: np.ndarray) -> np.ndarray:
        full = np.where(cap > 0, np.floor(total / divisor), 0.0)
        return full * _entropy_of(cap) + _entropy_of(np.maximum(total - full * cap, 0.0))

    multiple = np.where(cap > 0, np.ceil(start / divisor), 0.0)
    inside = np.where(multiple * cap <= stop, multiple * _entropy_of(cap), np.inf)
    least: np.ndarray = np.minimum(np.minimum(packed(start), packed(stop)), inside)
    return least


def _largest_entropy(
    rest: tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]], others: np.ndarray
) -> Float[np.ndarray, " tokens"]:
    """Return the largest of -sum p log p over the other tokens, whose total is between both values of ``rest``."""
    count = np.maximum(others, 1)
    total = np.clip(count / np.e, *rest)  # a total that is spread evenly has its largest entropy there
    return np.where((total > 0) & (others > 0), -total * np.log(np.where(total > 0, total, 1.0) / count), 0.0)
