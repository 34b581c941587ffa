"""Unbiased estimators of pass@k and related metrics from n graded samples of a problem.

Each function averages over all C(n, k) subsets of k of the n samples, which is unbiased for k fresh samples. There is no estimate for
k > n: the result is NaN, also if no sample is correct.

    pass_at_k     at least one of k is correct                   arXiv 2107.03374
    pass_hat_k    all k are correct (pass^k)                     arXiv 2406.12045
    g_pass_at_k   at least ceil(tau k) of k are correct          arXiv 2412.13147
    cover_at_tau  at least a share tau of all n is correct       arXiv 2510.08325
    mg_pass_at_k  the same, averaged over tau in (1/2, 1]        arXiv 2412.13147
    maj_at_k      the most frequent answer among k is correct    arXiv 2203.11171 (self-consistency)
    auc_at_k      mean height of the pass@k curve from 1 to k

n, c and k are integers: scalars, or arrays that broadcast against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Estimate the probability that at least one of k samples is correct: 1 - C(n - c, k) / C(n, k).

    Parameters
    ----------
    n, c, k : number of graded samples, of correct samples, and of samples drawn; integers with 0 <= c <= n and k >= 1 that broadcast.

    Returns
    -------
    A float, or a float64 array of the broadcast shape. NaN where k > n. The relative error is below 1e-15 for n up to 1e6 and beyond.

    Raises
    ------
    InputError : c > n, a negative count, k < 1, or a number that is not an integer.

    Notes
    -----
    Unbiased for each problem, but for k > n / 2 the estimate depends mostly on whether any sample is correct: a single lucky sample
    decides it.

    Examples
    --------
    >>> [pass_at_k(6, 3, k) for k in (1, 2, 3, 4, 7)]
    [0.5, 0.8, 0.95, 1.0, nan]
    """
    from dynamics.passk import hypergeometric

    return _each(lambda n, c, k, out: hypergeometric.none_of(n, c, k, True, out), n, c, k)


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Estimate the probability that all k samples are correct, pass^k: C(c, k) / C(n, k). See ``pass_at_k`` for parameters and errors.

    Results below 1e-292 lose precision, and results below 5e-324 are 0.
    """
    from dynamics.passk import hypergeometric

    return _each(lambda n, c, k, out: hypergeometric.none_of(n, n - c, k, False, out), n, c, k)


def g_pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike, tau: float) -> Any:
    """Estimate the probability that at least max(1, ceil(tau k)) of k samples are correct. See ``pass_at_k`` for parameters and errors.

    ``tau`` is in [0, 1]: 0 gives pass@k, 1 gives pass^k. tau k is computed from the decimal representation of tau, so that 0.1 of 30 is 3
    and not 4. The absolute error is about 1e-14.
    """
    from dynamics.passk import hypergeometric

    if not 0 <= tau <= 1:
        raise InputError(f"tau={tau}: must lie between 0 and 1")
    share = Fraction(str(tau))

    def fill(n: Any, c: Any, k: Any, out: Float[np.ndarray, " rows"]) -> None:
        least = np.array([max(1, -((-share.numerator * int(draws)) // share.denominator)) for draws in k], np.int64)
        hypergeometric.at_least(n, c, k, least, out)

    return _each(fill, n, c, k)


def cover_at_tau(n: ArrayLike, c: ArrayLike, tau: float) -> Any:
    """Tell whether a share of at least ``tau`` of a problem's samples is correct: 1 or 0; NaN without samples. Its mean is Cover@tau.

    ``tau`` is in (0, 1], read by its decimals as in ``g_pass_at_k``. It is a plug-in estimate of p >= tau: near tau the verdict is a matter
    of luck, and the mean over problems is biased towards the side with more problems. Compare at one n. G-Pass@k(tau) is the same for k
    samples, without this bias.
    """
    if not 0 < tau <= 1:
        raise InputError(f"tau={tau}: must lie between 0 and 1, above 0")
    share = Fraction(str(tau))
    counts, right = np.broadcast_arrays(_whole("n", n, least=0), _whole("c", c, least=0))
    _check(counts, right)
    covered = np.where(counts > 0, (right * share.denominator >= counts * share.numerator).astype(float), np.nan)
    return float(covered) if covered.ndim == 0 else covered


def mg_pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Compute twice the area under G-Pass@k(tau) for tau from 1/2 to 1. See ``pass_at_k`` for parameters and errors.

    The integral is exact: (2 / k) E[max(correct - k / 2, 0)]. It equals the published sum for even k. For odd k the published sum omits
    half a step and gives a perfect model less than 1 (0 at k = 1, 0.8 at k = 5); here a perfect model gets 1.
    """
    from dynamics.passk import hypergeometric

    return _each(hypergeometric.beyond_half, n, c, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Estimate the probability that the most frequent answer among k samples of one problem is correct; ties are split evenly.

    Parameters
    ----------
    answers : the answer extracted from each sample, or None. A sample without an answer can be drawn but has no vote; if none of the k
        samples has an answer, the problem is not solved.
    correct : whether each sample is correct. If samples with the same answer are graded differently, the answer counts as correct by the
        fraction of its samples that are.
    k : number of samples drawn.

    Returns
    -------
    The exact expectation over all subsets, without random tie-breaking or Monte Carlo, to about 1e-12; NaN if k > n. Takes less than a
    millisecond at n = 64, and up to seconds at n = 1024.

    Notes
    -----
    Tools that break ties in favour of the first answer are biased towards the samples that the sampler returns first.
    """
    from dynamics.passk import hypergeometric

    if len(answers) != len(correct):
        raise InputError(f"{len(answers)} answers but {len(correct)} verdicts: expected one of each per sample")
    _whole("k", k, least=1)
    if k > len(answers):
        return float("nan")
    votes: dict[Hashable, list[float]] = {}
    for answer, verdict in zip(answers, correct, strict=True):
        if answer is not None:
            tally = votes.setdefault(answer, [0.0, 0.0])
            tally[0] += 1
            tally[1] += bool(verdict)
    groups: dict[float, list[float]] = {}  # number of votes -> number of answers with that many votes, and their total credit
    for count, right in votes.values():
        group = groups.setdefault(count, [0, 0.0])
        group[0] += 1
        group[1] += right / count
    ranked = sorted(groups, reverse=True)
    nodes, weights = _gauss_legendre(MOST_NODES)
    return float(
        hypergeometric.plurality(
            np.array(ranked, np.int64),
            np.array([groups[count][0] for count in ranked], np.int64),
            np.array([groups[count][1] for count in ranked], np.float64),
            sum(answer is None for answer in answers),
            int(k),
            nodes,
            weights,
        )
    )


def auc_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Any:
    """Compute the mean height of the pass@k curve over 1..k by the trapezoid rule in k; pass@1 for k = 1. NaN where k > n.

    The rule is linear in k, so large k, where the estimate is least reliable, have the most weight.
    """
    _whole("k", k, least=1)
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    heights = curves(n.ravel(), c.ravel(), np.arange(1, int(k) + 1))
    area = heights[:, 0] if k == 1 else (heights.sum(axis=1) - (heights[:, 0] + heights[:, -1]) / 2) / (k - 1)
    return float(area[0]) if n.ndim == 0 else area.reshape(n.shape)


def curves(n: ArrayLike, c: ArrayLike, ks: ArrayLike, kind: str = "pass@k") -> Float[np.ndarray, "problems ks"]:
    """Estimate pass@k or pass^k of each problem at each k.

    Parameters
    ----------
    n, c : (problems,) number of graded and of correct samples.
    ks : (ks,) increasing integers of at least 1.
    kind : ``pass@k`` or ``pass^k``.

    Returns
    -------
    (problems, ks) float64, NaN where k > n. Problems with the same n and c are computed once.
    """
    from dynamics.passk import hypergeometric

    n, c = _whole("n", n, least=0).ravel(), _whole("c", c, least=0).ravel()
    _check(n, c)
    orders = _whole("k", ks, least=1).ravel()
    if np.any(np.diff(orders) <= 0):
        raise InputError("k: must be strictly increasing")
    pairs, index = np.unique(np.stack([n, c], 1), axis=0, return_inverse=True)
    out = np.empty((len(pairs), len(orders)))
    whole, right = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    all_correct = kind == "pass^k"
    hypergeometric.none_of_curve(whole, whole - right if all_correct else right, orders, not all_correct, out)
    return out[index.ravel()]


def _each(fill: Callable[..., None], n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Apply a kernel to n, c and k, broadcast against each other; return a float for scalars."""
    arrays = np.broadcast_arrays(_whole("n", n, least=0), _whole("c", c, least=0), _whole("k", k, least=1))
    _check(arrays[0], arrays[1])
    shape = arrays[0].shape
    flat = [np.ascontiguousarray(array).ravel() for array in arrays]
    out = np.empty(flat[0].shape)
    fill(*flat, out)
    return float(out[0]) if shape == () else out.reshape(shape)


def _whole(name: str, values: Any, least: int) -> Int[np.ndarray, " ..."]:
    """Convert ``values`` to int64; raise InputError naming the first invalid value."""
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise InputError(f"{name}={printable(values, 40)}: must be whole numbers")
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(array) & (array == np.floor(array)))
        if bad.any():
            raise InputError(f"{name}={array[bad].ravel()[0]}: must be a whole number")
    if array.size and (array < least).any():
        raise InputError(f"{name}={array[array < least].ravel()[0]}: must be at least {least}")
    return array.astype(np.int64)


def _check(n: Int[np.ndarray, " ..."], c: Int[np.ndarray, " ..."]) -> None:
    """Raise InputError if there are more correct samples than samples."""
    try:
        above = c > n
    except ValueError:
        raise InputError(f"n has shape {n.shape} and c has shape {c.shape}: expected one of each per problem") from None
    if np.any(above):
        first = int(np.argmax(np.broadcast_to(above, np.broadcast_shapes(n.shape, c.shape)).ravel()))
        pair = [int(np.broadcast_to(array, above.shape).ravel()[first]) for array in (n, c)]
        raise InputError(f"c={pair[1]} correct of n={pair[0]} samples: c must be at most n")


#: exact for ties of up to 127 answers; for a tie of a thousand answers the relative error is 2e-6
MOST_NODES = 64


@lru_cache(maxsize=1)
def _gauss_legendre(largest: int) -> tuple[Float[np.ndarray, "orders nodes"], Float[np.ndarray, "orders nodes"]]:
    """Return nodes and weights on (0, 1) of the Gauss-Legendre rules with 1..largest points, a row per rule."""
    nodes, weights = np.zeros((largest + 1, largest)), np.zeros((largest + 1, largest))
    for order in range(1, largest + 1):
        x, w = np.polynomial.legendre.leggauss(order)
        nodes[order, :order], weights[order, :order] = (x + 1) / 2, w / 2
    return nodes, weights
