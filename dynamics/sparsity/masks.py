"""Masks of the weights that changed, by the definition in ``dynamics.sparsity.definitions``.

The masks of a LoRA adapter are those of the base against ``base + scaling B A`` (``dynamics.checkpoints.adapter``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.tensor import FITS_BFLOAT16, FITS_FLOAT32, STORAGE, bfloat16_bits, decode
from dynamics.sparsity.definitions import DEFAULT_THRESHOLDS, RULES, Thresholds

if TYPE_CHECKING:  # jaxtyping costs more than all that `import dynamics.sparsity` needs
    from jaxtyping import Bool, Float, Shaped, UInt, UInt8, UInt16


def comparable(
    a: Shaped[np.ndarray, " n"],
    dtype_a: str,
    b: Shaped[np.ndarray, " n"],
    dtype_b: str,
    room: Sequence[UInt8[np.ndarray, " bytes"]] | None = None,
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    """Convert two flat arrays of stored values to the narrowest format that represents both exactly.

    Parameters
    ----------
    a, b : ``(n,)``, as stored (bfloat16 as uint16; see ``checkpoints.tensor.STORAGE``).
    dtype_a, dtype_b : stored dtypes, by their names in torch.
    room : memory for what is converted of each side, 8 bytes an element; new memory is slower, since the system clears it first.

    Returns
    -------
    ``(n,)`` each: uint16 with the bits of bfloat16 if that represents all values of both dtypes, else float32 or float64. The same array
    twice if ``a is b``.
    """
    if {dtype_a, dtype_b} <= FITS_BFLOAT16 | {"bfloat16"}:
        x = _as_bfloat16(a, dtype_a, room[0] if room else None)
        return x, x if a is b and dtype_a == dtype_b else _as_bfloat16(b, dtype_b, room[1] if room else None)
    wide = np.float32 if dtype_a in FITS_FLOAT32 and dtype_b in FITS_FLOAT32 else np.float64
    x = _decoded(a, dtype_a, wide, room[0] if room else None)
    return x, x if a is b else _decoded(b, dtype_b, wide, room[1] if room else None)


def _as_bfloat16(stored: Shaped[np.ndarray, " n"], dtype: str, room: UInt8[np.ndarray, " bytes"] | None) -> UInt16[np.ndarray, " n"]:
    if dtype == "bfloat16":
        return _contiguous(stored, np.uint16)
    from dynamics.checkpoints.decoding import look_up

    bits: UInt16[np.ndarray, " n"] = np.empty(stored.size, np.uint16) if room is None else room[: 2 * stored.size].view(np.uint16)
    look_up(_contiguous(stored.view(np.uint8), np.uint8), bfloat16_bits(dtype), bits)
    return bits


def _decoded(stored: Shaped[np.ndarray, " n"], dtype: str, wide: type, room: UInt8[np.ndarray, " bytes"] | None) -> Float[np.ndarray, " n"]:
    if STORAGE[dtype].type is wide:
        return _contiguous(stored, wide)
    values: Float[np.ndarray, " n"] = (
        np.empty(stored.size, wide) if room is None else room[: stored.size * np.dtype(wide).itemsize].view(wide)
    )
    if dtype in ("bfloat16", "float16"):
        from dynamics.checkpoints import decoding

        if dtype == "bfloat16" or wide is np.float32:
            widen = {"float16": decoding.widen_float16, "bfloat16": decoding.widen_bfloat16}[dtype]
            if wide is np.float64:
                widen = decoding.widen_bfloat16_twice
            widen(_contiguous(stored.view(np.uint16), np.uint16), values)
            return values
    values[:] = decode(stored, dtype)
    return values


def _contiguous(array: Shaped[np.ndarray, " n"], dtype: type) -> Shaped[np.ndarray, " n"]:
    """Return the array in the memory layout that the kernels are compiled for."""
    return array if array.dtype == dtype and array.flags.carray else np.require(array, dtype, ["C", "A", "W"])


def bit_patterns(values: Float[np.ndarray, " n"]) -> tuple[UInt[np.ndarray, " n"], np.unsignedinteger[Any], np.unsignedinteger[Any]]:
    """View float32 or float64 values as unsigned integers; also return the masks of the exponent bits and of all bits but the sign."""
    if values.dtype == np.float32:
        return values.view(np.uint32), np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)
    return values.view(np.uint64), np.uint64(0x7FF0000000000000), np.uint64(0x7FFFFFFFFFFFFFFF)


def compares_as_integers(dtype_a: str, dtype_b: str) -> bool:
    """Whether ``exact`` compares the stored integers, because float64 cannot represent all of them."""
    return dtype_a == dtype_b and dtype_a in ("int64", "uint64")


def changed(
    a: Shaped[np.ndarray, " n"],
    dtype_a: str,
    b: Shaped[np.ndarray, " n"],
    dtype_b: str,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> UInt8[np.ndarray, " n"]:
    """Mark the rules under which each weight changed.

    Parameters
    ----------
    a, dtype_a, b, dtype_b : see ``comparable``.
    thresholds : of the rules ``rtol`` and ``atol``.

    Returns
    -------
    ``(n,)`` uint8: bit ``RULES.index(rule)`` is set where the weight changed under that rule.

    Examples
    --------
    >>> base, tuned = np.array([1.0, 0.0, 2.0], np.float32), np.array([1.0, -0.0, 2.001], np.float32)
    >>> changed(base, "float32", tuned, "float32").tolist()  # exact and atol
    [0, 0, 9]
    """
    from dynamics.sparsity import kernels

    x, y = comparable(a, dtype_a, b, dtype_b)
    marks = np.empty(x.size, np.uint8)
    if x.dtype == np.uint16:
        kernels.mark_bfloat16(x, y, thresholds.rtol, thresholds.atol, marks)
        return marks
    bits_x, exponent, magnitude = bit_patterns(x)
    kernels.mark_float(x, y, bits_x, bit_patterns(y)[0], exponent, magnitude, thresholds.rtol, thresholds.atol, marks)
    if compares_as_integers(dtype_a, dtype_b):
        marks = (marks & ~np.uint8(kernels.EXACT_MARK)) | (a != b) * np.uint8(kernels.EXACT_MARK)
    return marks


def changed_under(rule: str, marks: UInt8[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Return the boolean mask of one rule from the marks of ``changed``."""
    return ((marks >> RULES.index(rule)) & 1).astype(bool)
