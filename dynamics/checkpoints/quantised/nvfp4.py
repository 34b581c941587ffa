"""NVFP4: E2M1 codes, 16 of which share an FP8 scale, and one more scale for the whole weight.

compressed-tensors stores ``weight_packed``, ``weight_scale`` and ``weight_global_scale``, by which the scales are divided. ModelOpt stores
``weight``, ``weight_scale`` and ``weight_scale_2``, by which they are multiplied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.quantised import fp4
from dynamics.checkpoints.quantised.layout import Group, Settings, Unreadable, dense_weight, value_matrix

if TYPE_CHECKING:
    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

BLOCK = 16


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise an NVFP4 weight; return the format's name and the dense weight."""
    codes = group.parts.get("packed") or group.parts["weight"]
    divide = "global_scale" in group.parts
    scale, whole = group.need("scale", "global_scale" if divide else "scale_2")
    if codes.dtype != "uint8" or scale.dtype != "float8_e4m3fn" or not fp4.fits(codes.shape, scale.shape, BLOCK):
        raise Unreadable(f"codes {codes.dtype} {codes.shape} and scales {scale.dtype} {scale.shape} do not fit")
    stacked = whole.numel == codes.shape[0] > 1 and len(codes.shape) == 3
    if whole.dtype != "float32" or (whole.numel != 1 and not stacked):
        raise Unreadable(f"a global scale {whole.dtype} {whole.shape}")
    shape = fp4.dense_shape(codes.shape)

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        box = (shape[-1], row, last_row, column, last_column)
        factor = value_matrix(whole, 1, 0, whole.numel, 0, 1)
        if stacked:
            factor = factor[np.arange(row, last_row) // shape[-2]]
        of_block = fp4.scales(scale, BLOCK, *box)
        return fp4.values(codes, *box) * (of_block / factor if divide else of_block * factor)

    return "NVFP4", dense_weight(group, "NVFP4", shape, settings.dense(scale), rectangle)
