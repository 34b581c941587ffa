"""What k samples of a problem can be expected to solve, from n graded samples of it: pass@k and its relatives.

Every function is exact for the n samples given: it averages over all C(n, k) ways of drawing k of them without replacement, which makes
it unbiased for k fresh samples. None knows anything beyond n: where k > n the answer is NaN, also for zero correct samples, and never 1.

    pass_at_k     at least one of k is correct                   arXiv 2107.03374
    pass_hat_k    all k are correct (pass^k)                     arXiv 2406.12045
    g_pass_at_k   at least ceil(tau k) of k are correct          arXiv 2412.13147
    mg_pass_at_k  the same, averaged over tau in (1/2, 1]        arXiv 2412.13147
    maj_at_k      the most frequent answer among k is correct    arXiv 2203.11171 (self-consistency)
    auc_at_k      mean height of the pass@k curve from 1 to k

n, c and k are whole numbers: scalars, or arrays that broadcast against each other.
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
    """Estimate the chance that at least one of k samples is correct: 1 - C(n - c, k) / C(n, k).

    Parameters
    ----------
    n, c, k : samples graded, samples correct, samples drawn; whole numbers with 0 <= c <= n, k >= 1, of shapes that broadcast.

    Returns
    -------
    A float, or a float64 array of the broadcast shape. NaN where k > n. Relative error below 1e-15 for n up to 1e6 and beyond.

    Raises
    ------
    InputError : c > n, a negative count, k < 1, or a number that is not whole.

    Notes
    -----
    Unbiased for each problem, but for k > n / 2 it is hardly more than "was any of them correct": one lucky sample decides it.

    Examples
    --------
    >>> [pass_at_k(6, 3, k) for k in (1, 2, 3, 4, 7)]
    [0.5, 0.8, 0.95, 1.0, nan]
    """
    from dynamics.passk import hypergeometric

    return _each(lambda n, c, k, out: hypergeometric.none_of(n, c, k, True, out), n, c, k)


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Estimate the chance that all k samples are correct, pass^k: C(c, k) / C(n, k). Parameters and errors as for ``pass_at_k``.

    Results below 1e-292 lose digits, and below 5e-324 they are 0.
    """
    from dynamics.passk import hypergeometric

    return _each(lambda n, c, k, out: hypergeometric.none_of(n, n - c, k, False, out), n, c, k)


def g_pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike, tau: float) -> Any:
    """Estimate the chance that at least max(1, ceil(tau k)) of k samples are correct. Parameters and errors as for ``pass_at_k``.

    ``tau`` in [0, 1]; 0 is pass@k and 1 is pass^k. tau k is formed from the decimal number that was written, so that 0.1 of 30 is 3
    and not 4. Absolute error about 1e-14.
    """
    from dynamics.passk import hypergeometric

    if not 0 <= tau <= 1:
        raise InputError(f"tau={tau}: must lie between 0 and 1")
    share = Fraction(str(tau))

    def fill(n: Any, c: Any, k: Any, out: Float[np.ndarray, " rows"]) -> None:
        least = np.array([max(1, -((-share.numerator * int(draws)) // share.denominator)) for draws in k], np.int64)
        hypergeometric.at_least(n, c, k, least, out)

    return _each(fill, n, c, k)


def mg_pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Compute twice the area under G-Pass@k(tau) for tau from 1/2 to 1. Parameters and errors as for ``pass_at_k``.

    The integral itself, (2 / k) E[max(correct - k / 2, 0)]. For even k this is the published sum; for odd k that sum drops half a step,
    so that a perfect model gets less than 1 (0 at k = 1, 0.8 at k = 5): here it gets 1.
    """
    from dynamics.passk import hypergeometric

    return _each(hypergeometric.beyond_half, n, c, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Estimate the chance that the most frequent answer among k samples of one problem is correct; ties are split evenly.

    Parameters
    ----------
    answers : the answer extracted from each sample; None where there was none. Such a sample can be drawn but has no vote; if none of
        the k has an answer, the problem is not solved.
    correct : whether each sample is correct. An answer that is not always graded alike earns the share in which it is.
    k : samples drawn.

    Returns
    -------
    The expectation over all subsets, without random tie-breaking or Monte Carlo, to about 1e-12; NaN where k > n. Under a millisecond
    at n = 64, up to seconds at n = 1024.

    Notes
    -----
    Other tools give a tie to the answer that came first, which is biased towards whatever the sampler returns first.
    """
    from dynamics.passk import hypergeometric

    if len(answers) != len(correct):
        raise InputError(f"{len(answers)} answers but {len(correct)} verdicts: there must be one of each a sample")
    _whole("k", k, least=1)
    if k > len(answers):
        return float("nan")
    votes: dict[Hashable, list[float]] = {}
    for answer, verdict in zip(answers, correct, strict=True):
        if answer is not None:
            tally = votes.setdefault(answer, [0.0, 0.0])
            tally[0] += 1
            tally[1] += bool(verdict)
    groups: dict[float, list[float]] = {}  # votes an answer got -> how many such answers, and the credit of all of them
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
    """Compute the mean height of the pass@k curve over 1..k by the trapezoid rule, linear in k; pass@1 for k = 1. NaN where k > n.

    Linear in k, so the large k, where the estimate says least, weigh most.
    """
    _whole("k", k, least=1)
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    heights = curves(n.ravel(), c.ravel(), np.arange(1, int(k) + 1))
    area = heights[:, 0] if k == 1 else (heights.sum(axis=1) - (heights[:, 0] + heights[:, -1]) / 2) / (k - 1)
    return float(area[0]) if n.ndim == 0 else area.reshape(n.shape)


def curves(n: ArrayLike, c: ArrayLike, ks: ArrayLike, kind: str = "pass@k") -> Float[np.ndarray, "problems ks"]:
    """Estimate pass@k, or pass^k, of every problem at every k of ``ks`` at once.

    Parameters
    ----------
    n, c : (problems,) samples graded and samples correct.
    ks : (ks,) rising whole numbers of at least 1.
    kind : ``pass@k`` or ``pass^k``.

    Returns
    -------
    NaN where k > n. Problems with the same n and c are worked out once.
    """
    from dynamics.passk import hypergeometric

    n, c = _whole("n", n, least=0).ravel(), _whole("c", c, least=0).ravel()
    _check(n, c)
    wanted = _whole("k", ks, least=1).ravel()
    if np.any(np.diff(wanted) <= 0):
        raise InputError("k: must rise, each larger than the one before")
    pairs, index = np.unique(np.stack([n, c], 1), axis=0, return_inverse=True)
    out = np.empty((len(pairs), len(wanted)))
    whole, right = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    everything = kind == "pass^k"
    hypergeometric.none_of_curve(whole, whole - right if everything else right, wanted, not everything, out)
    return out[index.ravel()]


def _each(fill: Callable[..., None], n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Run a kernel over the broadcast of n, c and k; a float for scalars."""
    arrays = np.broadcast_arrays(_whole("n", n, least=0), _whole("c", c, least=0), _whole("k", k, least=1))
    _check(arrays[0], arrays[1])
    shape = arrays[0].shape
    flat = [np.ascontiguousarray(array).ravel() for array in arrays]
    out = np.empty(flat[0].shape)
    fill(*flat, out)
    return float(out[0]) if shape == () else out.reshape(shape)


def _whole(name: str, values: Any, least: int) -> Int[np.ndarray, " ..."]:
    """Turn ``values`` into int64, or refuse the first that will not do."""
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
    """Refuse more correct samples than samples."""
    try:
        above = c > n
    except ValueError:
        raise InputError(f"n has shape {n.shape} and c has shape {c.shape}: there must be one of each a problem") from None
    if np.any(above):
        first = int(np.argmax(np.broadcast_to(above, np.broadcast_shapes(n.shape, c.shape)).ravel()))
        pair = [int(np.broadcast_to(array, above.shape).ravel()[first]) for array in (n, c)]
        raise InputError(f"c={pair[1]} correct of n={pair[0]} samples: there cannot be more correct samples than samples")


#: exact for up to 127 answers that tie; the share of a thousand that tie is still right to 2e-6 of itself
MOST_NODES = 64


@lru_cache(maxsize=1)
def _gauss_legendre(largest: int) -> tuple[Float[np.ndarray, "orders nodes"], Float[np.ndarray, "orders nodes"]]:
    """Give nodes and weights on (0, 1) of the Gauss-Legendre rules of 1..largest points, a row each."""
    nodes, weights = np.zeros((largest + 1, largest)), np.zeros((largest + 1, largest))
    for order in range(1, largest + 1):
        x, w = np.polynomial.legendre.leggauss(order)
        nodes[order, :order], weights[order, :order] = (x + 1) / 2, w / 2
    return nodes, weights
