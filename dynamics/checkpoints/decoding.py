"""Compiled loops that decode stored bits in one pass, where numpy takes several, or a slow one."""

from __future__ import annotations

import numpy as np

from dynamics.numba_functions import compiled, wide_vectors


@compiled
def add_bfloat16(bits, values):
    """Add values with these bits of bfloat16, ``(n,)`` uint16, to ``values``, ``(n,)`` float64."""
    wide_vectors()
    for i in range(values.size):
        values[i] += np.float64(np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32))


@compiled
def widen_bfloat16(bits, values):
    """Decode bits of bfloat16, ``(n,)`` uint16, to float32."""
    wide_vectors()
    words = values.view(np.uint32)
    for i in range(bits.size):
        words[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16))


@compiled
def widen_bfloat16_twice(bits, values):
    """Decode bits of bfloat16, ``(n,)`` uint16, to float64."""
    wide_vectors()
    for i in range(bits.size):
        values[i] = np.float64(np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32))


@compiled
def widen_float16(bits, values):
    """Decode bits of float16, ``(n,)`` uint16, to float32; a NaN keeps its bits."""
    wide_vectors()
    words = values.view(np.uint32)
    for i in range(bits.size):
        bit = np.uint32(bits[i])
        size = np.uint32(bit & np.uint32(0x7FFF))
        sign = np.uint32(np.uint32(bit & np.uint32(0x8000)) << np.uint32(16))
        usual = np.uint32(np.uint32(size << np.uint32(13)) + np.uint32(112 << 23))  # exponents of float32 are larger by 112
        tiny = np.float32(np.float32(np.int32(size)) * np.float32(2.0**-24)).view(np.uint32)  # subnormal: a multiple of 2^-24
        word = usual if size >= np.uint32(0x0400) else tiny
        special = np.uint32(np.uint32(size << np.uint32(13)) | np.uint32(0x7F800000))
        word = special if size >= np.uint32(0x7C00) else word
        words[i] = np.uint32(word | sign)


@compiled
def look_up(stored, table, values):
    """Write the entries of a table, ``(256,)``, for bytes, ``(n,)`` uint8, to ``values``."""
    for i in range(stored.size):
        values[i] = table[stored[i]]
