"""CPU kernels of ``dynamics.entropy.logits``: sums over the softmax of each row of logits.

With x = (z - max) / T for a row of logits z, the kernels compute

    s = sum exp(x),   t = sum x exp(x),   u = sum x^2 exp(x),   over all entries except one largest entry.

H = log1p(s) - t / (1 + s) is then accurate when one entry has nearly all the probability, as for most tokens of a reasoning model, where
the usual log Z - sum p z subtracts two nearly equal numbers. All arithmetic after the first subtraction is float64. The exponential is a
polynomial, so that the loop vectorises. Compiled on first use and cached by numba; the kernels release the GIL.
"""

from __future__ import annotations

import math

import numpy as np

from dynamics.numba_functions import compiled

#: exp(x) counts as 0 for x below this; its float64 value there is 1e-304
FLOOR = -700.0
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
#: columns of a row of sums
MAX, SUM_EXP, SUM_X_EXP, SUM_X2_EXP, ARGMAX = range(5)


@compiled
def _exp(x):
    """Compute exp(x) for FLOOR <= x <= 0 to a relative error of 1e-13."""
    whole = np.floor(x * _LOG2E + 0.5)
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = 1.0 + r * (
        1.0
        + r
        * (
            1 / 2
            + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r / 3628800)))))))
        )
    )
    bits = (np.int64(np.int32(whole)) + np.int64(1023)) << np.int64(52)
    return p * np.int64(bits).view(np.float64)


@compiled
def _sums(row, largest, inverse):
    """Compute s, t and u over a part of a row that excludes the largest entry."""
    s = 0.0
    t = 0.0
    u = 0.0
    for i in range(row.size):
        x = (np.float64(row[i]) - largest) * inverse
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
def _largest(row):
    """Return the largest entry and its index; the entry is NaN if any entry is NaN or +inf."""
    largest = -np.inf
    odd = 0
    for i in range(row.size):
        z = row[i]
        odd += np.int64(not (z < np.inf))
        largest = max(largest, z)
    if odd:
        return np.nan, 0
    index = 0
    while row[index] != largest:
        index += 1
    return np.float64(largest), index


@compiled
def summarise(logits, inverse, out):
    """Fill ``out``, (rows, 5), with max, s, t, u and argmax of each row of (rows, vocabulary) float32 or float64 logits."""
    for i in range(logits.shape[0]):
        row = logits[i]
        largest, index = _largest(row)
        out[i, MAX] = largest
        out[i, ARGMAX] = index
        if np.isnan(largest) or largest == -np.inf:
            out[i, SUM_EXP : SUM_X2_EXP + 1] = np.nan if np.isnan(largest) else 0.0
            continue
        s, t, u = _sums(row[:index], largest, inverse[i])
        more = _sums(row[index + 1 :], largest, inverse[i])
        out[i, SUM_EXP] = s + more[0]
        out[i, SUM_X_EXP] = t + more[1]
        out[i, SUM_X2_EXP] = u + more[2]


@compiled
def count_above(logits, values, out):
    """Add to ``out`` the number of entries of each row above the row's entry of ``values``."""
    for i in range(logits.shape[0]):
        row = logits[i]
        value = values[i]
        count = 0
        for j in range(row.size):
            count += np.int64(row[j] > value)
        out[i] += count


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
