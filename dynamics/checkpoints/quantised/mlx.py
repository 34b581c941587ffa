"""MLX's affine quantisation: codes of 2 to 8 bits packed densely along a row of 32-bit words; ``code * scale + bias`` for each group.

The config states bits and group size, for the model or for a module; they do not follow from the shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.quantised import mxfp4
from dynamics.checkpoints.quantised.layout import (
    DENSE,
    Group,
    Settings,
    Unreadable,
    dense_weight,
    rounded,
    stored_matrix,
    unpack,
    value_matrix,
    words_of,
)
from dynamics.checkpoints.tensor import decode
from dynamics.errors import printable

if TYPE_CHECKING:
    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

BITS = (2, 3, 4, 5, 6, 8)


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a weight of MLX; return the format's name and the dense weight."""
    codes, scale = group.need("weight", "scales")
    options = _options(group.module, settings)
    if options.get("mode") == "mxfp4" and "biases" not in group.parts:
        return mxfp4.read_mlx(group, settings)
    if options.get("mode", "affine") != "affine" or "biases" not in group.parts:
        raise Unreadable(f"its mode is {printable(options.get('mode', 'unknown'), 40)}; affine and mxfp4 are read")
    bias = group.parts["biases"]
    bits, size = options.get("bits"), options.get("group_size")
    if type(bits) is not int or bits not in BITS or type(size) is not int or size <= 0:
        raise Unreadable("no config states its bits and group size")
    groups = scale.shape[-1] if scale.shape else 0
    columns, width = groups * size, codes.shape[-1] if codes.shape else 0
    fits = len(codes.shape) >= 2 and codes.shape[:-1] == scale.shape[:-1] and bias.shape == scale.shape and width * 32 == columns * bits
    if codes.dtype not in ("uint32", "int32") or not fits:
        raise Unreadable(f"{bits} bits in groups of {size} do not fit codes {codes.shape} and scales {scale.shape}")
    if scale.dtype not in DENSE or bias.dtype != scale.dtype:
        raise Unreadable(f"scales of {scale.dtype} and biases of {bias.dtype}")
    label = f"MLX {bits}-bit"

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        first, last = words_of(column, last_column - column, bits)
        packed = stored_matrix(codes, width, row, last_row, first, last)
        values = unpack(packed, bits, column, last_column - column).astype(np.float32)
        low, high = column // size, -(-last_column // size)
        numbers = np.arange(column, last_column) // size - low
        scales, biases = (value_matrix(tensor, groups, row, last_row, low, high)[:, numbers] for tensor in (scale, bias))
        products = rounded((values * scales).reshape(-1), scale.dtype).reshape(values.shape)  # mlx rounds the product too
        return decode(products, scale.dtype) + biases

    return label, dense_weight(group, label, (*codes.shape[:-1], columns), settings.dense(scale), rectangle)


def _options(module: str, settings: Settings) -> dict[str, Any]:
    """Look up the options of a module: its own entry in the config, over those of the model."""
    options = dict(settings.options)
    own = options.get(module)
    return options | own if isinstance(own, dict) else options
