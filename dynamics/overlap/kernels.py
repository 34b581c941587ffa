"""Kernels of ``dynamics.overlap``, compiled on first use and cached: loops without branches over blocks of 4096 weights."""

from __future__ import annotations

import numpy as np

from dynamics.numba_functions import compiled

#: weights per block; 16-bit counters cannot overflow
BLOCK = 4096


@compiled
def _all_finite(values):
    nonfinite = np.uint16(0)
    for i in range(values.size):
        nonfinite |= np.uint16(not abs(values[i]) < np.inf)
    return nonfinite == 0


@compiled
def _count_bit(marks, rule):
    count = np.uint16(0)
    for i in range(marks.size):
        count = np.uint16(count + np.uint16((marks[i] >> rule) & np.uint8(1)))
    return np.int64(count)


@compiled
def _count_both(marks_a, marks_b, rule):
    count = np.uint16(0)
    for i in range(marks_a.size):
        count = np.uint16(count + np.uint16(((marks_a[i] & marks_b[i]) >> rule) & np.uint8(1)))
    return np.int64(count)


@compiled
def _products(base, tuned_a, tuned_b, sums):
    """Add d e, d^2, e^2 and the count of equal signs over the weights that both updates d, e change; and d e, d^2, e^2 over all weights."""
    product, first, second, same_sign = 0.0, 0.0, 0.0, 0.0
    product_all, first_all, second_all = 0.0, 0.0, 0.0
    for i in range(base.size):
        b = np.float64(base[i])
        d, e = np.float64(tuned_a[i]) - b, np.float64(tuned_b[i]) - b
        dd, ee, de = d * d, e * e, d * e
        first_all += dd
        second_all += ee
        product_all += de
        both = np.float64((d != 0) & (e != 0))
        product += de
        first += both * dd
        second += both * ee
        same_sign += both * np.float64((d > 0) == (e > 0))
    sums[0] += product
    sums[1] += first
    sums[2] += second
    sums[3] += same_sign
    sums[4] += product_all
    sums[5] += first_all
    sums[6] += second_all


@compiled
def _products_of_finite(base, tuned_a, tuned_b, sums):
    """Like ``_products``, but skip the weights at which a value is not finite."""
    for i in range(base.size):
        b = np.float64(base[i])
        d, e = np.float64(tuned_a[i]) - b, np.float64(tuned_b[i]) - b
        if abs(d) < np.inf and abs(e) < np.inf:
            both = np.float64((d != 0) & (e != 0))
            sums[0] += d * e
            sums[1] += both * d * d
            sums[2] += both * e * e
            sums[3] += both * np.float64((d > 0) == (e > 0))
            sums[4] += d * e
            sums[5] += d * d
            sums[6] += e * e


@compiled
def count_pairs(values, marks, intersections, sums):
    """Add to ``intersections`` (pairs, rules, 3) the sizes of both masks and of their intersection, and to ``sums`` the ``_products``."""
    updates, n = marks.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        base = values[0, start:stop]
        pair = 0
        for a in range(updates):
            for b in range(a + 1, updates):
                x, y = marks[a, start:stop], marks[b, start:stop]
                for rule in range(4):
                    bit = np.uint8(rule)
                    intersections[pair, rule, 0] += _count_bit(x, bit)
                    intersections[pair, rule, 1] += _count_bit(y, bit)
                    intersections[pair, rule, 2] += _count_both(x, y, bit)
                tuned_a, tuned_b = values[a + 1, start:stop], values[b + 1, start:stop]
                if _all_finite(base) and _all_finite(tuned_a) and _all_finite(tuned_b):
                    _products(base, tuned_a, tuned_b, sums[pair])
                else:
                    _products_of_finite(base, tuned_a, tuned_b, sums[pair])
                pair += 1


@compiled
def _add_bins(labels, bins):
    for value in range(bins.size):
        count = np.uint16(0)
        label = np.uint8(value)
        for i in range(labels.size):
            count = np.uint16(count + np.uint16(labels[i] == label))
        bins[value] += np.int64(count)


@compiled
def count_series(marks, consensus, first_changed, came_back):
    """Count weights by rule: by number of updates that changed them, by first such update (never: last), and those that reverted."""
    updates, n = marks.shape
    counts, firsts = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        count, first = counts[:size], firsts[:size]
        for rule in range(4):
            bit = np.uint8(rule)
            count[:] = np.uint8(0)
            first[:] = np.uint8(updates)
            for u in range(updates - 1, -1, -1):
                row = marks[u, start : start + size]
                for i in range(size):
                    changed = (row[i] >> bit) & np.uint8(1)
                    count[i] = np.uint8(count[i] + changed)
                    first[i] = np.uint8(first[i] + changed * np.uint8(np.uint8(u) - first[i]))
            _add_bins(count, consensus[rule])
            _add_bins(first, first_changed[rule])
            last = marks[updates - 1, start : start + size]
            returned = np.uint16(0)
            for i in range(size):
                unchanged_again = np.uint16(count[i] != np.uint8(0)) & np.uint16(((last[i] >> bit) & np.uint8(1)) == np.uint8(0))
                returned = np.uint16(returned + unchanged_again)
            came_back[rule] += np.int64(returned)
