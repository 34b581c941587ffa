"""Compiled kernels for blocks of finite values, which nearly all blocks are: the same numbers as ``kernels``, in fewer instructions.

A block is left to ``kernels`` if a value of it is NaN or infinity, or differs by more than float32 holds. What makes the others fast:

* Integers stay as narrow as they are: numba widens a sum of two 32-bit integers, which halves how many fit into a vector.
* The loops use the widest vectors that the processor has; LLVM alone prefers half as wide ones.
* Differences are also taken in float32, which holds twice as many in a vector, and compared with a limit just below and one just above
  each threshold. Where the two counts agree, no rounding can have mattered. Where they do not, the block is counted in float64.
* The largest difference is looked for in float64 only in blocks that may hold it, by their largest difference in float32.
* The sum of tuned^2 is base^2 + 2 base d + d^2, summed, if d is small against base: then nothing cancels.

Distances, counts and sums are those of ``kernels``, whose docstring says how exact they are.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dynamics.numba_functions import compiled, wide_vectors
from dynamics.sparsity.kernels import (
    ATOL,
    BASE,
    BF16,
    BLOCK,
    CROSS,
    EXACT,
    NUMEL,
    RTOL,
    SMALLEST_BF16_GAP,
    TUNED,
    ULP_BIN_EDGES,
    UPDATE,
    beyond_relative,
    largest_and_beyond,
    sum_squares,
)

#: bits of infinity in float32; those of larger magnitudes are NaN
INFINITY = np.int32(0x7F800000)
#: bits that float32 has below those of bfloat16, if the value lies halfway between two of these
HALFWAY = np.uint32(0x8000)
#: no two bf16 values are so many steps apart
FARTHEST = 65535
#: values of a block of float64, which is half as long: what is computed of it must fit into the cache as well
NARROW = BLOCK // 2
#: room of the histogram, which is filled four bins at a time
ROOM = len(ULP_BIN_EDGES) + 3
#: relative room between a threshold and its limits in float32: several times its rounding; and the same for values that are tiny
SLACK, TINY = 2.0**-20, np.float32(2.0**-126)


@lru_cache(maxsize=64)
def limits(rtol: float, atol: float, single: bool) -> np.ndarray:
    """Return what differences in float32 are compared with, ``(4,)`` float32: below and above ``atol``, factors below and above ``rtol``.

    Parameters
    ----------
    rtol, atol : of ``definitions.Thresholds``.
    single : whether the values themselves are float32, so that a difference is 0 only if they are equal.
    """
    with np.errstate(over="ignore"):
        nearest = np.float32(atol)
        under = np.nextafter(nearest, np.float32(0)) if nearest > atol else nearest
        if single and under == 0:
            low = high = np.float32(0)
        else:
            low, high = np.nextafter(under, np.float32(-np.inf)), np.nextafter(under, np.float32(np.inf))
        return np.array([low, high, rtol * (1 - SLACK), rtol * (1 + SLACK)], np.float32)


@compiled
def _scratch(size):
    """Return a float32 array that begins at a cache line: half of the stores of 64 bytes to another one would touch two lines."""
    room = np.empty(size + 16, np.float32)
    first = (64 - room.ctypes.data % 64) % 64 // 4
    return room[first : first + size]


@compiled
def _rounded(word):
    """Round the bits of a float32 value to those of bf16, to nearest, ties to even."""
    half = np.uint32(np.uint32(0x7FFF) + np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(1)))
    return np.uint32(np.uint32(word + half) >> np.uint32(16))


@compiled
def _steps(values_a, values_b, steps):
    """Fill ``steps`` with the distances in bf16 steps between float32 values, rounded to bf16, and return the largest distance."""
    wide_vectors()
    words_a = values_a.view(np.uint32)
    words_b = values_b.view(np.uint32)
    farthest = np.uint32(0)
    for i in range(steps.size):
        x = _rounded(words_a[i])
        y = _rounded(words_b[i])
        apart = np.uint32(max(x, y) - min(x, y))
        across = np.uint32(np.uint32(x & np.uint32(0x7FFF)) + np.uint32(y & np.uint32(0x7FFF)))
        step = across if np.uint32(x ^ y) >= np.uint32(0x8000) else apart
        steps[i] = np.uint16(step)
        farthest = max(farthest, step)
    return farthest


@compiled
def _steps_bfloat16(a, b, steps):
    """Fill ``steps`` with the distances in bf16 steps between bit patterns, and return the largest distance."""
    wide_vectors()
    farthest = np.uint16(0)
    for i in range(steps.size):
        x = a[i]
        y = b[i]
        apart = np.uint16(max(x, y) - min(x, y))
        across = np.uint16(np.uint16(x & np.uint16(0x7FFF)) + np.uint16(y & np.uint16(0x7FFF)))
        step = apart if np.int16(x ^ y) >= np.int16(0) else across
        steps[i] = step
        farthest = max(farthest, step)
    return farthest


@compiled
def _count_above(steps, edges):
    """Count the distances above each of four edges. A 16-bit counter cannot overflow in a block, and gives the widest vectors."""
    wide_vectors()
    edge_0, edge_1, edge_2, edge_3 = edges
    above_0 = np.uint16(0)
    above_1 = np.uint16(0)
    above_2 = np.uint16(0)
    above_3 = np.uint16(0)
    for i in range(steps.size):
        above_0 = np.uint16(above_0 + np.uint16(steps[i] > edge_0))
        above_1 = np.uint16(above_1 + np.uint16(steps[i] > edge_1))
        above_2 = np.uint16(above_2 + np.uint16(steps[i] > edge_2))
        above_3 = np.uint16(above_3 + np.uint16(steps[i] > edge_3))
    return np.int64(above_0), np.int64(above_1), np.int64(above_2), np.int64(above_3)


@compiled
def _add_to_histogram(steps, farthest, bins):
    """Add distances to ``bins``, ``(ROOM,)``, from the lowest bin up until no distance is left; return how many are not 0."""
    above = np.int64(steps.size)
    moved = 0
    bin = 0
    edge = 0  # upper end of the bin: 0, 1, 2, 4, 8, ...
    while edge < farthest:
        edge_1 = min(max(1, 2 * edge), FARTHEST)
        edge_2 = min(2 * edge_1, FARTHEST)
        edge_3 = min(2 * edge_2, FARTHEST)
        edges = (np.uint16(edge), np.uint16(edge_1), np.uint16(edge_2), np.uint16(edge_3))
        above_0, above_1, above_2, above_3 = _count_above(steps, edges)
        if bin == 0:
            moved = above_0
        bins[bin] += above - above_0
        bins[bin + 1] += above_0 - above_1
        bins[bin + 2] += above_1 - above_2
        bins[bin + 3] += above_2 - above_3
        above = above_3
        bin += 4
        edge = 2 * edge_3
    bins[bin] += above
    return moved


@compiled
def _add_sums(a, b, sums):
    """Add the sums of a^2, b^2, d^2 and a d, for d = b - a."""
    wide_vectors()
    base = 0.0
    update = 0.0
    cross = 0.0
    for i in range(a.size):
        x = np.float64(a[i])
        d = np.float64(b[i]) - x
        base += x * x
        update += d * d
        cross += x * d
    sums[BASE] += base
    sums[UPDATE] += update
    sums[CROSS] += cross
    sums[TUNED] += base + 2 * cross + update if 4 * update < base else sum_squares(b)


@compiled
def _add_equal(a, bins, sums):
    """Add values that are equal on both sides."""
    squares = sum_squares(a)
    bins[0] += a.size
    sums[BASE] += squares
    sums[TUNED] += squares


@compiled
def _add_differences(a, b, atol, largest, below, above, counts, peak):
    """Add to ``counts[ATOL]`` and ``peak``, given the largest difference in float32 as bits and how many pass the limits of ``atol``."""
    if below != above or np.int32(largest).view(np.float32) >= np.float32(peak[0]):
        farthest, beyond = largest_and_beyond(a, b, atol)
        peak[0] = max(peak[0], farthest)
        counts[ATOL] += beyond
    else:
        counts[ATOL] += np.int64(below)


@compiled
def _beyond_limits(a, b, differences, low, high, least):
    """Count the differences beyond two multiples of the larger magnitude of a float32 pair; ``least`` is the smallest lower limit."""
    wide_vectors()
    below = np.uint32(0)
    above = np.uint32(0)
    for i in range(a.size):
        size = max(abs(a[i]), abs(b[i]))
        below = np.uint32(below + np.uint32(differences[i] > max(np.float32(low * size - TINY), least)))
        above = np.uint32(above + np.uint32(differences[i] > np.float32(high * size + TINY)))
    return below, above


@compiled
def _spread(words_a, words_b, wide_a, wide_b, low, high):
    """Widen two bf16 patterns of each word to float32, half an array apart, and compare their differences with the limits of ``atol``.

    Returns the largest difference, as bits, and how many pass the lower and the upper limit.
    """
    wide_vectors()
    half = words_a.size
    out_a = wide_a.view(np.uint32)
    out_b = wide_b.view(np.uint32)
    largest = np.int32(0)
    below = np.uint32(0)
    above = np.uint32(0)
    for i in range(half):
        x = words_a[i]
        y = words_b[i]
        first_x = np.uint32(x << np.uint32(16))
        first_y = np.uint32(y << np.uint32(16))
        second_x = np.uint32(x & np.uint32(0xFFFF0000))
        second_y = np.uint32(y & np.uint32(0xFFFF0000))
        out_a[i] = first_x
        out_b[i] = first_y
        out_a[half + i] = second_x
        out_b[half + i] = second_y
        first = np.float32(abs(np.uint32(first_y).view(np.float32) - np.uint32(first_x).view(np.float32))).view(np.int32)
        second = np.float32(abs(np.uint32(second_y).view(np.float32) - np.uint32(second_x).view(np.float32))).view(np.int32)
        largest = max(largest, max(first, second))
        below = np.uint32(below + np.uint32(np.uint32(first > low) + np.uint32(second > low)))
        above = np.uint32(above + np.uint32(np.uint32(first > high) + np.uint32(second > high)))
    return largest, below, above


@compiled
def _subtract(a, b, differences, low, high):
    """Fill ``differences`` with |b - a| of float32 values; return the largest, as bits, how many pass each limit, how many are not 0."""
    wide_vectors()
    largest = np.int32(0)
    below = np.uint32(0)
    above = np.uint32(0)
    different = np.uint32(0)
    for i in range(a.size):
        d = np.float32(abs(b[i] - a[i]))
        differences[i] = d
        largest = max(largest, d.view(np.int32))
        below = np.uint32(below + np.uint32(d.view(np.int32) > low))
        above = np.uint32(above + np.uint32(d.view(np.int32) > high))
        different = np.uint32(different + np.uint32(a[i] != b[i]))
    return largest, below, above, np.int64(different)


@compiled
def accumulate_bfloat16(a, b, rtol, atol, limits, counts, bins, sums, peak):
    """Add bf16 bit patterns, ``(n,)`` uint16 each, to the statistics, up to the first block that is not finite; return how many were added.

    ``limits`` are those of the function of this name.
    """
    wide_vectors()
    steps = _scratch(BLOCK // 2).view(np.uint16)
    wide_a = _scratch(BLOCK)
    wide_b = _scratch(BLOCK)
    even_a = np.zeros(BLOCK, np.uint16)
    even_b = np.zeros(BLOCK, np.uint16)
    filled = np.zeros(ROOM, np.int64)
    low = limits[:2].view(np.int32)[0]
    high = limits[:2].view(np.int32)[1]
    done = 0
    for start in range(0, a.size, BLOCK):
        n = min(a.size, start + BLOCK) - start
        even = n + n % 2
        x = a[start : start + n]
        y = b[start : start + n]
        if n < even:  # a pair of zeros at its end changes no sum
            for i in range(n):
                even_a[i] = x[i]
                even_b[i] = y[i]
            words_a = even_a[:even].view(np.uint32)
            words_b = even_b[:even].view(np.uint32)
        else:
            words_a = x.view(np.uint32)
            words_b = y.view(np.uint32)
        largest, below, above = _spread(words_a, words_b, wide_a[:even], wide_b[:even], low, high)
        if largest >= INFINITY:
            break
        if largest == 0:
            _add_equal(wide_a[:even], filled, sums)
            filled[0] -= even - n
        else:
            farthest = _steps_bfloat16(x, y, steps[:n])
            moved = _add_to_histogram(steps[:n], farthest, filled)
            counts[BF16] += moved
            counts[EXACT] += moved
            counts[RTOL] += moved if rtol < SMALLEST_BF16_GAP else beyond_relative(wide_a[:even], wide_b[:even], rtol)
            _add_differences(wide_a[:even], wide_b[:even], atol, largest, below, above, counts, peak)
            _add_sums(wide_a[:even], wide_b[:even], sums)
        done += n
    counts[NUMEL] += done
    for bin in range(bins.size):
        bins[bin] += filled[bin]
    return done


@compiled
def accumulate_float32(a, b, rtol, atol, limits, counts, bins, sums, peak):
    """Add float32 values, ``(n,)`` each, to the statistics, up to the first block that is not finite; return how many were added.

    Arguments as in ``accumulate_bfloat16``.
    """
    wide_vectors()
    steps = _scratch(BLOCK // 2).view(np.uint16)
    differences = _scratch(BLOCK)
    filled = np.zeros(ROOM, np.int64)
    low = limits[:2].view(np.int32)[0]
    high = limits[:2].view(np.int32)[1]
    done = 0
    for start in range(0, a.size, BLOCK):
        n = min(a.size, start + BLOCK) - start
        x = a[start : start + n]
        y = b[start : start + n]
        d = differences[:n]
        largest, below, above, different = _subtract(x, y, d, low, high)
        if largest >= INFINITY:
            break
        if different == 0:
            _add_equal(x, filled, sums)
        else:
            counts[EXACT] += different
            _add_differences(x, y, atol, largest, below, above, counts, peak)
            below, above = _beyond_limits(x, y, d, limits[2], limits[3], np.float32(0))
            counts[RTOL] += np.int64(below) if below == above else beyond_relative(x, y, rtol)
            farthest = _steps(x, y, steps[:n])
            counts[BF16] += _add_to_histogram(steps[:n], farthest, filled)
            _add_sums(x, y, sums)
        done += n
    counts[NUMEL] += done
    for bin in range(bins.size):
        bins[bin] += filled[bin]
    return done


@compiled
def _narrow(a, b, single_a, single_b, differences):
    """Fill float32 arrays with float64 values a, b and |b - a|; return how many values differ."""
    wide_vectors()
    different = 0
    for i in range(a.size):  # two loops: LLVM gives up on showing that so many arrays do not overlap
        single_a[i] = np.float32(a[i])
        single_b[i] = np.float32(b[i])
    for i in range(a.size):
        differences[i] = np.float32(abs(b[i] - a[i]))
        different += np.int64(a[i] != b[i])
    return different


@compiled
def _survey(words_a, words_b, differences, low, high):
    """Return what there is in float32 values, as bits, and in their differences.

    Returns the largest of all magnitudes and the largest difference, as bits, how many differences pass each limit of ``atol``, and how
    many values lie halfway between two bf16 values.
    """
    wide_vectors()
    largest = np.int32(0)
    magnitude = np.uint32(0)
    below = np.uint32(0)
    above = np.uint32(0)
    halfway = np.uint32(0)
    for i in range(words_a.size):
        d = differences[i]
        x = np.uint32(words_a[i] & np.uint32(0x7FFFFFFF))
        y = np.uint32(words_b[i] & np.uint32(0x7FFFFFFF))
        largest = max(largest, d)
        magnitude = max(magnitude, max(x, y))
        below = np.uint32(below + np.uint32(d > low))
        above = np.uint32(above + np.uint32(d > high))
        tie_a = np.uint32(np.uint32(x & np.uint32(0xFFFF)) == HALFWAY)
        tie_b = np.uint32(np.uint32(y & np.uint32(0xFFFF)) == HALFWAY)
        halfway = np.uint32(halfway + np.uint32(tie_a | tie_b))
    return np.int32(magnitude), largest, below, above, halfway


@compiled
def _round_once(values, single):
    """Move float32 values that lie halfway between two bf16 values, while the float64 values they are rounded from do not."""
    words = single.view(np.uint32)
    for i in range(values.size):
        if (words[i] & np.uint32(0xFFFF)) == HALFWAY and np.float64(single[i]) != values[i]:
            outward = abs(values[i]) > abs(np.float64(single[i]))
            words[i] = words[i] + np.uint32(1) if outward else words[i] - np.uint32(1)


@compiled
def accumulate_float64(a, b, rtol, atol, limits, counts, bins, sums, peak):
    """Add float64 values, ``(n,)`` each, to the statistics, up to the first block that float32 cannot hold; return how many were added.

    Arguments as in ``accumulate_bfloat16``.
    """
    wide_vectors()
    steps = _scratch(BLOCK // 2).view(np.uint16)
    single = _scratch(3 * NARROW)
    filled = np.zeros(ROOM, np.int64)
    low = limits[:2].view(np.int32)[0]
    high = limits[:2].view(np.int32)[1]
    done = 0
    for start in range(0, a.size, NARROW):
        n = min(a.size, start + NARROW) - start
        x = a[start : start + n]
        y = b[start : start + n]
        p = single[:n]
        q = single[NARROW : NARROW + n]
        d = single[2 * NARROW : 2 * NARROW + n]
        different = _narrow(x, y, p, q, d)
        magnitude, largest, below, above, halfway = _survey(p.view(np.uint32), q.view(np.uint32), d.view(np.int32), low, high)
        if magnitude >= INFINITY or largest >= INFINITY:
            break
        if different == 0:
            _add_equal(x, filled, sums)
        else:
            counts[EXACT] += different
            if halfway:
                _round_once(x, p)
                _round_once(y, q)
            _add_differences(x, y, atol, largest, below, above, counts, peak)
            below, above = _beyond_limits(p, q, d, limits[2], limits[3], np.float32(-1))
            counts[RTOL] += np.int64(below) if below == above else beyond_relative(x, y, rtol)
            farthest = _steps(p, q, steps[:n])
            counts[BF16] += _add_to_histogram(steps[:n], farthest, filled)
            _add_sums(x, y, sums)
        done += n
    counts[NUMEL] += done
    for bin in range(bins.size):
        bins[bin] += filled[bin]
    return done
