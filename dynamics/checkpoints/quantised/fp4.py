"""Codes of four bits that are small floats (E2M1), two to a byte, with a scale for each 16 (NVFP4) or 32 (MXFP4) of a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.quantised.layout import E2M1, pairs, stored_matrix, value_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

#: the two values of every byte, the lower half first
PAIRS = pairs(E2M1)


def values(codes: Tensor, width: int, row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
    """Read codes without their scales; ``width`` is the number of codes of a row."""
    first = column // 2
    packed = stored_matrix(codes, width // 2, row, last_row, first, -(-last_column // 2))
    values = PAIRS[packed].reshape(last_row - row, -1)
    return values[:, column - 2 * first : last_column - 2 * first]


def scales(
    scale: Tensor, block: int, width: int, row: int, last_row: int, column: int, last_column: int
) -> Float32[np.ndarray, "rows columns"]:
    """Read the scale of every code of a rectangle; ``block`` codes of a row share one."""
    first = column // block
    found = value_matrix(scale, width // block, row, last_row, first, -(-last_column // block))
    return np.repeat(found, block, axis=1)[:, column - first * block : last_column - first * block]


def fits(codes: tuple[int, ...], scale: tuple[int, ...], block: int) -> bool:
    """Tell whether the shapes of bytes and scales agree with a block size."""
    return len(codes) >= 2 and len(codes) == len(scale) and codes[:-1] == scale[:-1] and 2 * codes[-1] == block * scale[-1] > 0


def transposed(
    rectangle: Callable[[int, int, int, int], Float32[np.ndarray, "rows columns"]], rows: int, columns: int
) -> Callable[[int, int, int, int], Float32[np.ndarray, "rows columns"]]:
    """Swap the last two axes of a stack of matrices of ``rows`` x ``columns``."""

    def swapped(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        parts = []
        while row < last_row:
            matrix, first = divmod(row, columns)
            last = min(columns, first + last_row - row)
            parts.append(rectangle(matrix * rows + column, matrix * rows + last_column, first, last).T)
            row += last - first
        return np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])

    return swapped


def dense_shape(codes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight whose bytes have a given shape."""
    return (*codes[:-1], 2 * codes[-1]) if math.prod(codes) else codes
