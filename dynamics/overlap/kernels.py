"""The arithmetic of ``dynamics.overlap``, compiled on first use and cached. Blocks of 4096 weights at a time; loops without branches."""

from __future__ import annotations

import numpy as np

from dynamics.sparsity.kernels import _compiled, _widen

#: a block; counters of 16 bits hold its size
BLOCK = 4096


@_compiled
def widen(bits, values):
    """bf16 bits -> float32 values."""
    _widen(bits, values)


@_compiled
def _all_finite(values):
    bad = np.uint16(0)
    for i in range(values.size):
        bad |= np.uint16(not abs(values[i]) < np.inf)
    return bad == 0


@_compiled
def _count_bit(found, rule):
    count = np.uint16(0)
    for i in range(found.size):
        count = np.uint16(count + np.uint16((found[i] >> rule) & np.uint8(1)))
    return np.int64(count)


@_compiled
def _count_both(one, other, rule):
    count = np.uint16(0)
    for i in range(one.size):
        count = np.uint16(count + np.uint16(((one[i] & other[i]) >> rule) & np.uint8(1)))
    return np.int64(count)


@_compiled
def _products(base, one, other, sums):
    """Of finite updates d and e: over the weights that both move, d e, d^2, e^2, how often the signs agree; over all, d e, d^2, e^2."""
    product, first, second, agree = 0.0, 0.0, 0.0, 0.0
    every, ones, others = 0.0, 0.0, 0.0
    for i in range(base.size):
        b = np.float64(base[i])
        d, e = np.float64(one[i]) - b, np.float64(other[i]) - b
        dd, ee, de = d * d, e * e, d * e
        ones += dd
        others += ee
        every += de
        both = np.float64((d != 0) & (e != 0))
        product += de
        first += both * dd
        second += both * ee
        agree += both * np.float64((d > 0) == (e > 0))
    sums[0] += product
    sums[1] += first
    sums[2] += second
    sums[3] += agree
    sums[4] += every
    sums[5] += ones
    sums[6] += others


@_compiled
def _products_of_some(base, one, other, sums):
    """The same where some values are not finite; those pairs are left out."""
    for i in range(base.size):
        b = np.float64(base[i])
        d, e = np.float64(one[i]) - b, np.float64(other[i]) - b
        if abs(d) < np.inf and abs(e) < np.inf:
            both = np.float64((d != 0) & (e != 0))
            sums[0] += d * e
            sums[1] += both * d * d
            sums[2] += both * e * e
            sums[3] += both * np.float64((d > 0) == (e > 0))
            sums[4] += d * e
            sums[5] += d * d
            sums[6] += e * e


@_compiled
def pairs(values, found, meet, sums):
    """Add to ``meet`` (pairs, rules, 3) the weights in the first mask, the second, and both; to ``sums`` products of the updates."""
    updates, n = found.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        base = values[0, start:stop]
        place = 0
        for a in range(updates):
            for b in range(a + 1, updates):
                x, y = found[a, start:stop], found[b, start:stop]
                for rule in range(4):
                    bit = np.uint8(rule)
                    meet[place, rule, 0] += _count_bit(x, bit)
                    meet[place, rule, 1] += _count_bit(y, bit)
                    meet[place, rule, 2] += _count_both(x, y, bit)
                one, other = values[a + 1, start:stop], values[b + 1, start:stop]
                if _all_finite(base) and _all_finite(one) and _all_finite(other):
                    _products(base, one, other, sums[place])
                else:
                    _products_of_some(base, one, other, sums[place])
                place += 1


@_compiled
def _add_bins(labels, bins):
    for value in range(bins.size):
        count = np.uint16(0)
        wanted = np.uint8(value)
        for i in range(labels.size):
            count = np.uint16(count + np.uint16(labels[i] == wanted))
        bins[value] += np.int64(count)


@_compiled
def along(found, consensus, first, back):
    """Add by rule: how many updates moved a weight, at which it first did (never last), and whether it is back at the last."""
    updates, n = found.shape
    counts, begins = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        count, begin = counts[:size], begins[:size]
        for rule in range(4):
            bit = np.uint8(rule)
            count[:] = np.uint8(0)
            begin[:] = np.uint8(updates)
            for u in range(updates - 1, -1, -1):
                row = found[u, start : start + size]
                for i in range(size):
                    on = (row[i] >> bit) & np.uint8(1)
                    count[i] = np.uint8(count[i] + on)
                    begin[i] = np.uint8(begin[i] + on * np.uint8(np.uint8(u) - begin[i]))
            _add_bins(count, consensus[rule])
            _add_bins(begin, first[rule])
            last = found[updates - 1, start : start + size]
            returned = np.uint16(0)
            for i in range(size):
                gone = np.uint16(count[i] != np.uint8(0)) & np.uint16(((last[i] >> bit) & np.uint8(1)) == np.uint8(0))
                returned = np.uint16(returned + gone)
            back[rule] += np.int64(returned)
