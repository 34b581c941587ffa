"""Compiled kernels of ``dynamics.sparsity``: all counts and sums over a range of two tensors, in blocks that fit the L1 cache.

Several vectorised loops over each block are faster than a single loop that does not vectorise: 16-bit integers for the distance in bf16
steps, float64 for the sums. Compiled on first use and cached by numba; the kernels release the GIL.

All sums are float64. Differences are taken in float64, where they are exact for bf16 and float32 neighbours, and squares of 24-bit values
are exact as well. Only the summation rounds, with a relative error of about 1e-15.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from dynamics.checkpoints.decoding import widen_bfloat16
from dynamics.numba_functions import REORDER, compiled

BLOCK = 4096

#: upper ends of the bins of the distance histogram, in bf16 steps: 0, 1, 2, 3-4, 5-8, ...
ULP_BIN_EDGES = (0, *(2**power for power in range(17)))
#: for rtol below this, |d| > rtol max(|a|, |b|) holds for any two different bf16 values: their smallest relative gap is 2**-8
SMALLEST_BF16_GAP = 2.0**-8

#: masks of the bits of a bf16 pattern: all but the sign, and the exponent
BF16_MAGNITUDE, BF16_EXPONENT = np.uint16(0x7FFF), np.uint16(0x7F80)

#: bits of a mark, set if the weight changed under the rule; in the order of ``definitions.RULES``
EXACT_MARK, BF16_MARK, RTOL_MARK, ATOL_MARK = 1, 2, 4, 8

# Indices into the arrays of ``accumulate.DiffStats``. NUMEL..NONFINITE index `counts`; BASE..CROSS index `sums`.
NUMEL, EXACT, BF16, RTOL, ATOL, NONFINITE = range(6)
BASE, TUNED, UPDATE, CROSS = range(4)  # sums of a^2, b^2, (b-a)^2, a(b-a)


@compiled
def differ(a, b, magnitude):
    """Whether two bit patterns of one format are different values: -0 equals +0, a NaN equals only a NaN of the same bits.

    ``magnitude`` is the mask of all bits but the sign. All other kernels follow this definition of "changed".
    """
    return (a != b) & (((a | b) & magnitude) != 0)


@compiled
def _nonfinite(word, exponent):
    """Whether a bit pattern is NaN or infinity: all bits of ``exponent`` are set."""
    return (word & exponent) == exponent


@compiled
def _exceeds_relative(a, b, rtol):
    """Whether two float64 values are further apart than ``rtol`` times the larger magnitude."""
    return abs(b - a) > rtol * max(abs(a), abs(b))


@compiled
def _ulp_distances(a, b, steps):
    """Fill ``steps`` with the distances in bf16 steps between bit patterns; return the largest distance and the largest magnitude bits.

    The key (magnitude bits, negated if the sign is set) is monotone in the value and maps +0 and -0 to 0, so the distance is 0 exactly
    where the patterns do not ``differ``.
    """
    farthest = np.uint16(0)
    largest = np.uint16(0)
    for i in range(a.size):
        x = np.int16(a[i])
        y = np.int16(b[i])
        sign_x = np.int16(x >> np.int16(15))
        sign_y = np.int16(y >> np.int16(15))
        size_x = np.int16(x & np.int16(0x7FFF))
        size_y = np.int16(y & np.int16(0x7FFF))
        key_x = np.int16(np.int16(size_x ^ sign_x) - sign_x)
        key_y = np.int16(np.int16(size_y ^ sign_y) - sign_y)
        apart = np.uint16(max(key_x, key_y) - min(key_x, key_y))
        steps[i] = apart
        farthest = max(farthest, apart)
        largest = max(largest, max(np.uint16(size_x), np.uint16(size_y)))
    return farthest, largest


@compiled
def _at_least(steps, threshold):
    """Count the distances of at least a threshold. A 16-bit counter cannot overflow in a block of 4096, and gives the widest vectors."""
    count = np.uint16(0)
    for i in range(steps.size):
        count = np.uint16(count + np.uint16(steps[i] >= threshold))
    return np.int64(count)


@compiled
def _add_to_ulp_histogram(steps, farthest, bins):
    """Add a block to the histogram, from the lowest bin up until no distance is left."""
    above = np.int64(steps.size)
    bin = 0
    lowest = 1  # of the next bin: 1, 2, 3, 5, 9, ...
    while above > 0 and lowest <= farthest:
        reach = _at_least(steps, np.uint16(lowest))
        bins[bin] += above - reach
        above = reach
        bin += 1
        lowest = lowest + 1 if lowest < 3 else 2 * lowest - 1
    bins[bin] += above


@compiled
def _round_float32(values, bits):
    """float32 -> bf16 bits, to nearest, ties to even; a NaN stays a NaN."""
    words = values.view(np.uint32)
    for i in range(values.size):
        word = words[i]
        rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (word >> np.uint32(16)) | np.uint32(0x40)
        is_nan = (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        bits[i] = np.uint16(quiet if is_nan else rounded)


def _round(values, bits, single):
    """Round float32 or float64 values to bf16 bits; ``single`` is scratch memory of the same length. Overloaded by dtype below."""
    raise NotImplementedError


@overload(_round, jit_options={"fastmath": REORDER}, strict=False)
def _round_by_type(values, _bits, _single):
    if values.dtype == numba.float32:
        return lambda values, bits, _single: _round_float32(values, bits)

    def rounded_once(values, bits, single):
        # Rounding to float32 first would round twice. Correct the values for which float32 is a tie and the float64 value is not.
        words = single.view(np.uint32)
        for i in range(values.size):
            single[i] = np.float32(values[i])
            if (words[i] & np.uint32(0xFFFF)) == np.uint32(0x8000) and np.float64(single[i]) != values[i]:
                outward = abs(values[i]) > abs(np.float64(single[i]))
                words[i] = words[i] + np.uint32(1) if outward else words[i] - np.uint32(1)
        _round_float32(single, bits)

    return rounded_once


@compiled
def sum_squares(a):
    """Sum a^2 in float64."""
    total = 0.0
    for i in range(a.size):
        x = np.float64(a[i])
        total += x * x
    return total


@compiled
def _any_nonfinite(words, exponent):
    """Whether any word is NaN or infinity; by a maximum, which vectorises."""
    word = words.dtype.type
    largest = word(0)
    for i in range(words.size):
        largest = max(largest, word(words[i] & exponent))
    return largest == exponent


@compiled
def _sums(a, b):
    """Sum a^2, b^2, d^2 and a d, for d = b - a."""
    base = 0.0
    tuned = 0.0
    update = 0.0
    cross = 0.0
    for i in range(a.size):
        x = np.float64(a[i])
        y = np.float64(b[i])
        d = y - x
        base += x * x
        tuned += y * y
        update += d * d
        cross += x * d
    return base, tuned, update, cross


@compiled
def largest_and_beyond(a, b, atol):
    """Find the largest |b - a|, count those above ``atol``. The maximum is taken over the bits: a float maximum does not vectorise."""
    largest = np.int64(0)
    beyond = 0
    for i in range(a.size):
        d = abs(np.float64(b[i]) - np.float64(a[i]))
        largest = max(largest, np.float64(d).view(np.int64))
        beyond += np.int64(d > atol)
    return np.int64(largest).view(np.float64), beyond


@compiled
def beyond_relative(a, b, rtol):
    """Count the pairs with |b - a| > rtol max(|a|, |b|)."""
    count = 0
    for i in range(a.size):
        x = np.float64(a[i])
        y = np.float64(b[i])
        count += np.int64(_exceeds_relative(x, y, rtol))
    return count


@compiled
def _count_different(a, b, magnitude):
    """Count the pairs of bit patterns that differ. The counter is as wide as the patterns, for the widest vectors."""
    word = a.dtype.type
    count = word(0)
    for i in range(a.size):
        count = word(count + word(differ(a[i], b[i], magnitude)))
    return np.int64(count)


@compiled
def _add_block(a, b, steps, farthest, rtol, atol, counts, bins, sums, peak):
    """Add a block of finite values to all statistics but ``counts[EXACT]``; ``steps`` are distances in bf16 steps, at most ``farthest``."""
    unmoved = bins[0]
    _add_to_ulp_histogram(steps, farthest, bins)
    counts[BF16] += a.size - (bins[0] - unmoved)
    base, tuned, update, cross = _sums(a, b)
    largest, beyond = largest_and_beyond(a, b, atol)
    sums[BASE] += base
    sums[TUNED] += tuned
    sums[UPDATE] += update
    sums[CROSS] += cross
    peak[0] = max(peak[0], largest)
    counts[ATOL] += beyond
    counts[RTOL] += beyond_relative(a, b, rtol)


@compiled
def _drop_nonfinite(a, b, words_a, words_b, bits_a, bits_b, exponent, magnitude, counts):
    """Move the finite pairs of a block to its front and return their number; count the others under all rules but ``exact``."""
    finite = 0
    for i in range(a.size):
        if _nonfinite(words_a[i], exponent) or _nonfinite(words_b[i], exponent):
            counts[NONFINITE] += 1
            changed = np.int64(differ(words_a[i], words_b[i], magnitude))
            counts[RTOL] += changed
            counts[ATOL] += changed
            counts[BF16] += np.int64(differ(bits_a[i], bits_b[i], BF16_MAGNITUDE))
        else:
            a[finite], b[finite] = a[i], b[i]
            bits_a[finite], bits_b[finite] = bits_a[i], bits_b[i]
            finite += 1
    return finite


@compiled
def _copy(source, target):
    """Copy ``source`` to the start of ``target``; numba takes ten times as long to compile a slice assignment."""
    for i in range(source.size):
        target[i] = source[i]


@compiled
def accumulate_float(a, b, words_a, words_b, exponent, magnitude, rtol, atol, counts, bins, sums, peak):
    """Add two arrays of float32 or of float64 values, ``(n,)``, to the statistics.

    ``words_a`` and ``words_b`` are the same memory as unsigned integers, ``exponent`` the mask of the exponent bits, ``magnitude`` that of
    all bits but the sign.
    """
    steps = np.empty(BLOCK, np.uint16)
    bits_a = np.empty(BLOCK, np.uint16)
    bits_b = np.empty(BLOCK, np.uint16)
    single = np.empty(BLOCK, np.float32)
    copy_a = np.empty(BLOCK, a.dtype)
    copy_b = np.empty(BLOCK, b.dtype)
    counts[NUMEL] += a.size
    for start in range(0, a.size, BLOCK):
        stop = min(a.size, start + BLOCK)
        n = stop - start
        x = a[start:stop]
        y = b[start:stop]
        u = words_a[start:stop]
        v = words_b[start:stop]
        _round(x, bits_a[:n], single[:n])
        _round(y, bits_b[:n], single[:n])
        if _any_nonfinite(u, exponent) or _any_nonfinite(v, exponent):
            _copy(x, copy_a)
            _copy(y, copy_b)
            n = _drop_nonfinite(copy_a[:n], copy_b[:n], u, v, bits_a[:n], bits_b[:n], exponent, magnitude, counts)
            x = copy_a[:n]
            y = copy_b[:n]
        farthest, _ = _ulp_distances(bits_a[:n], bits_b[:n], steps[:n])
        _add_block(x, y, steps[:n], farthest, rtol, atol, counts, bins, sums, peak)
        counts[EXACT] += _count_different(u, v, magnitude)


@compiled
def _mark(a, b, words_a, words_b, magnitude, bits_a, bits_b, rtol, atol, marks):
    """Mark the rules under which the finite pairs of a block changed; ``words`` are the stored bits, ``bits`` those rounded to bf16."""
    for i in range(marks.size):
        x = np.float64(a[i])
        y = np.float64(b[i])
        mark = np.uint8(differ(words_a[i], words_b[i], magnitude)) * np.uint8(EXACT_MARK)
        mark |= np.uint8(_exceeds_relative(x, y, rtol)) * np.uint8(RTOL_MARK)
        mark |= np.uint8(abs(y - x) > atol) * np.uint8(ATOL_MARK)
        marks[i] = mark
    for i in range(marks.size):
        marks[i] |= np.uint8(differ(bits_a[i], bits_b[i], BF16_MAGNITUDE)) * np.uint8(BF16_MARK)


@compiled
def _mark_nonfinite(words_a, words_b, exponent, marks):
    """Correct the marks of pairs with NaN or infinity: under ``rtol`` and ``atol`` they changed if their values differ."""
    tolerant = np.uint8(RTOL_MARK | ATOL_MARK)
    for i in range(marks.size):
        if _nonfinite(words_a[i], exponent) or _nonfinite(words_b[i], exponent):
            if marks[i] & np.uint8(EXACT_MARK):
                marks[i] |= tolerant
            else:
                marks[i] &= ~tolerant


@compiled
def mark_bfloat16(a, b, rtol, atol, marks):
    """Fill ``marks``, ``(n,)`` uint8, with the rules under which each pair of bf16 bit patterns, ``(n,)`` uint16, changed."""
    wide_a = np.empty(BLOCK, np.float32)
    wide_b = np.empty(BLOCK, np.float32)
    for start in range(0, a.size, BLOCK):
        stop = min(a.size, start + BLOCK)
        n = stop - start
        x = a[start:stop]
        y = b[start:stop]
        widen_bfloat16(x, wide_a[:n])
        widen_bfloat16(y, wide_b[:n])
        _mark(wide_a[:n], wide_b[:n], x, y, BF16_MAGNITUDE, x, y, rtol, atol, marks[start:stop])
        if _any_nonfinite(x, BF16_EXPONENT) or _any_nonfinite(y, BF16_EXPONENT):
            _mark_nonfinite(x, y, BF16_EXPONENT, marks[start:stop])


@compiled
def mark_float(a, b, words_a, words_b, exponent, magnitude, rtol, atol, marks):
    """Fill ``marks``, ``(n,)`` uint8, with the rules under which each pair of values changed; arguments as in ``accumulate_float``."""
    bits_a = np.empty(BLOCK, np.uint16)
    bits_b = np.empty(BLOCK, np.uint16)
    single = np.empty(BLOCK, np.float32)
    for start in range(0, a.size, BLOCK):
        stop = min(a.size, start + BLOCK)
        n = stop - start
        u = words_a[start:stop]
        v = words_b[start:stop]
        _round(a[start:stop], bits_a[:n], single[:n])
        _round(b[start:stop], bits_b[:n], single[:n])
        _mark(a[start:stop], b[start:stop], u, v, magnitude, bits_a[:n], bits_b[:n], rtol, atol, marks[start:stop])
        if _any_nonfinite(u, exponent) or _any_nonfinite(v, exponent):
            _mark_nonfinite(u, v, exponent, marks[start:stop])


@compiled
def beyond_bfloat16(a, b, atol):
    """Count the pairs of bf16 bit patterns that differ by more than ``atol``; a pair with NaN or infinity counts if its values differ."""
    x = np.empty(BLOCK, np.float32)
    y = np.empty(BLOCK, np.float32)
    count = 0
    for start in range(0, a.size, BLOCK):
        stop = min(a.size, start + BLOCK)
        n = stop - start
        widen_bfloat16(a[start:stop], x[:n])
        widen_bfloat16(b[start:stop], y[:n])
        for i in range(n):
            d = abs(np.float64(y[i]) - np.float64(x[i]))
            if d <= 1e300:
                count += np.int64(d > atol)
            else:
                count += np.int64(differ(a[start + i], b[start + i], BF16_MAGNITUDE))
    return count


@compiled
def round_to_bfloat16(values, bits):
    """Round float32 or float64 values to bf16 bit patterns, to nearest, ties to even."""
    single = np.empty(BLOCK, np.float32)
    for start in range(0, values.size, BLOCK):
        stop = min(values.size, start + BLOCK)
        _round(values[start:stop], bits[start:stop], single[: stop - start])
