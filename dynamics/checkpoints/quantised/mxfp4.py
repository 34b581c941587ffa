"""MXFP4: E2M1 codes, 32 of which share a power of two (OCP Microscaling Formats 1.0).

gpt-oss stores stacked experts as ``*_blocks`` (experts, rows, groups, 16 bytes) and ``*_scales`` (experts, rows, groups); the dense weight
of transformers is their transpose, (experts, columns, rows). Its original files name them ``*.blocks`` and ``*.scales`` and have no
transposed counterpart. compressed-tensors stores ``weight_packed`` and ``weight_scale``, ModelOpt ``weight`` and ``weight_scale``, both as
(rows, bytes) and (rows, groups); MLX stores the same bytes as 32-bit words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.quantised import fp4
from dynamics.checkpoints.quantised.layout import Group, Rectangle, Settings, Unreadable, as_bytes, dense_weight

if TYPE_CHECKING:
    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

BLOCK = 32
EXPONENTS = ("uint8", "float8_e8m0fnu")


def read_experts(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise the stacked experts of gpt-oss; return the format's name and the dense weight."""
    codes, scale = group.need("blocks", "scales")
    shape = codes.shape
    if codes.dtype != "uint8" or scale.dtype not in EXPONENTS or len(shape) != 4 or scale.shape != shape[:-1] or shape[-1] != BLOCK // 2:
        raise Unreadable(f"blocks {codes.dtype} {shape} and scales {scale.dtype} {scale.shape} do not fit")
    experts, rows, groups, _ = shape
    columns = groups * BLOCK
    rectangle = _rectangle(codes, scale, columns)
    if not codes.name.endswith("_blocks"):  # the original files: (experts, rows, columns)
        return "MXFP4", dense_weight(group, "MXFP4", (experts, rows, columns), settings.dense(codes), rectangle)
    shape = (experts, columns, rows)
    return "MXFP4", dense_weight(group, "MXFP4", shape, settings.dense(codes), fp4.transposed(rectangle, rows, columns))


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a linear layer's weight; return the format's name and the dense weight."""
    codes = group.parts.get("packed") or group.parts["weight"]
    (scale,) = group.need("scale")
    return _linear(group, codes, scale, settings)


def read_mlx(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a weight of MLX's mode ``mxfp4``, whose bytes are stored as 32-bit words."""
    codes, scale = group.need("weight", "scales")
    return _linear(group, as_bytes(codes), scale, settings)


def _linear(group: Group, codes: Tensor, scale: Tensor, settings: Settings) -> tuple[str, Tensor]:
    if codes.dtype != "uint8" or scale.dtype not in EXPONENTS or not fp4.fits(codes.shape, scale.shape, BLOCK):
        raise Unreadable(f"codes {codes.dtype} {codes.shape} and scales {scale.dtype} {scale.shape} do not fit")
    shape = fp4.dense_shape(codes.shape)
    return "MXFP4", dense_weight(group, "MXFP4", shape, settings.dense(codes), _rectangle(codes, scale, shape[-1]))


def _rectangle(codes: Tensor, scale: Tensor, width: int) -> Rectangle:
    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        box = (width, row, last_row, column, last_column)
        return fp4.values(codes, *box) * fp4.scales(scale, BLOCK, *box)

    return rectangle
