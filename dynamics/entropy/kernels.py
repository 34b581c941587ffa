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
#: differences of log-probabilities below which a series is used
NEAR_0 = 0.05
#: columns of a row of sums
MAX, SUM_EXP, SUM_X_EXP, SUM_X2_EXP = range(4)
#: logits that are compared at once, so that counts fit into 16 bits; and when the largest are looked for
BLOCK, FEW = 1024, 64
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
def _extremes(row, low, high):
    """Return the smallest and the largest key of a block, and how many are above ``low`` and above ``high``."""
    wide_vectors()
    smallest = _key(row[0])
    largest = smallest
    above_low = np.uint16(0)
    above_high = np.uint16(0)
    for i in range(row.size):
        key = _key(row[i])
        smallest = min(smallest, key)
        largest = max(largest, key)
        above_low = np.uint16(above_low + np.uint16(key > low))
        above_high = np.uint16(above_high + np.uint16(key > high))
    return smallest, largest, np.int64(above_low), np.int64(above_high)


@compiled
def _sums(row, largest, inverse):
    """Compute s, t and u of a row with this largest logit, if all x are at least FLOOR."""
    wide_vectors()
    s = 0.0
    t = 0.0
    u = 0.0
    equal = -1  # entries as large as the largest: they are counted apart from the others, whose sum may be tiny
    for i in range(row.size):
        x = (_value(row[i]) - largest) * inverse
        e = _exp(x)
        xe = x * e
        s += e if x < 0.0 else 0.0
        equal += np.int64(x == 0.0)
        t += xe
        u += x * xe
    return s + equal, t, u


@compiled
def _deep_sums(row, largest, inverse):
    """Compute the same for any x."""
    wide_vectors()
    s = 0.0
    t = 0.0
    u = 0.0
    equal = -1  # entries as large as the largest: they are counted apart from the others, whose sum may be tiny
    for i in range(row.size):
        x = (_value(row[i]) - largest) * inverse
        inside = x >= FLOOR
        x = x if inside else FLOOR
        e = _exp(x)
        e = e if inside else 0.0
        xe = x * e
        s += e if x < 0.0 else 0.0
        equal += np.int64(x == 0.0)
        t += xe
        u += x * xe
    return s + equal, t, u


@compiled
def _keep_near(block, low, high, near, count):
    """Append to ``near`` the keys of a block above ``low`` and not above ``high``; return the new ``count``, also of those without room."""
    for i in range(block.size):
        key = _key(block[i])
        if key > low and not key > high:
            if count < near.size:
                near[count] = key
            count += 1
    return count


@compiled
def _keep_best(block, first, keys, ids):
    """Insert the keys of a block, whose first id is ``first``, into the largest ``keys``, in descending order, and their ``ids``."""
    wide_vectors()
    for start in range(0, block.size, FEW):
        some = block[start : start + FEW]
        if not _any_above(some, keys[-1]):
            continue
        for i in range(some.size):
            key = _key(some[i])
            if key > keys[-1]:
                place = keys.size - 1
                while place > 0 and key > keys[place - 1]:
                    keys[place] = keys[place - 1]
                    ids[place] = ids[place - 1]
                    place -= 1
                keys[place] = key
                ids[place] = first + start + i


@compiled
def _any_above(row, limit):
    """Tell whether a key is above ``limit``."""
    wide_vectors()
    largest = limit
    for i in range(row.size):
        largest = max(largest, _key(row[i]))
    return largest > limit


@compiled
def summarise(logits, inverse, low, high, out, above, near, near_counts, first, best, best_ids):
    """Summarise each row of logits, or of a part of the vocabulary.

    Parameters
    ----------
    logits : (rows, vocabulary) bits.
    inverse : (rows,) float64, 1 / T.
    low, high : (rows,) bits of logits between which lies a logit that others are compared with; the same if it is known.
    out : (rows, 4) float64 that gets max, s, t, u.
    above : (rows,) int64, to which is added how many logits are above ``high``.
    near, near_counts : (rows, room) keys of logits above ``low`` and not above ``high``, and (rows,) how many there are, to which those
        of this part are added. If there are more than there is room for, the rest is only counted.
    first : id of the first column.
    best, best_ids : (rows, count) largest keys in descending order, and ids, which are replaced where this part has larger ones.
    """
    wide_vectors()
    for i in range(logits.shape[0]):
        row = logits[i]
        lower = _limit(low[i])
        upper = _limit(high[i])
        smallest = _key(row[0])
        largest = smallest
        for start in range(0, row.size, BLOCK):
            block = row[start : start + BLOCK]
            least, most, above_low, above_high = _extremes(block, lower, upper)
            smallest = min(smallest, least)
            largest = max(largest, most)
            above[i] += above_high
            if above_low != above_high:
                near_counts[i] = _keep_near(block, lower, upper, near[i], near_counts[i])
            if best.shape[1] > 0 and most > best[i, -1]:
                _keep_best(block, first + start, best[i], best_ids[i])
        bottom = _value(_key(smallest))
        top = _value(_key(largest))
        broken = not (bottom >= -np.inf and top < np.inf)  # NaN or +inf
        out[i, MAX] = np.nan if broken else top
        if broken or top == -np.inf:
            out[i, SUM_EXP : SUM_X2_EXP + 1] = np.nan if broken else 0.0
            continue
        if (bottom - top) * inverse[i] >= FLOOR:
            s, t, u = _sums(row, top, inverse[i])
        else:
            s, t, u = _deep_sums(row, top, inverse[i])
        out[i, SUM_EXP] = s
        out[i, SUM_X_EXP] = t
        out[i, SUM_X2_EXP] = u


@compiled
def _excess(d, e):
    """Compute exp(d) - 1 - d, given ``e`` = exp(d); by a series near 0, where the difference would cancel."""
    if abs(d) < NEAR_0:
        return d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d * (1 / 720 + d * (1 / 5040))))))
    return e - 1.0 - d


@compiled
def _divergence(row_a, row_b, log_a, log_b):
    """Return the contribution of a part of a row to both divergences, if all log-probabilities are at least FLOOR."""
    wide_vectors()
    forth = 0.0
    back = 0.0
    for i in range(row_a.size):
        la = _value(row_a[i]) - log_a
        lb = _value(row_b[i]) - log_b
        p = _exp(la)
        q = _exp(lb)
        d = lb - la
        dd = d * d
        even = 0.5 + dd * (1 / 24 + dd * (1 / 720))
        odd = d * (1 / 6 + dd * (1 / 120 + dd * (1 / 5040)))
        near = abs(d) < NEAR_0
        forth += p * (dd * (even + odd)) if near else q - p - p * d
        back += q * (dd * (even - odd)) if near else p - q + q * d
    return forth, back


@compiled
def _deep_divergence(row_a, row_b, log_a, log_b):
    """Compute the same for any log-probabilities."""
    forth = 0.0
    back = 0.0
    endless_forth = False
    endless_back = False
    for i in range(row_a.size):
        a = _value(row_a[i])
        b = _value(row_b[i])
        la = a - log_a
        lb = b - log_b
        p = math.exp(la)
        q = math.exp(lb)
        if p == 0.0 and q == 0.0:
            continue
        d = lb - la
        forth += q - p - p * d if p > 0.0 and abs(d) > 600 else p * _excess(d, math.exp(min(d, 600.0))) if p > 0.0 else q
        back += p - q + q * d if q > 0.0 and abs(d) > 600 else q * _excess(-d, math.exp(min(-d, 600.0))) if q > 0.0 else p
        endless_forth |= p > 0.0 and b == -np.inf
        endless_back |= q > 0.0 and a == -np.inf
    return np.inf if endless_forth else forth, np.inf if endless_back else back


@compiled
def _smallest(row):
    """Return the smallest logit of a row."""
    wide_vectors()
    smallest = _key(row[0])
    for i in range(row.size):
        smallest = min(smallest, _key(row[i]))
    return _value(_key(smallest))


@compiled
def diverge(a, b, logsumexp_a, logsumexp_b, forth, back):
    """Add the contribution of a part of the vocabulary to KL(a || b), ``forth``, and to KL(b || a), ``back``; (rows,) each.

    ``a`` and ``b`` are (rows, part) bits of logits.
    """
    wide_vectors()
    for i in range(a.shape[0]):
        log_a = logsumexp_a[i]
        log_b = logsumexp_b[i]
        if np.isnan(log_a) or np.isnan(log_b):
            both = np.nan, np.nan
        elif _smallest(a[i]) - log_a >= FLOOR and _smallest(b[i]) - log_b >= FLOOR:
            both = _divergence(a[i], b[i], log_a, log_b)
        else:
            both = _deep_divergence(a[i], b[i], log_a, log_b)
        forth[i] += both[0]
        back[i] += both[1]
