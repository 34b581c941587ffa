"""From pairs of lazy tensors to counts and sums: one pass over the bytes, chunk by chunk, on threads.

Memory is threads x chunk, whatever the size of the model. Chunks are cut within a tensor at fixed places and added up in their order, so
no number depends on how many threads ran or on how the files are sharded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from dynamics.checkpoints.matching import Pair
from dynamics.checkpoints.tensor import Tensor
from dynamics.io.threads import Progress, cores, in_order
from dynamics.sparsity import kernels
from dynamics.sparsity.definitions import DEFAULT_THRESHOLDS, Thresholds, bit_patterns, comparable, compares_as_integers

#: bytes a chunk, a side: long enough that Python's share of the time is small, short enough for the shared cache
CHUNK = 1 << 21
BINS = len(kernels.STEP_EDGES)


@dataclass
class Tally:
    """Counts and sums over some weights; tallies of disjoint sets of weights add."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(6, np.int64))
    bins: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))
    peak: np.ndarray = field(default_factory=lambda: np.zeros(1))
    beyond_bf16: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.counts += other.counts
        self.bins += other.bins
        self.sums += other.sums
        np.maximum(self.peak, other.peak, out=self.peak)
        self.beyond_bf16 += other.beyond_bf16
        return self


def total(tallies: Iterable[Tally]) -> Tally:
    result = Tally()
    for tally in tallies:
        result += tally
    return result


def tally_pairs(
    pairs: Sequence[Pair],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    threads: int | None = None,
    progress: Progress | None = None,
    chunk: int = CHUNK,
) -> list[Tally]:
    """One tally a pair, in the order given.

    Parameters
    ----------
    threads : how many chunks are in work at once; None for one a core.
    progress : called with (weights done, weights in all) from this thread.
    chunk : bytes read at once of the wider side. Does not move counts; sums only in the last digits.
    """
    threads = threads or cores()
    results = [Tally() for _ in pairs]
    weights = sum(pair.base.numel for pair in pairs)
    done = 0
    worker = _Worker(thresholds, chunk)
    if progress:
        progress(0, weights)
    with ThreadPoolExecutor(threads) as pool:
        for index, tally in in_order(pool, worker, _spans(pairs, chunk), ahead=4 * threads):
            results[index] += tally
            done += int(tally.counts[kernels.NUMEL])
            if progress:
                progress(done, weights)
    return results


Span = tuple[int, Pair, int, int]


def _spans(pairs: Sequence[Pair], chunk: int) -> Iterator[Span]:
    for index, pair in enumerate(pairs):
        length = max(kernels.BLOCK, chunk // max(pair.base.storage.itemsize, pair.tuned.storage.itemsize))
        for start in range(0, pair.base.numel, length):
            yield index, pair, start, min(start + length, pair.base.numel)


class _Worker(threading.local):
    """Reads and tallies one span; keeps a pair of buffers for each thread that runs it."""

    def __init__(self, thresholds: Thresholds, chunk: int):
        self.thresholds = thresholds
        self.buffers = np.empty((2, max(chunk, 8 * kernels.BLOCK)), np.uint8)

    def __call__(self, span: Span) -> Tally:
        _, pair, start, stop = span
        a = self._stored(pair.base, start, stop, 0)
        same = pair.base.source is not None and pair.base.source == pair.tuned.source
        b = a if same else self._stored(pair.tuned, start, stop, 1)
        return tally_arrays(a, pair.base.dtype, b, pair.tuned.dtype, self.thresholds)

    def _stored(self, tensor: Tensor, start: int, stop: int, which: int) -> np.ndarray:
        return tensor.read(start, stop, self.buffers[which].view(tensor.storage)[: stop - start])


def tally_arrays(a: np.ndarray, dtype_a: str, b: np.ndarray, dtype_b: str, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Tally:
    """Tally two flat arrays of stored values, ``(n,)`` each, given their dtypes (bfloat16 as uint16; see ``checkpoints.tensor.STORAGE``).

    Values are compared in the narrowest of bfloat16, float32 and float64 that holds both sides exactly; 64-bit integers are compared
    as such and enter the norms as float64.
    """
    tally = Tally()
    out = (tally.counts, tally.bins, tally.sums, tally.peak)
    x, y = comparable(a, dtype_a, b, dtype_b)
    if x.dtype == np.uint16:
        kernels.tally_bfloat16(x, y, a is b, thresholds.rtol, thresholds.atol, *out)
    else:
        bits_x, exponent, magnitude = bit_patterns(x)
        kernels.tally_float(x, y, bits_x, bit_patterns(y)[0], exponent, magnitude, a is b, thresholds.rtol, thresholds.atol, *out)
        if compares_as_integers(dtype_a, dtype_b):
            tally.counts[kernels.EXACT] = np.count_nonzero(a != b)
    if thresholds.bf16_atol is not None:
        tally.beyond_bf16 = int(kernels.beyond_bfloat16(_bf16_bits(x), _bf16_bits(y), thresholds.bf16_atol))
    return tally


def _bf16_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint16:
        return values
    bits = np.empty(values.size, np.uint16)
    kernels.round_to_bfloat16(values, bits)
    return bits
