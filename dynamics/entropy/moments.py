"""Moments of softmax distributions: mergeable sums over the vocabulary, from which entropy, varentropy and surprisal follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics.errors import InputError
from dynamics.io.threads import cores

#: rows of logits per chunk, at least
ROWS = 32
#: logits per call of a kernel, at least
LOGITS = 1 << 18


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


class Columns(NamedTuple):
    """Statistics of tokens, (rows,) each, or (rows, top) of the most likely tokens; see ``dynamics.entropy.logits.TokenStats``."""

    entropy: Float[np.ndarray, " rows"]
    varentropy: Float[np.ndarray, " rows"]
    logsumexp: Float[np.ndarray, " rows"]
    surprisal: Float[np.ndarray, " rows"] | None = None
    rank: Int[np.ndarray, " rows"] | None = None
    top_ids: Int[np.ndarray, "rows top"] | None = None
    top_logits: Float[np.ndarray, "rows top"] | None = None

    @classmethod
    def of(
        cls,
        moments: SoftmaxMoments,
        targets: Int[np.ndarray, " rows"] | None = None,
        target_logits: Float[np.ndarray, " rows"] | None = None,
        above: Int[np.ndarray, " rows"] | None = None,
        largest: Largest | None = None,
    ) -> Columns:
        """Return the columns; ``above`` is the number of logits above that of the target, or None for no rank."""
        columns = cls(moments.entropy, moments.varentropy, moments.logsumexp)
        if targets is not None and target_logits is not None:
            columns = columns._replace(surprisal=np.where(targets >= 0, moments.surprisal(target_logits), np.nan))
            if above is not None:
                columns = columns._replace(rank=np.where((targets >= 0) & np.isfinite(moments.max), above + 1, 0))
        return columns if largest is None else columns._replace(top_ids=largest.ids, top_logits=largest.logits)


@dataclass
class Counts:
    """How many logits of each row are above one of them, which lies between two limits; (rows,) each, but for ``near``.

    Attributes
    ----------
    low, high : the limits, in the dtype of the logits; NaN for a row that is not counted.
    above : number of logits above ``high``.
    near : (rows, room) keys of logits above ``low`` and not above ``high``; see ``dynamics.entropy.kernels``.
    near_counts : how many there are, also of those without room.
    """

    low: Float[np.ndarray, " rows"]
    high: Float[np.ndarray, " rows"]
    above: Int[np.ndarray, " rows"]
    near: Int[np.ndarray, "rows room"]
    near_counts: Int[np.ndarray, " rows"]

    @classmethod
    def between(cls, low: Float[np.ndarray, " rows"], high: Float[np.ndarray, " rows"], room: int = 0) -> Counts:
        """Begin to count, with room for as many logits near those that others are compared with."""
        return cls(low, high, np.zeros(len(low), np.int64), np.zeros((len(low), room), np.int32), np.zeros(len(low), np.int64))

    @classmethod
    def above_known(cls, values: Float[np.ndarray, " rows"]) -> Counts:
        """Begin to count the logits above these, which are known."""
        return cls.between(values, values)


@dataclass
class Largest:
    """The largest logits of each row.

    Attributes
    ----------
    keys : (rows, count) keys of float32 logits in descending order.
    ids : (rows, count) their token ids.
    """

    keys: Int[np.ndarray, "rows count"]
    ids: Int[np.ndarray, "rows count"]

    @classmethod
    def of(cls, rows: int, count: int) -> Largest:
        """Begin without any."""
        return cls(np.full((rows, count), np.iinfo(np.int32).min, np.int32), np.zeros((rows, count), np.int64))

    @property
    def logits(self) -> Float[np.ndarray, "rows count"]:
        """The logits."""
        return logits_of(self.keys)


def softmax_moments(
    rows: Shaped[np.ndarray, "rows vocabulary"],
    temperatures: Float[np.ndarray, " rows"],
    threads: int | None = None,
    counts: Counts | None = None,
    largest: Largest | None = None,
    first: int = 0,
    pool: ThreadPoolExecutor | None = None,
) -> SoftmaxMoments:
    """Compute the moments of rows of logits, and look through the logits for what else is wanted.

    Parameters
    ----------
    rows : (rows, vocabulary) logits of float16, bfloat16, float32 or float64, or the bits of bfloat16 as int16.
    temperatures : (rows,), above 0.
    threads : number of threads; one per core if None.
    counts, largest : what these logits are added to.
    first : token id of the first column.
    pool : as many threads, instead of new ones.
    """
    from dynamics.entropy import kernels  # compiles, so it is imported when first needed

    count = len(rows)
    counts = Counts.above_known(np.full(count, np.nan)) if counts is None else counts
    largest = Largest.of(count, 0) if largest is None else largest
    out, inverse = np.empty((count, 4)), 1 / temperatures

    def summarise(part: slice) -> None:
        bits = bits_of(rows[part])
        low, high = (bits_like(values[part], bits) for values in (counts.low, counts.high))
        near = counts.above[part], counts.near[part], counts.near_counts[part]
        kernels.summarise(bits, inverse[part], low, high, out[part], *near, first, largest.keys[part], largest.ids[part])

    on_threads(count, summarise, threads, max(ROWS, LOGITS // rows.shape[1]), pool)
    return SoftmaxMoments(
        max=out[:, kernels.MAX],
        sum_exp=out[:, kernels.SUM_EXP],
        sum_x_exp=out[:, kernels.SUM_X_EXP],
        sum_x2_exp=out[:, kernels.SUM_X2_EXP],
        inverse_temperature=inverse,
    )


def merge_moments(parts: Sequence[SoftmaxMoments]) -> SoftmaxMoments:
    """Merge the moments of a vocabulary that is split over ``parts``, for example over tensor-parallel ranks."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


def bits_of(logits: Shaped[np.ndarray, " ..."]) -> Int[np.ndarray, " ..."]:
    """Return the bits of logits as signed integers, for the kernels: of bfloat16 as int16, of float32 (also for float16) and float64."""
    if logits.dtype == np.int16 or logits.dtype.name == "bfloat16":
        return np.ascontiguousarray(logits).view(np.int16)
    if logits.dtype.kind != "f":
        raise InputError(f"logits of dtype {logits.dtype}: expected floating point")
    wide = np.ascontiguousarray(logits if logits.dtype in (np.float32, np.float64) else logits.astype(np.float32))
    return wide.view(np.int32 if wide.dtype == np.float32 else np.int64)


def bits_like(values: Float[np.ndarray, " rows"], bits: Int[np.ndarray, "rows vocabulary"]) -> Int[np.ndarray, " rows"]:
    """Return the bits of numbers in the dtype that ``bits`` are of."""
    if bits.dtype == np.int16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    return bits_of(values.astype(np.float32 if bits.dtype == np.int32 else np.float64))


def logits_of(keys: Int[np.ndarray, "rows count"]) -> Float[np.ndarray, "rows count"]:
    """Return the float32 logits with these keys of the kernels."""
    return (keys ^ ((keys >> 31) & np.iinfo(np.int32).max)).view(np.float32)


def on_threads(
    count: int, work: Callable[[slice], None], threads: int | None = None, rows: int = ROWS, pool: ThreadPoolExecutor | None = None
) -> None:
    """Apply ``work`` to slices of ``rows`` rows, ``count`` rows in total, on ``threads`` threads (None: one per core), or of a pool."""
    parts = [slice(start, min(start + rows, count)) for start in range(0, count, rows)]
    workers = min(len(parts), threads or cores())
    if workers < 2:
        for part in parts:
            work(part)
        return
    with nullcontext(pool) if pool else ThreadPoolExecutor(workers) as chosen:
        list(chosen.map(work, parts))
