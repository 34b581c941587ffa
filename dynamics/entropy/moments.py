"""Moments of softmax distributions: mergeable sums over the vocabulary, from which entropy, varentropy and surprisal follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics.errors import InputError
from dynamics.io.threads import cores

#: rows of logits per chunk
ROWS = 32


@dataclass
class SoftmaxMoments:
    """Moments of softmax rows over a part of the vocabulary, which can be merged; see ``dynamics.entropy.kernels``. (rows,) float64.

    With x = (logit - max) / temperature, and sums over all entries except one largest entry:

    Attributes
    ----------
    max : the largest logit.
    sum_exp : sum of exp(x).
    sum_x_exp : sum of x exp(x).
    sum_x2_exp : sum of x^2 exp(x).
    inverse_temperature : 1 / temperature.
    """

    max: Float[np.ndarray, " rows"]
    sum_exp: Float[np.ndarray, " rows"]
    sum_x_exp: Float[np.ndarray, " rows"]
    sum_x2_exp: Float[np.ndarray, " rows"]
    inverse_temperature: Float[np.ndarray, " rows"]

    def merge(self, other: SoftmaxMoments) -> SoftmaxMoments:
        """Merge the moments of two parts. The operation is associative: threads and tensor-parallel ranks can merge in any order."""
        swap = other.max > self.max
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("max", "sum_exp", "sum_x_exp", "sum_x2_exp")]
        larger = [np.where(swap, theirs, ours) for ours, theirs in pairs]
        smaller = [np.where(swap, ours, theirs) for ours, theirs in pairs]
        with np.errstate(invalid="ignore"):
            gap = (larger[0] - smaller[0]) * self.inverse_temperature
        gap = np.where(np.isneginf(smaller[0]), np.inf, gap)  # a part without any token adds nothing
        shrink = np.exp(-gap)
        step = np.where(np.isinf(gap), 0.0, gap)
        whole = 1 + smaller[1]
        sum_exp = larger[1] + shrink * whole
        sum_x_exp = larger[2] + shrink * (smaller[2] - step * whole)
        sum_x2_exp = larger[3] + shrink * (smaller[3] - 2 * step * smaller[2] + step * step * whole)
        broken = np.isnan(self.max) | np.isnan(other.max)
        merged = [np.where(broken, np.nan, values) for values in (larger[0], sum_exp, sum_x_exp, sum_x2_exp)]
        return SoftmaxMoments(merged[0], merged[1], merged[2], merged[3], self.inverse_temperature)

    @property
    def entropy(self) -> Float[np.ndarray, " rows"]:
        """Entropy of the distribution, in nats."""
        return self._known(np.log1p(self.sum_exp) - self.sum_x_exp / (1 + self.sum_exp))

    @property
    def varentropy(self) -> Float[np.ndarray, " rows"]:
        """Variance of -log p under the distribution, in nats^2."""
        mean = self.sum_x_exp / (1 + self.sum_exp)
        return self._known(np.maximum(self.sum_x2_exp / (1 + self.sum_exp) - mean * mean, 0.0))

    @property
    def logsumexp(self) -> Float[np.ndarray, " rows"]:
        """Log of the sum of exp(logits / temperature)."""
        return self._known(self.max * self.inverse_temperature + np.log1p(self.sum_exp))

    def surprisal(self, target_logits: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Compute -log p of the tokens with these logits; infinite for a token that is masked."""
        with np.errstate(invalid="ignore"):
            return self._known(np.log1p(self.sum_exp) - (target_logits - self.max) * self.inverse_temperature)

    def _known(self, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        return np.where(np.isfinite(self.max), values, np.nan)


def softmax_moments(
    rows: Shaped[np.ndarray, "rows vocabulary"], temperatures: Float[np.ndarray, " rows"], threads: int | None = None
) -> SoftmaxMoments:
    """Compute the moments of rows of logits.

    Parameters
    ----------
    rows : (rows, vocabulary) logits of float16, bfloat16, float32 or float64, or the bits of bfloat16 as int16.
    temperatures : (rows,), above 0.
    threads : number of threads; one per core if None.
    """
    return moments_and_counts(rows, temperatures, np.full(len(rows), np.nan), threads)[0]


def moments_and_counts(
    rows: Shaped[np.ndarray, "rows vocabulary"],
    temperatures: Float[np.ndarray, " rows"],
    values: Float[np.ndarray, " rows"],
    threads: int | None = None,
) -> tuple[SoftmaxMoments, Int[np.ndarray, " rows"]]:
    """Compute the moments of rows of logits, and count the logits of each row above one of them, its entry of ``values``.

    Parameters
    ----------
    rows, temperatures, threads : see ``softmax_moments``.
    values : (rows,) logits, which are numbers of the dtype of ``rows``; NaN for a row whose count does not matter.
    """
    from dynamics.entropy import kernels  # compiles, so it is imported when first needed

    out, above = np.empty((len(rows), 4)), np.zeros(len(rows), np.int64)
    inverse = 1 / temperatures

    def summarise(part: slice) -> None:
        bits = bits_of(rows[part])
        kernels.summarise(bits, inverse[part], _bits_like(values[part], bits), out[part], above[part])

    on_threads(len(rows), summarise, threads)
    moments = SoftmaxMoments(
        max=out[:, kernels.MAX],
        sum_exp=out[:, kernels.SUM_EXP],
        sum_x_exp=out[:, kernels.SUM_X_EXP],
        sum_x2_exp=out[:, kernels.SUM_X2_EXP],
        inverse_temperature=inverse,
    )
    return moments, above


def merge_moments(parts: Sequence[SoftmaxMoments]) -> SoftmaxMoments:
    """Merge the moments of a vocabulary that is split over ``parts``, for example over tensor-parallel ranks."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


def count_above(
    rows: Shaped[np.ndarray, "rows vocabulary"], values: Float[np.ndarray, " rows"], threads: int | None
) -> Int[np.ndarray, " rows"]:
    """Count the logits of each row above one of them, its entry of ``values``."""
    from dynamics.entropy import kernels

    above = np.zeros(len(rows), np.int64)

    def count(part: slice) -> None:
        bits = bits_of(rows[part])
        kernels.count_above(bits, _bits_like(values[part], bits), above[part])

    on_threads(len(rows), count, threads)
    return above


def bits_of(logits: Shaped[np.ndarray, " ..."]) -> Int[np.ndarray, " ..."]:
    """Return the bits of logits as signed integers, for the kernels: of bfloat16 as int16, of float32 (also for float16) and float64."""
    if logits.dtype == np.int16 or logits.dtype.name == "bfloat16":
        return np.ascontiguousarray(logits).view(np.int16)
    if logits.dtype.kind != "f":
        raise InputError(f"logits of dtype {logits.dtype}: expected floating point")
    wide = np.ascontiguousarray(logits if logits.dtype in (np.float32, np.float64) else logits.astype(np.float32))
    return wide.view(np.int32 if wide.dtype == np.float32 else np.int64)


def _bits_like(values: Float[np.ndarray, " rows"], bits: Int[np.ndarray, "rows vocabulary"]) -> Int[np.ndarray, " rows"]:
    """Return the bits of numbers in the dtype that ``bits`` are of."""
    if bits.dtype == np.int16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    return bits_of(values.astype(np.float32 if bits.dtype == np.int32 else np.float64))


def on_threads(count: int, work: Callable[[slice], None], threads: int | None = None) -> None:
    """Apply ``work`` to slices of ``ROWS`` rows, ``count`` rows in total, on ``threads`` threads (one per core if None)."""
    parts = [slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]
    workers = min(len(parts), threads or cores())
    if workers < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, parts))
