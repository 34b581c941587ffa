"""CPU kernels of ``layer_decoder``: what a layer does between its matrix products, for one new token of each row.

Arrays are float32, or bfloat16 as its upper 16 bits (uint16); all arithmetic is float32. Keys are stored with tokens along the last axis
and values with them along the last but one, so that the inner loops run over adjacent numbers. Compiled on first use and cached by numba;
the kernels release the GIL, and the result of a row does not depend on which thread computes it.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from dynamics.numba_functions import compiled

#: exp(x) counts as exp(FLOOR), about 1e-26, for x below this: products with it are no subnormal numbers, which are slow
FLOOR = np.float32(-60.0)
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(np.float32(value) for value in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5))
_ONE = np.float32(1.0)


def _wide(number):
    """Return a stored number as float32."""


@overload(_wide)
def _wide_as_stored(number):
    if number == numba.types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _put(target, index, number):
    """Store a float32 number, rounded to the nearest bfloat16 (ties to even) if the array holds those."""


@overload(_put)
def _put_as_stored(target, index, number):  # noqa: ARG001 - numba compares the names
    if target.dtype != numba.types.uint16:

        def put(target, index, number):
            target[index] = number

        return put

    def put_rounded(target, index, number):
        bits = np.float32(number).view(np.uint32)
        target[index] = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return put_rounded


@compiled
def _exp(x):
    """Compute exp(x) for FLOOR <= x <= 0 to a relative error of 2e-7."""
    whole = np.floor(x * _LOG2E + np.float32(0.5))
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = ((((_EXP[0] * r + _EXP[1]) * r + _EXP[2]) * r + _EXP[3]) * r + _EXP[4]) * r + _EXP[5]
    bits = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
    return (p * r * r + r + _ONE) * bits.view(np.float32)


@compiled
def add_and_normalise(residual, more, weight, epsilon, out):
    """Add ``more`` to ``residual``, and fill ``out`` with the RMSNorm of the sum; (rows, width) each. An empty ``more`` counts as 0."""
    width = residual.shape[1]
    for row in range(residual.shape[0]):
        states = residual[row]
        if more.shape[0]:
            added = more[row]
            for i in range(width):
                states[i] += _wide(added[i])
        total = np.float32(0.0)
        for i in range(width):
            total += states[i] * states[i]
        factor = _ONE / np.sqrt(total / np.float32(width) + epsilon)
        target = out[row]
        for i in range(width):
            _put(target, i, weight[i] * (states[i] * factor))


@compiled
def gated(both, out):
    """Fill ``out``, (rows, width), with silu(gate) * up, given both side by side, (rows, 2 width)."""
    width = out.shape[1]
    for row in range(out.shape[0]):
        gate = both[row, :width]
        up = both[row, width:]
        target = out[row]
        for i in range(width):
            x = _wide(gate[i])
            e = _exp(max(-abs(x), FLOOR))
            _put(target, i, x * (_ONE if x >= 0 else e) / (_ONE + e) * _wide(up[i]))


@compiled
def _rotated(states, norm, epsilon, cosine, sine, factor, out):
    """Fill ``out`` with one head's query or key: normalised if ``norm`` is not empty, rotated, and multiplied by ``factor``; (size,)."""
    size = out.size
    half = size // 2
    for i in range(size):
        out[i] = _wide(states[i])
    if norm.size:
        total = np.float32(0.0)
        for i in range(size):
            total += out[i] * out[i]
        scale = _ONE / np.sqrt(total / np.float32(size) + epsilon)
        for i in range(size):
            out[i] *= scale * norm[i]
    for i in range(half):
        first = out[i]
        second = out[i + half]
        out[i] = (first * cosine[i] - second * sine[i]) * factor
        out[i + half] = (second * cosine[i + half] + first * sine[i + half]) * factor


@compiled
def _score(query, keys, scores):
    """Fill ``scores``, (tokens,), with the products of a query, (size,), and keys, (size, tokens)."""
    count = scores.size
    for j in range(count):
        scores[j] = 0.0
    for i in range(0, query.size, 8):
        q0, q1, q2, q3 = query[i], query[i + 1], query[i + 2], query[i + 3]
        q4, q5, q6, q7 = query[i + 4], query[i + 5], query[i + 6], query[i + 7]
        k0, k1, k2, k3 = keys[i], keys[i + 1], keys[i + 2], keys[i + 3]
        k4, k5, k6, k7 = keys[i + 4], keys[i + 5], keys[i + 6], keys[i + 7]
        for j in range(count):
            low = q0 * _wide(k0[j]) + q1 * _wide(k1[j]) + q2 * _wide(k2[j]) + q3 * _wide(k3[j])
            scores[j] += low + (q4 * _wide(k4[j]) + q5 * _wide(k5[j]) + q6 * _wide(k6[j]) + q7 * _wide(k7[j]))


@compiled
def _mix(weights, values, out):
    """Add to ``out``, (size,), the sum of values, (tokens, size), times their weights, (tokens,)."""
    count = weights.size
    size = out.size
    whole = count - count % 8
    for j in range(0, whole, 8):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        w4, w5, w6, w7 = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
        v0, v1, v2, v3 = values[j], values[j + 1], values[j + 2], values[j + 3]
        v4, v5, v6, v7 = values[j + 4], values[j + 5], values[j + 6], values[j + 7]
        for i in range(size):
            low = w0 * _wide(v0[i]) + w1 * _wide(v1[i]) + w2 * _wide(v2[i]) + w3 * _wide(v3[i])
            out[i] += low + (w4 * _wide(v4[i]) + w5 * _wide(v5[i]) + w6 * _wide(v6[i]) + w7 * _wide(v7[i]))
    for j in range(whole, count):
        w0 = weights[j]
        v0 = values[j]
        for i in range(size):
            out[i] += w0 * _wide(v0[i])


@compiled
def attend(
    first,
    last,
    projected,
    norms,
    epsilon,
    cosine,
    sine,
    scaling,
    prompt_of,
    prompt_lengths,
    prompt_keys,
    prompt_values,
    slots,
    count,
    own_keys,
    own_values,
    out,
):
    """Store the new token's key and value of rows ``first`` to ``last``, and fill ``out`` with their attention.

    Parameters
    ----------
    first, last : range of the rows that this call computes.
    projected : (rows, (heads + 2 key_heads) * size) queries, keys and values side by side, before norms and rotation.
    norms : (2, size) weights of the RMSNorms of queries and keys; (2, 0) if there are none.
    epsilon : of these norms.
    cosine, sine : (positions, size) of the rotary embedding.
    scaling : factor of the scores.
    prompt_of : (rows,) index of each row's prompt.
    prompt_lengths : (prompts,) number of tokens of each prompt to attend to.
    prompt_keys, prompt_values : (prompts, key_heads, size, tokens) and (prompts, key_heads, tokens, size).
    slots : (rows,) index of each row in ``own_keys`` and ``own_values``.
    count : number of the row's own tokens before this one.
    own_keys, own_values : (slots, key_heads, size, capacity) and (slots, key_heads, capacity, size).
    out : (rows, heads * size).
    """
    key_heads, size, capacity = own_keys.shape[1:]
    heads = out.shape[1] // size
    shared = heads // key_heads
    query = np.empty(size, np.float32)
    mixed = np.empty(size, np.float32)
    scores = np.empty(prompt_keys.shape[3] + capacity, np.float32)
    for row in range(first, last):
        prompt = prompt_of[row]
        slot = slots[row]
        length = prompt_lengths[prompt]
        total = length + count + 1
        cos = cosine[length + count]
        sin = sine[length + count]
        states = projected[row]
        target = out[row]
        for key_head in range(key_heads):
            keys = own_keys[slot, key_head]
            values = own_values[slot, key_head]
            at = (heads + key_head) * size
            _rotated(states[at : at + size], norms[1], epsilon, cos, sin, _ONE, query)
            for i in range(size):
                _put(keys[i], count, query[i])
            at += key_heads * size
            value = values[count]
            for i in range(size):
                value[i] = states[at + i]
            for head in range(key_head * shared, (key_head + 1) * shared):
                at = head * size
                _rotated(states[at : at + size], norms[0], epsilon, cos, sin, scaling, query)
                _score(query, prompt_keys[prompt, key_head], scores[:length])
                _score(query, keys, scores[length:total])
                largest = scores[0]
                for j in range(total):
                    largest = max(largest, scores[j])
                mass = np.float32(0.0)
                for j in range(total):
                    e = _exp(max(scores[j] - largest, FLOOR))
                    scores[j] = e
                    mass += e
                for i in range(size):
                    mixed[i] = 0.0
                _mix(scores[:length], prompt_values[prompt, key_head], mixed)
                _mix(scores[length:total], values, mixed)
                for i in range(size):
                    _put(target, at + i, mixed[i] / mass)
