"""CPU kernels of ``dynamics.entropy.logits``: sums over the softmax of each row of logits.

With x = (z - max) / T for a row of logits z, the kernels compute

    s = sum exp(x),   t = sum x exp(x),   u = sum x^2 exp(x),   over all entries except one largest entry.

H = log1p(s) - t / (1 + s) is then accurate when one entry has nearly all the probability, as for most tokens of a reasoning model, where
the usual log Z - sum p z subtracts two nearly equal numbers. All arithmetic after the first subtraction is float64. The exponential is a
polynomial, so that the loop vectorises. Compiled on first use and cached by numba; the kernels release the GIL.

Logits are given by their bits, as ``bits_of`` returns them: bfloat16 as int16, float32 as int32, float64 as int64. They are compared by
keys: integers that are ordered as the numbers are, so that loops over them vectorise, and NaN has keys beyond those of the infinities.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import overload

from dynamics.numba_functions import compiled, compiled_in_order, wide_vectors

#: exp(x) counts as 0 for x below this; its float64 value there is 1e-304
FLOOR = -700.0
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
#: added to a float64 below 2^51, rounds it to an integer, which the lowest bits of the sum hold
_ROUND = 1.5 * 2.0**52
#: coefficients of r^2, r^3, ... that minimise the largest relative error of 1 + r + ... to exp(r) for |r| <= log(2) / 2, which is 1.7e-14
_C2, _C3, _C4, _C5 = 0.4999999999966425, 0.1666666666726521, 0.04166666696227091, 0.008333333095106112
_C6, _C7, _C8, _C9 = 0.001388881114054939, 0.00019841539057455706, 2.4880811649877854e-05, 2.7493081391409137e-06
#: columns of a row of sums
MAX, SUM_EXP, SUM_X_EXP, SUM_X2_EXP = range(4)
#: logits whose largest is looked for at once; counts within a block fit into 16 bits
BLOCK = 1024
_SIGNED: dict[int, Any] = {16: np.int16, 32: np.int32, 64: np.int64}


@compiled_in_order
def _exp(x):
    """Compute exp(x) for FLOOR <= x <= 0 to a relative error of 2e-14."""
    shifted = x * _LOG2E + _ROUND
    whole = shifted - _ROUND
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = 1.0 + r * (1.0 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * (_C7 + r * (_C8 + r * _C9))))))))
    return np.int64(np.float64(p).view(np.int64) + (np.float64(shifted).view(np.int64) << np.int64(52))).view(np.float64)


def _value(bits):
    """Return the logit with these bits, as float64."""


@overload(_value)
def _compiled_value(bits):
    if bits.bitwidth == 16:
        return lambda bits: np.float64(np.uint32(np.uint32(np.uint16(bits)) << np.uint32(16)).view(np.float32))
    if bits.bitwidth == 32:
        return lambda bits: np.float64(np.int32(bits).view(np.float32))
    return lambda bits: np.int64(bits).view(np.float64)


def _key(bits):
    """Return the key of the logit with these bits, and the bits of the logit with this key."""


@overload(_key)
def _compiled_key(bits):
    kind = _SIGNED[bits.bitwidth]
    sign, magnitude = bits.bitwidth - 1, int(np.iinfo(kind).max)
    return lambda bits: kind(bits ^ kind(kind(bits >> kind(sign)) & kind(magnitude)))


def _limit(bits):
    """Return the key above which are those of all larger logits; 0 and -0 are equal."""


@overload(_limit)
def _compiled_limit(bits):
    kind = _SIGNED[bits.bitwidth]
    return lambda bits: kind(0) if _key(bits) == -1 else _key(bits)


@compiled
def _extremes_of_block(row, limit):
    """Return the smallest and the largest key of a block, and how many keys are above ``limit``."""
    wide_vectors()
    smallest = _key(row[0])
    largest = smallest
    above = np.uint16(0)
    for i in range(row.size):
        key = _key(row[i])
        smallest = min(smallest, key)
        largest = max(largest, key)
        above = np.uint16(above + np.uint16(key > limit))
    return smallest, largest, np.int64(above)


@compiled
def _extremes(row, limit):
    """Return the smallest and the largest logit, the index of the largest, and how many keys are above ``limit``.

    If any logit is NaN or +inf, the largest is NaN.
    """
    wide_vectors()
    smallest, largest, above = _extremes_of_block(row[:BLOCK], limit)
    begin = 0
    for start in range(BLOCK, row.size, BLOCK):
        low, high, more = _extremes_of_block(row[start : start + BLOCK], limit)
        above += more
        smallest = min(smallest, low)
        if high > largest:
            largest = high
            begin = start
    index = begin
    while _key(row[index]) != largest:
        index += 1
    low = _value(_key(smallest))
    high = _value(row[index])
    return low, high if low >= -np.inf and high < np.inf else np.nan, index, above


@compiled
def _sums(row, largest, inverse):
    """Compute s, t and u over a part of a row that excludes the largest entry, if all x are at least FLOOR."""
    wide_vectors()
    s = 0.0
    t = 0.0
    u = 0.0
    for i in range(row.size):
        x = (_value(row[i]) - largest) * inverse
        e = _exp(x)
        xe = x * e
        s += e
        t += xe
        u += x * xe
    return s, t, u


@compiled
def _deep_sums(row, largest, inverse):
    """Compute the same for any x."""
    wide_vectors()
    s = 0.0
    t = 0.0
    u = 0.0
    for i in range(row.size):
        x = (_value(row[i]) - largest) * inverse
        inside = x >= FLOOR
        x = x if inside else FLOOR
        e = _exp(x)
        e = e if inside else 0.0
        xe = x * e
        s += e
        t += xe
        u += x * xe
    return s, t, u


@compiled
def summarise(logits, inverse, limits, out, above):
    """Summarise each row of logits.

    Parameters
    ----------
    logits : (rows, vocabulary) bits.
    inverse : (rows,) float64, 1 / T.
    limits : (rows,) bits of the logit that others are compared with.
    out : (rows, 4) float64 that gets max, s, t, u.
    above : (rows,) int64, to which is added how many logits are above the limit.
    """
    wide_vectors()
    for i in range(logits.shape[0]):
        row = logits[i]
        smallest, largest, index, count = _extremes(row, _limit(limits[i]))
        out[i, MAX] = largest
        above[i] += count
        if np.isnan(largest) or largest == -np.inf:
            out[i, SUM_EXP : SUM_X2_EXP + 1] = np.nan if np.isnan(largest) else 0.0
            continue
        if (smallest - largest) * inverse[i] >= FLOOR:
            s, t, u = _sums(row[:index], largest, inverse[i])
            more = _sums(row[index + 1 :], largest, inverse[i])
        else:
            s, t, u = _deep_sums(row[:index], largest, inverse[i])
            more = _deep_sums(row[index + 1 :], largest, inverse[i])
        out[i, SUM_EXP] = s + more[0]
        out[i, SUM_X_EXP] = t + more[1]
        out[i, SUM_X2_EXP] = u + more[2]


@compiled
def count_above(logits, limits, above):
    """Add to ``above`` how many logits of each row of bits are above its entry of ``limits``; see ``summarise``."""
    wide_vectors()
    for i in range(logits.shape[0]):
        row = logits[i]
        limit = _limit(limits[i])
        for start in range(0, row.size, BLOCK):
            above[i] += _extremes_of_block(row[start : start + BLOCK], limit)[2]


@compiled
def _excess(d, e):
    """Compute exp(d) - 1 - d, given ``e`` = exp(d); by a series near 0, where the difference would cancel."""
    if abs(d) < 0.03:
        return d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d / 720))))
    return e - 1.0 - d


@compiled
def diverge(a, b, logsumexp_a, logsumexp_b, forth, back):
    """Add the contribution of a part of the vocabulary to KL(a || b), ``forth``, and to KL(b || a), ``back``; (rows,) each."""
    for i in range(a.shape[0]):
        row_a = a[i]
        row_b = b[i]
        log_a = logsumexp_a[i]
        log_b = logsumexp_b[i]
        kl_ab = 0.0
        kl_ba = 0.0
        for j in range(row_a.size):
            la = np.float64(row_a[j]) - log_a
            lb = np.float64(row_b[j]) - log_b
            p = math.exp(la)
            q = math.exp(lb)
            if p == 0.0 and q == 0.0:
                continue
            d = lb - la
            kl_ab += q - p - p * d if p > 0.0 and abs(d) > 600 else p * _excess(d, math.exp(min(d, 600.0))) if p > 0.0 else q
            kl_ba += p - q + q * d if q > 0.0 and abs(d) > 600 else q * _excess(-d, math.exp(min(-d, 600.0))) if q > 0.0 else p
            if p > 0.0 and q == 0.0 and row_b[j] == -np.inf:
                kl_ab = np.inf
            if q > 0.0 and p == 0.0 and row_a[j] == -np.inf:
                kl_ba = np.inf
        forth[i] += kl_ab
        back[i] += kl_ba
