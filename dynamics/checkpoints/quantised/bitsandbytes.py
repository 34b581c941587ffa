"""bitsandbytes: ``nf4`` and ``fp4`` with one scale for each block of the flattened weight, and ``int8`` with one for each row.

A 4-bit weight is a column of bytes, the first code in the upper half; its state lies beside it as ``absmax``, ``quant_map`` and a JSON text
in ``quant_state.bitsandbytes__nf4``. With double quantisation ``absmax`` is itself quantised (``nested_absmax``, ``nested_quant_map``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.quantised.layout import (
    DENSE,
    Group,
    Settings,
    Unreadable,
    dense_weight,
    natural_shape,
    pairs,
    small_json,
    stored_bytes,
    stored_matrix,
    value_matrix,
)
from dynamics.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

STATE = "quant_state.bitsandbytes__"
#: the reciprocal of 127 to the digits that bitsandbytes multiplies by
STEP = np.float32(7.874015718698502e-3)


def read_4bit(group: Group, _settings: Settings) -> tuple[str, Tensor]:
    """Dequantise an ``nf4`` or ``fp4`` weight; return the format's name and the dense weight."""
    names = [role for role in group.parts if role.startswith("quant_state.")]
    if len(names) != 1 or not names[0].startswith(STATE):
        raise Unreadable("no quant_state, or several")
    codes, absmax, table = group.need("weight", "absmax", "quant_map")
    state = small_json(group.parts[names[0]])
    shape, block = natural_shape(state.get("shape")), _natural(state, "blocksize")
    numel = math.prod(shape)
    kind, dtype = names[0].removeprefix(STATE), state.get("dtype")
    size = codes.numel * codes.storage.itemsize
    if kind not in ("nf4", "fp4") or block > 1 << 16 or dtype not in DENSE or table.shape != (16,) or table.dtype != "float32":
        raise Unreadable(f"a state of {printable(kind, 40)}, {printable(dtype, 40)}")
    if not -(-numel // 2) <= size < -(-numel // 2) + codes.storage.itemsize or absmax.numel != -(-numel // block):
        raise Unreadable(f"{size} bytes of codes and {absmax.numel} blocks of {block} do not fit {shape}")
    scales = _scales(group, state)
    label = f"bitsandbytes {kind}"

    columns = shape[-1]

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        start, stop = row * columns + column, (last_row - 1) * columns + last_column
        first, low = start // 2, start // block
        values = pairs(table.stored(), high_first=True)[stored_bytes(codes, first, -(-stop // 2))].reshape(-1)
        spread = np.repeat(scales(low, -(-stop // block)), block)
        values = values[start - 2 * first : stop - 2 * first] * spread[start - low * block : stop - low * block]
        return values.reshape(last_row - row, -1)

    return label, dense_weight(group, label, shape, str(dtype), rectangle)


def _scales(group: Group, state: dict[str, Any]) -> Callable[[int, int], Float32[np.ndarray, " blocks"]]:
    """Return a function that reads the scales of some blocks."""
    absmax, nested = group.parts["absmax"], group.parts.get("nested_absmax")
    if nested is None:
        if absmax.dtype != "float32":
            raise Unreadable(f"scales of {absmax.dtype}")
        return lambda first, last: absmax.stored(first, last)
    (table,) = group.need("nested_quant_map")
    block, offset = _natural(state, "nested_blocksize"), state.get("nested_offset")
    known = absmax.dtype == "uint8" and table.shape == (256,) and table.dtype == nested.dtype == "float32"
    if not known or nested.numel != -(-absmax.numel // block) or type(offset) not in (int, float):
        raise Unreadable("its nested scales do not fit")

    def scales(first: int, last: int) -> Float32[np.ndarray, " blocks"]:
        low = first // block
        outer = nested.stored(low, -(-last // block))[np.arange(first, last) // block - low]
        return table.stored()[absmax.stored(first, last)] * outer + np.float32(offset)

    return scales


def _natural(state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or value <= 0:
        raise Unreadable(f"its state has no {key}")
    return value


def read_int8(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise an ``int8`` weight; return the format's name and the dense weight."""
    codes, scale = group.need("weight", "SCB")
    order = group.parts.get("weight_format")
    if codes.dtype != "int8" or len(codes.shape) != 2 or scale.dtype != "float32" or scale.numel != codes.shape[0]:
        raise Unreadable(f"codes {codes.dtype} {codes.shape} and scales {scale.dtype} {scale.shape}")
    if order is not None and (order.numel != 1 or int(order.stored()[0]) != 0):
        raise Unreadable("its codes are not in row-major order")
    width = codes.shape[1]

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        values = stored_matrix(codes, width, row, last_row, column, last_column).astype(np.float32)
        return values * value_matrix(scale, 1, row, last_row, 0, 1) * STEP

    dtype = settings.dtype or "float32"
    return "bitsandbytes int8", dense_weight(group, "bitsandbytes int8", codes.shape, dtype, rectangle)
