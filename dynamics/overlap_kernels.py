"""The arithmetic of ``dynamics.overlap``, compiled on first use and cached."""

from __future__ import annotations

import numpy as np

from dynamics.kernels import _compiled


@_compiled
def masks(values, rounded, rtol, atol, found):
    """Fill ``found`` (updates, n): bits 1 exact, 2 bf16, 4 rtol, 8 atol. ``values`` and ``rounded``, the same as bf16 bits,
    are (1 + updates, n), the base first.

    A NaN equals a NaN here; a pair that is not finite on either side is changed under every rule if its values differ.
    """
    updates, n = found.shape
    for u in range(updates):
        for i in range(n):
            a, b = values[0, i], values[u + 1, i]
            if a == b or (a != a and b != b):
                found[u, i] = 0
                continue
            d = abs(np.float64(b) - np.float64(a))
            if not d < np.inf:
                found[u, i] = 15
                continue
            largest = max(abs(np.float64(a)), abs(np.float64(b)))
            bits = 1
            x, y = rounded[0, i], rounded[u + 1, i]
            if x != y and ((x | y) & np.uint16(0x7FFF)) != 0:
                bits |= 2
            if d > rtol * largest:
                bits |= 4
            if d > atol:
                bits |= 8
            found[u, i] = bits


@_compiled
def pairs(values, found, joint, sums):
    """Add to ``joint`` (pairs, 256) how often masks meet, to ``sums`` products of updates: over weights in both, agreement, over all."""
    updates, n = found.shape
    place = 0
    for a in range(updates):
        for b in range(a + 1, updates):
            product, one, other, agree = 0.0, 0.0, 0.0, 0.0
            every, ones, others = 0.0, 0.0, 0.0
            unmoved = 0
            for i in range(n):
                x, y = found[a, i], found[b, i]
                if x == 0 and y == 0:
                    unmoved += 1
                    continue
                joint[place, x | (y << 4)] += 1
                base = np.float64(values[0, i])
                d, e = np.float64(values[a + 1, i]) - base, np.float64(values[b + 1, i]) - base
                if not (abs(d) < np.inf and abs(e) < np.inf):
                    continue
                ones += d * d
                others += e * e
                every += d * e
                if x != 0 and y != 0:
                    product += d * e
                    one += d * d
                    other += e * e
                    if (d > 0) == (e > 0):
                        agree += 1.0
            joint[place, 0] += unmoved
            sums[place, 0] += product
            sums[place, 1] += one
            sums[place, 2] += other
            sums[place, 3] += agree
            sums[place, 4] += every
            sums[place, 5] += ones
            sums[place, 6] += others
            place += 1


@_compiled
def along(found, consensus, first, back):
    """Add by rule: how many updates moved a weight, at which it first did (never last), and whether it is back at the last."""
    updates, n = found.shape
    for i in range(n):
        any_ = 0
        for u in range(updates):
            any_ |= found[u, i]
        if any_ == 0:
            for rule in range(4):
                consensus[rule, 0] += 1
                first[rule, updates] += 1
            continue
        for rule in range(4):
            count = 0
            begin = updates
            for u in range(updates):
                if (found[u, i] >> rule) & 1:
                    count += 1
                    if begin == updates:
                        begin = u
            consensus[rule, count] += 1
            first[rule, begin] += 1
            if count and not (found[updates - 1, i] >> rule) & 1:
                back[rule] += 1
