"""AWQ's ``gemm`` layout: integers of 4 bits packed along the outputs of the transposed weight, in the order 0 2 4 6 1 3 5 7.

``qweight`` (inputs, outputs / 8), ``qzeros`` (groups, outputs / 8), ``scales`` (groups, outputs). AWQ also moves a scale of each channel
from a weight to the layer before it, so that the dequantised weights are those of a rescaled model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.quantised.layout import Group, Settings, Unreadable, check_scales, dense_weight, stored_matrix, value_matrix
from dynamics.errors import printable

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32

    from dynamics.checkpoints.tensor import Tensor

#: position of each output's code in its word of eight
ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)


def is_awq(group: Group) -> bool:
    """Tell AWQ from GPTQ, which uses the same names: AWQ packs the outputs, GPTQ the inputs."""
    codes, scale = group.parts.get("qweight"), group.parts.get("scales")
    return codes is not None and scale is not None and len(codes.shape) == len(scale.shape) == 2 and codes.shape[1] * 8 == scale.shape[1]


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise an AWQ weight; return the format's name and the dense weight."""
    codes, scale, zeros = group.need("qweight", "scales", "qzeros")
    version = str(settings.options.get("version", settings.options.get("format", "gemm"))).lower()
    if settings.method == "awq" and version != "gemm":
        raise Unreadable(f"its layout is {printable(version, 40)}; gemm is read")
    check_scales(scale)
    if not is_awq(group):
        raise Unreadable(f"codes {codes.shape} and scales {scale.shape} are not those of gemm")
    (inputs, words), (groups, outputs) = codes.shape, scale.shape
    if settings.options.get("bits", settings.options.get("w_bit", 4)) != 4 or codes.dtype != "int32" or zeros.dtype != "int32":
        raise Unreadable(f"codes {codes.dtype} {codes.shape}; 4 bits in int32 are read")
    if not groups or inputs % groups or zeros.shape != (groups, words):
        raise Unreadable(f"zero points {zeros.shape} and scales {scale.shape} do not fit codes {codes.shape}")
    size = inputs // groups

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        low, high = column // size, -(-last_column // size)
        values = _unpacked(codes, words, column, last_column, row, last_row)
        numbers = np.arange(column, last_column) // size - low
        points = _unpacked(zeros, words, low, high, row, last_row)
        scales = value_matrix(scale, outputs, low, high, row, last_row)
        return np.ascontiguousarray(((values - points[numbers]).astype(np.float32) * scales[numbers]).T)

    return "AWQ 4-bit", dense_weight(group, "AWQ 4-bit", (outputs, inputs), settings.dense(scale), rectangle)


def _unpacked(words: Tensor, width: int, first: int, last: int, output: int, last_output: int) -> Int32[np.ndarray, "inputs outputs"]:
    low, high = output // 8, -(-last_output // 8)
    packed = stored_matrix(words, width, first, last, low, high).view(np.uint32)
    codes = (packed[:, :, None] >> (4 * ORDER)) & np.uint32(0xF)
    return codes.reshape(last - first, -1)[:, output - 8 * low : last_output - 8 * low].astype(np.int32)
