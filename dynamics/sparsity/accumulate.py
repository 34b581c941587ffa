"""Accumulate counts and sums over pairs of tensors, in one multi-threaded pass over chunks.

Memory use is threads x chunk size, independent of the size of the model. Chunk boundaries within a tensor are fixed and chunks are added
in order, so results do not depend on the number of threads or on the sharding of the files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped, UInt8, UInt16

from dynamics.checkpoints.decoding import widen_bfloat16
from dynamics.checkpoints.digests import key
from dynamics.checkpoints.matching import Pair
from dynamics.checkpoints.tensor import Tensor
from dynamics.io.threads import Progress, cores, in_order
from dynamics.sparsity import finite, kernels
from dynamics.sparsity.definitions import DEFAULT_THRESHOLDS, Thresholds
from dynamics.sparsity.masks import bit_patterns, comparable, compares_as_integers

#: bytes per chunk and side: large enough to make Python's overhead small, small enough for the shared cache
CHUNK = 1 << 21
#: bytes of both sides that are read at a time: what is read stays in the cache of the core until it is compared
PIECE = 1 << 19
BINS = len(kernels.ULP_BIN_EDGES)


@dataclass
class DiffStats:
    """Counts and sums over a set of weights. The statistics of disjoint sets can be added.

    Attributes
    ----------
    counts : number of weights, indexed by ``kernels.NUMEL``, ``EXACT``, ``BF16``, ``RTOL``, ``ATOL``, ``NONFINITE``.
    ulp_bins : histogram of the distance in bf16 steps, see ``kernels.ULP_BIN_EDGES``.
    sums : sums of a^2, b^2, (b - a)^2 and a (b - a), indexed by ``kernels.BASE``, ``TUNED``, ``UPDATE``, ``CROSS``.
    peak : the largest |b - a|.
    beyond_bf16 : number of weights that differ by more than ``Thresholds.bf16_atol`` after rounding to bf16.
    """

    counts: Int64[np.ndarray, 6] = field(default_factory=lambda: np.zeros(6, np.int64))
    ulp_bins: Int64[np.ndarray, " bins"] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sums: Float64[np.ndarray, 4] = field(default_factory=lambda: np.zeros(4))
    peak: Float64[np.ndarray, 1] = field(default_factory=lambda: np.zeros(1))
    beyond_bf16: int = 0

    def __iadd__(self, other: DiffStats) -> DiffStats:
        """Add the statistics of other weights."""
        self.counts += other.counts
        self.ulp_bins += other.ulp_bins
        self.sums += other.sums
        np.maximum(self.peak, other.peak, out=self.peak)
        self.beyond_bf16 += other.beyond_bf16
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and sums as plain numbers, from which ``from_dict`` makes the same statistics."""
        arrays = {name: getattr(self, name).tolist() for name in ("counts", "ulp_bins", "sums", "peak")}
        return arrays | {"beyond_bf16": self.beyond_bf16}

    @staticmethod
    def from_dict(document: dict[str, Any]) -> DiffStats:
        """Make the statistics of which ``to_dict`` returned the numbers; a ValueError for other values."""
        stats = DiffStats(beyond_bf16=document["beyond_bf16"])
        for name in ("counts", "ulp_bins", "sums", "peak"):
            array, values = getattr(stats, name), document[name]
            if len(values) != array.size:
                raise ValueError(f"{name} has {len(values)} numbers, not {array.size}")
            array[:] = values
        return stats


@dataclass(frozen=True)
class Chunk:
    """Some weights of a tensor of the base, and of tensors that are compared with it, while they are in memory.

    Attributes
    ----------
    start, stop : range of elements of the flattened tensors.
    base : ``(stop - start,)``, as stored; overwritten when the callback has returned.
    tuned : index of a pair (of ``compare_all``: of a tuned checkpoint), the pair, and the same of its other side. That is ``base`` itself
        if both sides are the same bytes.
    """

    start: int
    stop: int
    base: Shaped[np.ndarray, " n"]
    tuned: list[tuple[int, Pair, Shaped[np.ndarray, " n"]]]


#: called with each chunk on the thread that read it; what it returns is called on the calling thread, in the order of the chunks
Seen = Callable[[Chunk], Callable[[], object]]


def total(stats_of_pairs: Iterable[DiffStats]) -> DiffStats:
    """Add up statistics, in their order."""
    every = list(stats_of_pairs)
    if not every:
        return DiffStats()
    counts, bins, sums = (np.add.reduce([getattr(stats, name) for stats in every]) for name in ("counts", "ulp_bins", "sums"))
    peak = np.maximum.reduce([stats.peak for stats in every])
    return DiffStats(counts, bins, sums, peak, sum(stats.beyond_bf16 for stats in every))


def accumulate_pairs(
    pairs: Sequence[Pair],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    threads: int | None = None,
    progress: Progress | None = None,
    chunk: int = CHUNK,
    seen: Seen | None = None,
    of: Collection[int] = (),
) -> list[DiffStats]:
    """Accumulate the statistics of each pair of tensors, in order.

    Parameters
    ----------
    pairs : tensors to compare, of one size where they share a tensor. Such pairs are compared together, so that each tensor is read once.
    thresholds : of the rules ``rtol`` and ``atol``.
    threads : number of threads; one per core if None.
    progress : called with (weights done, total weights) from this thread.
    chunk : bytes per chunk of the wider side. It does not affect counts, and sums only in their last digits.
    seen : what else is done with the weights while they are in memory.
    of : indices of the pairs that ``seen`` gets; each of their tensors takes a chunk of memory per thread.
    """
    threads = threads or cores()
    results: list[DiffStats | None] = [None] * len(pairs)
    weights = sum(pair.base.numel for pair in pairs)
    weights_done = 0
    worker = _Worker(thresholds, chunk, seen, frozenset(of))
    if progress:
        progress(0, weights)
    with ThreadPoolExecutor(threads) as pool:
        for spans, done in in_order(pool, worker, _batches(_spans(pairs, chunk), chunk), ahead=4 * threads):
            for (indices, members, start, stop), (stats_of_pairs, finish) in zip(spans, done, strict=True):
                for index, parts in zip(indices, stats_of_pairs, strict=True):
                    for stats in parts:
                        before = results[index]
                        results[index] = stats if before is None else before.__iadd__(stats)
                weights_done += len(members) * (stop - start)
                if finish is not None:
                    finish()
            if progress:
                progress(weights_done, weights)
    return [stats or DiffStats() for stats in results]  # an empty tensor has no part


#: indices of pairs that share tensors, the pairs, and the range of elements
Span = tuple[list[int], list[Pair], int, int]


def _spans(pairs: Sequence[Pair], chunk: int) -> Iterator[Span]:
    for indices in _sharing(pairs):
        members = [pairs[index] for index in indices]
        numel, length = members[0].base.numel, max(_length(pair, chunk) for pair in members)
        for start in range(0, numel, length):
            yield indices, members, start, min(start + length, numel)


def _sharing(pairs: Sequence[Pair]) -> list[list[int]]:
    """Group the indices of pairs that share a tensor on any side, directly or by others: each tensor is in one group, and is read once."""
    root: dict[Hashable, Hashable] = {}

    def find(name: Hashable) -> Hashable:
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    names = [(key(pair.base), key(pair.tuned)) for pair in pairs]
    for sides in names:
        for side in sides:
            root.setdefault(side, side)
        base, tuned = map(find, sides)
        root[tuned] = base
    groups: dict[Hashable, list[int]] = {}
    for index, (base, _) in enumerate(names):
        groups.setdefault(find(base), []).append(index)
    return list(groups.values())


def _batches(spans: Iterable[Span], chunk: int) -> Iterator[tuple[list[Span]]]:
    """Put spans together up to half as many weights as a chunk has bytes: handing small ones over takes longer than comparing them."""
    batch: list[Span] = []
    weights = 0
    for span in spans:
        batch.append(span)
        weights += span[3] - span[2]
        if 2 * weights >= chunk:
            yield (batch,)
            batch, weights = [], 0
    if batch:
        yield (batch,)


def _length(pair: Pair, chunk: int) -> int:
    """Return the number of elements of a pair that are accumulated at a time; of two pairs, one divides the other if ``CHUNK`` is used."""
    return max(kernels.BLOCK, chunk // max(pair.base.storage.itemsize, pair.tuned.storage.itemsize))


class _Worker(threading.local):
    """Reads and accumulates one span of pairs that share tensors, with a buffer for each tensor per thread."""

    def __init__(self, thresholds: Thresholds, chunk: int, seen: Seen | None, of: frozenset[int]):
        self.thresholds, self.chunk, self.seen, self.of = thresholds, chunk, seen, of
        self.buffers: list[UInt8[np.ndarray, " size"]] = []
        self.tallies: dict[tuple[str, str], Tally] = {}

    def __call__(self, batch: tuple[list[Span]]) -> list[tuple[list[list[DiffStats]], Callable[[], object] | None]]:
        """Do each span of a batch."""
        return [self._one(span) for span in batch[0]]

    def _one(self, span: Span) -> tuple[list[list[DiffStats]], Callable[[], object] | None]:
        """Return the statistics of each pair, in parts whose sizes depend on the pair only, and what is to be done in order."""
        indices, pairs, start, stop = span
        results: list[list[DiffStats]] = [[] for _ in pairs]
        wanted = self.seen is not None and not self.of.isdisjoint(indices)
        size = max(pair.base.storage.itemsize + pair.tuned.storage.itemsize for pair in pairs)
        piece = stop - start if wanted else max(kernels.BLOCK, PIECE // size // kernels.BLOCK * kernels.BLOCK)
        kept: dict[Hashable, Chunk] = {}
        for first in range(start, stop, piece):
            last = min(first + piece, stop)
            here: dict[Hashable, Shaped[np.ndarray, " n"]] = {}
            for index, pair, parts in zip(indices, pairs, results, strict=True):
                a = self._stored(pair.base, first, last, here)
                b = pair.tuned.beside(pair.base, a, first)
                b = self._stored(pair.tuned, first, last, here) if b is None else b
                self._add(parts, pair, a, b, first - start)
                if wanted and index in self.of:
                    kept.setdefault(key(pair.base), Chunk(start, stop, a, [])).tuned.append((index, pair, b))
        steps = [self.seen(chunk) for chunk in kept.values()] if self.seen is not None else []
        return results, (lambda: [step() for step in steps]) if steps else None

    def _add(self, parts: list[DiffStats], pair: Pair, a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"], offset: int) -> None:
        """Add elements that begin ``offset`` elements after the span to the parts of a pair."""
        dtypes = (pair.base.dtype, pair.tuned.dtype)
        if dtypes not in self.tallies:
            self.tallies[dtypes] = Tally(*dtypes, self.thresholds)
        length, at = _length(pair, self.chunk), 0
        while at < a.size:
            before = (offset + at) % length
            if not before:
                parts.append(DiffStats())
            end = min(a.size, at + length - before)
            x = a[at:end]
            self.tallies[dtypes].add(parts[-1], x, x if b is a else b[at:end])
            at = end

    def _stored(self, tensor: Tensor, start: int, stop: int, here: dict[Hashable, Shaped[np.ndarray, " n"]]) -> Shaped[np.ndarray, " n"]:
        """Read elements of a tensor, unless they are ``here``."""
        name = key(tensor)
        if name not in here:
            which, size = len(here), (stop - start) * tensor.storage.itemsize
            if which == len(self.buffers):
                self.buffers.append(np.empty(0, np.uint8))
            if self.buffers[which].size < size:
                self.buffers[which] = aligned(size)
            here[name] = tensor.read(start, stop, self.buffers[which][:size].view(tensor.storage))
        return here[name]


def aligned(size: int) -> UInt8[np.ndarray, " size"]:
    """Return memory that begins at a cache line."""
    room = np.empty(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size]


class Tally:
    """Adds pairs of stored values of two dtypes to statistics.

    Values are compared in the narrowest of bfloat16, float32 and float64 that represents both sides exactly. 64-bit integers are compared
    as integers, and are converted to float64 for the norms.

    Parameters
    ----------
    dtype_a, dtype_b : stored dtypes, by their names in torch.
    thresholds : of the rules ``rtol`` and ``atol``.
    """

    def __init__(self, dtype_a: str, dtype_b: str, thresholds: Thresholds = DEFAULT_THRESHOLDS):
        self.dtypes, self.thresholds = (dtype_a, dtype_b), thresholds
        self.converts = not dtype_a == dtype_b == "bfloat16"
        self.room = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self.integers = compares_as_integers(dtype_a, dtype_b)

    def add(self, stats: DiffStats, a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"]) -> None:
        """Add two flat arrays of stored values, ``(n,)`` each; see ``masks.comparable``."""
        if self.converts and self.room[0].size < 8 * a.size:
            self.room = [aligned(8 * a.size), aligned(8 * a.size)]
        x, y = comparable(a, self.dtypes[0], b, self.dtypes[1], self.room if self.converts else None)
        rtol, atol = self.thresholds.rtol, self.thresholds.atol
        add, add_others = ADDED_BY[x.dtype.type]
        within = finite.limits(rtol, atol, x.dtype != np.float64)
        arrays = (stats.counts, stats.ulp_bins, stats.sums, stats.peak)
        exact = int(stats.counts[kernels.EXACT])
        done = add(x, y, rtol, atol, within, *arrays)
        while done < x.size:  # the next block has values that ``finite`` leaves out
            last = min(x.size, done + kernels.BLOCK)
            add_others(x[done:last], y[done:last], self.thresholds, stats)
            done = last + add(x[last:], y[last:], rtol, atol, within, *arrays)
        if self.integers:
            stats.counts[kernels.EXACT] = exact + np.count_nonzero(a != b)
        if self.thresholds.bf16_atol is not None:
            stats.beyond_bf16 += int(kernels.beyond_bfloat16(_bf16_bits(x), _bf16_bits(y), self.thresholds.bf16_atol))


def _add_floats(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], thresholds: Thresholds, stats: DiffStats) -> None:
    """Add float32 or float64 values, of which some are not finite, to the statistics."""
    bits_x, exponent, magnitude = bit_patterns(x)
    arrays = (stats.counts, stats.ulp_bins, stats.sums, stats.peak)
    kernels.accumulate_float(x, y, bits_x, bit_patterns(y)[0], exponent, magnitude, thresholds.rtol, thresholds.atol, *arrays)


def _add_bfloat16(x: UInt16[np.ndarray, " n"], y: UInt16[np.ndarray, " n"], thresholds: Thresholds, stats: DiffStats) -> None:
    """Add bf16 bit patterns, of which some are not finite, to the statistics."""
    wide, own = np.empty((2, x.size), np.float32), DiffStats()
    for bits, values in zip((x, y), wide, strict=True):
        widen_bfloat16(bits, values)
    _add_floats(wide[0], wide[1], thresholds, own)
    own.counts[kernels.BF16] = own.counts[kernels.EXACT]  # rounding makes a signalling NaN a quiet one, but nothing was rounded
    stats += own


#: dtype of the compared values -> what adds values up to the first block that is not finite, and what adds such a block
ADDED_BY: dict[type, tuple[Callable[..., int], Callable[..., None]]] = {
    np.uint16: (finite.accumulate_bfloat16, _add_bfloat16),
    np.float32: (finite.accumulate_float32, _add_floats),
    np.float64: (finite.accumulate_float64, _add_floats),
}


def accumulate_arrays(
    a: Shaped[np.ndarray, " n"],
    dtype_a: str,
    b: Shaped[np.ndarray, " n"],
    dtype_b: str,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> DiffStats:
    """Return the statistics of two flat arrays of stored values, ``(n,)`` each, as ``Tally`` adds them."""
    stats = DiffStats()
    Tally(dtype_a, dtype_b, thresholds).add(stats, a, b)
    return stats


def _bf16_bits(values: Shaped[np.ndarray, " n"]) -> UInt16[np.ndarray, " n"]:
    if values.dtype == np.uint16:
        return values
    bits = np.empty(values.size, np.uint16)
    kernels.round_to_bfloat16(values, bits)
    return bits
