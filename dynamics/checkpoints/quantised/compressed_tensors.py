"""``pack-quantized`` of compressed-tensors: integers of 1 to 8 bits along a row, packed into 32-bit words, with a scale for each group.

Codes are offset by half their range. Versions from 0.16 on pack 32 codes densely; older ones fill a word with whole codes, which differs
for 3, 5, 6 and 7 bits and shows in the number of words. Zero points are packed the same way along the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.quantised.layout import (
    Group,
    Settings,
    Unreadable,
    check_scales,
    dense_weight,
    group_numbers,
    natural_shape,
    stored_matrix,
    unpack,
    value_matrix,
    words_of,
)

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32

    from dynamics.checkpoints.tensor import Tensor


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a packed weight; return the format's name and the dense weight."""
    codes, scale, stated = group.need("packed", "scale", "shape")
    check_scales(scale)
    if stated.numel != 2 or codes.dtype != "int32" or len(codes.shape) != 2:
        raise Unreadable(f"codes {codes.dtype} {codes.shape}; stacks are not read")
    rows, columns = shape = natural_shape(stated.stored().tolist())
    bits, dense = _packing(codes.shape, (rows, columns), settings)
    groups = scale.numel // rows if rows else 0
    per_row = scale.numel != 1
    if per_row and (scale.shape not in ((rows, groups), (rows,)) or not groups or columns % groups):
        raise Unreadable(f"scales {scale.shape} for a weight {shape}")
    size = columns // groups if per_row else columns
    zero = group.parts.get("zero_point")
    plain = zero is not None and zero.dtype == "int8" and zero.shape == scale.shape  # older versions, also for symmetric weights
    if zero is not None and not plain and (zero.shape != (_words(rows, bits, dense), groups) or zero.dtype != "int32"):
        raise Unreadable(f"zero points {zero.dtype} {zero.shape} for a weight {shape}")
    order = group.parts.get("g_idx")
    if order is not None and (order.numel != columns or int(order.stored(0, min(1, columns)).max(initial=0)) < 0):
        order = None
    label = f"compressed-tensors INT{bits}"

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        values = _unpacked(codes, codes.shape[1], bits, dense, row, last_row, column, last_column)
        if not per_row:
            if plain and zero is not None:
                values = values - value_matrix(zero, 1, 0, 1, 0, 1)
            return values * value_matrix(scale, 1, 0, 1, 0, 1)
        numbers = group_numbers(order, size, column, last_column, groups)
        first, last = int(numbers.min()), int(numbers.max()) + 1
        scales = value_matrix(scale, groups, row, last_row, first, last)
        if zero is not None:
            box = (row, last_row, first, last)
            points = value_matrix(zero, groups, *box) if plain else _zero_points(zero, bits, dense, *box)
            values = values - points[:, numbers - first]
        return values.astype(np.float32) * scales[:, numbers - first]

    return label, dense_weight(group, label, shape, settings.dense(scale), rectangle)


def _packing(packed: tuple[int, ...], shape: tuple[int, int], settings: Settings) -> tuple[int, bool]:
    """Find the bits of a code, and whether codes are packed densely, from the number of words of a row."""
    stated = _bits(settings)
    found = [
        (bits, dense)
        for bits in range(1, 9)
        for dense in (True, False)
        if packed == (shape[0], _words(shape[1], bits, dense)) and (not stated or bits in stated) and (dense or 32 % bits)
    ]
    if len({bits for bits, _ in found}) == 1 and (len(found) == 1 or packed[1] == 1):  # a single word is the same either way
        return found[0]
    raise Unreadable(f"{packed[-1]} words a row fit {len(found)} ways of packing {shape[1]} codes")


def _bits(settings: Settings) -> set[int]:
    groups = settings.options.get("config_groups")
    entries = groups.values() if isinstance(groups, dict) else ()
    weights = [entry.get("weights") for entry in entries if isinstance(entry, dict)]
    return {entry["num_bits"] for entry in weights if isinstance(entry, dict) and isinstance(entry.get("num_bits"), int)}


def _words(count: int, bits: int, dense: bool) -> int:
    return -(-count * bits // 32) if dense else -(-count // (32 // bits))


def _unpacked(
    words: Tensor, width: int, bits: int, dense: bool, row: int, last_row: int, column: int, last_column: int
) -> Int32[np.ndarray, "rows columns"]:
    """Unpack a rectangle of signed codes; ``width`` is the number of words of a row."""
    if dense:
        first, last = words_of(column, last_column - column, bits)
        codes = unpack(stored_matrix(words, width, row, last_row, first, last), bits, column, last_column - column)
    else:
        each = 32 // bits
        first, last = column // each, -(-last_column // each)
        stored = stored_matrix(words, width, row, last_row, first, last).view(np.uint32)
        index = np.arange(column, last_column)
        codes = (stored[:, index // each - first] >> (index % each * bits).astype(np.uint32)) & np.uint32((1 << bits) - 1)
    return codes.astype(np.int32) - (1 << (bits - 1))


def _zero_points(
    zero: Tensor, bits: int, dense: bool, row: int, last_row: int, column: int, last_column: int
) -> Int32[np.ndarray, "rows groups"]:
    """Unpack zero points of some rows and groups; they are packed along the rows."""
    each = 32 // bits
    first, last = words_of(row, last_row - row, bits) if dense else (row // each, -(-last_row // each))
    words = np.ascontiguousarray(stored_matrix(zero, zero.shape[1], first, last, column, last_column).T)
    if dense:
        codes = unpack(words, bits, row, last_row - row)
    else:
        index = np.arange(row, last_row)
        codes = (words.view(np.uint32)[:, index // each - first] >> (index % each * bits).astype(np.uint32)) & np.uint32((1 << bits) - 1)
    return (codes.astype(np.int32) - (1 << (bits - 1))).T
