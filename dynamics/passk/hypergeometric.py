"""Hypergeometric probabilities: drawing k of n graded samples without replacement. Compiled by numba on first use, then cached.

Products of many ratios are computed in double-double arithmetic (a pair of float64, about 32 digits): a float64 product of a million
factors loses four digits, and 1 - product loses all digits where it is small. Fast-math would break the double-double operations.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

#: terms smaller than this relative to their sum do not change it
NEGLIGIBLE = 1e-18


def _compiled(function: Any) -> Any:
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


@_compiled
def _copy(source, target):
    """Fill ``target`` with the first elements of ``source``; numba takes ten times as long to compile a slice assignment."""
    for i in range(target.size):
        target[i] = source[i]


@_compiled
def _product(a, b):
    """Return a b as a float64 and its rounding error (Dekker 1971)."""
    p = a * b
    t = 134217729.0 * a
    a_high = t - (t - a)
    a_low = a - a_high
    t = 134217729.0 * b
    b_high = t - (t - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@_compiled
def _times_ratio(high, low, a, b):
    """Multiply the double-double (high, low) by a / b."""
    first = a / b
    p, rest = _product(first, b)
    second = ((a - p) - rest) / b
    p, rest = _product(high, first)
    rest += high * second + low * first
    high = p + rest
    return high, rest - (high - p)


@_compiled
def _one_minus(high, low):
    """Compute 1 - (high + low), rounded once."""
    p = 1.0 - high
    rest = (1.0 - p) - high
    return p + (rest - low)


@_compiled
def none_of(n, c, k, complement, out):
    """Compute C(n - c, k) / C(n, k), the probability that k draws of n miss all c marked items, or its complement. NaN where k > n.

    All arrays have the same length. The ratio is symmetric in c and k, so the product runs over the smaller of the two.
    """
    for i in range(n.size):
        if k[i] > n[i]:
            out[i] = np.nan
            continue
        few = float(min(c[i], k[i]))
        many = float(max(c[i], k[i]))
        whole = float(n[i])
        high, low = 1.0, 0.0
        if whole - many < few:
            high = 0.0
        else:
            for j in range(min(c[i], k[i])):
                high, low = _times_ratio(high, low, whole - many - j, whole - j)
        out[i] = _one_minus(high, low) if complement else high + low


@_compiled
def none_of_curve(n, c, ks, complement, out):
    """Compute ``none_of`` for all ``ks`` (increasing) with one running product per row; ``out`` is (rows, ks)."""
    for i in range(n.size):
        whole = float(n[i])
        left = float(n[i] - c[i])
        high, low = 1.0, 0.0
        drawn = 0
        for column in range(ks.size):
            k = ks[column]
            if k > n[i]:
                out[i, column] = np.nan
                continue
            while drawn < k and high > 0.0:
                high, low = _times_ratio(high, low, left - drawn, whole - drawn) if left > drawn else (0.0, 0.0)
                drawn += 1
            out[i, column] = _one_minus(high, low) if complement else high + low


@_compiled
def _hits(n, c, k, out):
    """Compute P(s of k draws are marked) for s = 0..k, outwards from the mode, so that each ratio is at most about 1."""
    out[:] = 0.0
    lowest = max(0, k - (n - c))
    highest = min(c, k)
    mode = min(highest, max(lowest, ((k + 1) * (c + 1)) // (n + 2)))
    out[mode] = 1.0
    total = 1.0
    for s in range(mode, highest):
        out[s + 1] = out[s] * (float(c - s) * float(k - s)) / (float(s + 1) * float(n - c - k + s + 1))
        total += out[s + 1]
    for s in range(mode, lowest, -1):
        out[s - 1] = out[s] * (float(s) * float(n - c - k + s)) / (float(c - s + 1) * float(k - s + 1))
        total += out[s - 1]
    for s in range(lowest, highest + 1):
        out[s] /= total


@_compiled
def at_least(n, c, k, least, out):
    """Compute P(at least ``least`` of k draws are marked), summing the lighter tail. NaN where k > n."""
    widest = 0
    for i in range(n.size):
        widest = max(widest, k[i])
    chances = np.empty(widest + 1)
    for i in range(n.size):
        if k[i] > n[i]:
            out[i] = np.nan
            continue
        _hits(n[i], c[i], k[i], chances[: k[i] + 1])
        if least[i] * n[i] > k[i] * c[i]:
            tail = 0.0
            for s in range(k[i], least[i] - 1, -1):
                tail += chances[s]
            out[i] = tail
        else:
            head = 0.0
            for s in range(least[i]):
                head += chances[s]
            out[i] = 1.0 - head


@_compiled
def beyond_half(n, c, k, out):
    """Compute (2 / k) E[max(s - k / 2, 0)] for s marked among k draws: twice the area under P(s / k >= t) over t in (1/2, 1)."""
    widest = 0
    for i in range(n.size):
        widest = max(widest, k[i])
    chances = np.empty(widest + 1)
    for i in range(n.size):
        if k[i] > n[i]:
            out[i] = np.nan
            continue
        _hits(n[i], c[i], k[i], chances[: k[i] + 1])
        total = 0.0
        for s in range(k[i] // 2 + 1, k[i] + 1):
            total += (s - k[i] / 2) * chances[s]
        out[i] = 2.0 * total / k[i]


@_compiled
def _binomials(m, p, out):
    """Compute P(Binomial(m, p) = s) for s = 0..out.size - 1, outwards from the mode, normalised over 0..m."""
    out[:] = 0.0
    mode = min(m, int((m + 1) * p))
    odds = p / (1.0 - p)
    total = 1.0
    if mode < out.size:
        out[mode] = 1.0
    term = 1.0
    for s in range(mode, m):
        term *= (m - s) * odds / (s + 1)
        if s + 1 < out.size:
            out[s + 1] = term
        total += term
        if term < NEGLIGIBLE * total and s + 1 >= out.size:
            break
    term = 1.0
    for s in range(mode, 0, -1):
        term *= s / ((m - s + 1) * odds)
        if s - 1 < out.size:
            out[s - 1] = term
        total += term
    for s in range(min(m + 1, out.size)):
        out[s] /= total


@_compiled
def _multiply(a, b, size, longest, out):
    """Compute the first ``size`` coefficients of the product of two polynomials; ``b`` has degree at most ``longest``."""
    out[:size] = 0.0
    for s in range(min(longest + 1, size)):
        if b[s] != 0.0:
            for index in range(size - s):
                out[index + s] += b[s] * a[index]


@_compiled
def plurality(votes, answers, credit, mute, k, nodes, weights):  # noqa: C901 - compiled as one
    """Compute the expected credit of the most frequent answer among k samples drawn without replacement; ties share it.

    Answers with equally many votes form a group: ``votes`` (groups,) falling, ``answers`` how many there are in each, ``credit`` what
    choosing one of them earns, summed over the group. ``mute`` samples gave no answer. ``nodes``, ``weights`` (orders, order): row r a
    Gauss-Legendre rule of r points on (0, 1).

    The draws are independent binomials of rate k / n conditioned on their sum: a product of short polynomials in place of a sum over
    subsets. An answer that leads with j votes shares with t others, and 1 / (1 + t) is the integral of y^t over (0, 1): marking each tie
    by y and integrating gives the share exactly.
    """
    n = mute
    for group in range(votes.size):
        n += votes[group] * answers[group]
    if votes.size == 0:
        return 0.0
    p = k / n
    if k == n:
        return credit[0] / answers[0]
    pmf = np.empty(k + 1)
    whole = np.empty(k + 1)
    _binomials(n, p, whole)
    poly = np.empty(k + 1)
    fresh = np.empty(k + 1)
    rest = np.empty(k + 1)
    power = np.empty(k + 1)
    leading = np.empty(k + 1)
    expected = 0.0
    for j in range(1, min(k, votes[0]) + 1):
        # answers that cannot pass j are silent together with the mute samples: any number of their samples may be drawn
        groups = 0
        rivals = 0
        silent = mute
        for group in range(votes.size):
            if votes[group] >= j:
                groups += 1
                rivals += answers[group]
            else:
                silent += votes[group] * answers[group]
        if silent > 0:
            _binomials(silent, p, rest)
        else:
            rest[:] = 0.0
            rest[0] = 1.0
        room = k - j
        size = room + 1
        order = max(1, min(nodes.shape[0] - 1, (min(rivals - 1, room // j) + 2) // 2))
        for leader in range(groups):
            if credit[leader] == 0.0:
                continue
            _binomials(votes[leader], p, leading)
            if leading[j] < NEGLIGIBLE * whole[k]:
                continue
            for node in range(order):
                _copy(rest, poly[:size])
                for group in range(groups):
                    others = answers[group] - (1 if group == leader else 0)
                    if others == 0:
                        continue
                    _binomials(votes[group], p, pmf)
                    power[:] = 0.0
                    _copy(pmf, power[: min(j, k) + 1])
                    power[j] *= nodes[order, node]
                    longest = j
                    while True:  # poly *= power ** others, by repeated squaring
                        if others % 2:
                            _multiply(poly, power, size, longest, fresh)
                            _copy(fresh, poly[:size])
                        others //= 2
                        if others == 0:
                            break
                        _multiply(power, power, size, longest, fresh)
                        _copy(fresh, power[:size])
                        longest = min(2 * longest, room)
                expected += weights[order, node] * credit[leader] * leading[j] * poly[room] / whole[k]
    return expected
