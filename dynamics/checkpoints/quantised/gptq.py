"""GPTQ: integers of 2, 3, 4 or 8 bits packed along the input axis of the transposed weight.

``qweight`` (inputs * bits / 32, outputs), ``scales`` (groups, outputs), ``qzeros`` (groups, outputs * bits / 32) and ``g_idx``, the group
of each input. Format ``gptq`` stores each zero point less one, ``gptq_v2`` as it is. Without a config, zero points that are all at the
middle of the range tell the two apart.
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
    stored_matrix,
    unpack,
    value_matrix,
    words_of,
)
from dynamics.errors import printable

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt32

    from dynamics.checkpoints.tensor import Tensor

BITS = (2, 3, 4, 8)
#: zero points that are read to tell the two formats apart
SAMPLE = 4096


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a GPTQ weight; return the format's name and the dense weight."""
    codes, scale, zeros = group.need("qweight", "scales", "qzeros")
    order = group.parts.get("g_idx")
    check_scales(scale)
    if codes.dtype not in ("int32", "uint32") or zeros.dtype not in ("int32", "uint32") or len(codes.shape) != 2 or len(scale.shape) != 2:
        raise Unreadable(f"codes {codes.dtype} {codes.shape} and scales {scale.shape}")
    (words, outputs), groups = codes.shape, scale.shape[0]
    bits, inputs = _bits(words, outputs, zeros.shape, group, settings)
    size = _group_size(inputs, groups, settings)
    if order is not None and order.shape != (inputs,):
        raise Unreadable(f"g_idx {order.shape} for {inputs} inputs")
    offset = _offset(zeros, bits, settings)
    label = f"GPTQ {bits}-bit"

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        first, last = words_of(column, last_column - column, bits)
        packed = np.ascontiguousarray(stored_matrix(codes, outputs, first, last, row, last_row).T)
        values = unpack(packed, bits, column, last_column - column).astype(np.int32)
        numbers = group_numbers(order, size, column, last_column, groups)
        low, high = int(numbers.min()), int(numbers.max()) + 1
        scales = value_matrix(scale, outputs, low, high, row, last_row).T
        points = (_zero_points(zeros, bits, low, high, row, last_row).astype(np.int32) + offset) & ((1 << bits) - 1)
        return (values - points.T[:, numbers - low]).astype(np.float32) * scales[:, numbers - low]

    return label, dense_weight(group, label, (outputs, inputs), settings.dense(scale), rectangle)


def _bits(words: int, outputs: int, zeros: tuple[int, ...], group: Group, settings: Settings) -> tuple[int, int]:
    """Find the bits of a code and the number of inputs, on which the shapes must agree."""
    groups = group.parts["scales"].shape[0]
    if group.parts["scales"].shape[1] != outputs:
        raise Unreadable(f"scales {group.parts['scales'].shape} for {outputs} outputs")
    stated = settings.options.get("bits", settings.options.get("w_bit"))
    order = group.parts.get("g_idx")
    inputs = {bits: order.numel if order is not None else words * 32 // bits for bits in BITS}
    found = [bits for bits, count in inputs.items() if zeros == (groups, -(-outputs * bits // 32)) and words == -(-count * bits // 32)]
    if stated in found:  # GPTQModel states the bits of most modules, and overrides them for some
        found = [stated]
    if len(found) != 1:
        raise Unreadable(f"{words} words of codes and zero points {zeros} fit {len(found)} numbers of bits")
    return found[0], inputs[found[0]]


def _group_size(inputs: int, groups: int, settings: Settings) -> int:
    stated = settings.options.get("group_size", settings.options.get("q_group_size"))
    if isinstance(stated, int) and stated > 0 and -(-inputs // stated) == groups:
        return stated
    if not groups or inputs % groups:
        raise Unreadable(f"{groups} groups do not fit {inputs} inputs")
    return inputs // groups


def _offset(zeros: Tensor, bits: int, settings: Settings) -> int:
    """Return what is added to stored zero points: 1 for ``gptq``, 0 for ``gptq_v2``."""
    layout = settings.options.get("checkpoint_format") or settings.options.get("format")
    if settings.method == "gptq" and layout in (None, "gptq", "gptq_v2"):
        return 0 if layout == "gptq_v2" else 1
    if layout not in (None, "gptq", "gptq_v2"):
        raise Unreadable(f"its layout is {printable(layout, 40)}")
    sample = zeros.stored(0, min(zeros.numel, SAMPLE)).view(np.uint32)
    middle = 1 << (bits - 1)
    for point, offset in ((middle - 1, 1), (middle, 0)):
        full = sum(point << shift for shift in range(0, 32, bits)) & 0xFFFFFFFF
        if 32 % bits == 0 and sample.size and bool((sample == full).all()):
            return offset
    raise Unreadable("no quantization_config says whether its zero points are stored less one (gptq) or not (gptq_v2)")


def _zero_points(zeros: Tensor, bits: int, low: int, high: int, row: int, last_row: int) -> UInt32[np.ndarray, "groups rows"]:
    first, last = words_of(row, last_row - row, bits)
    packed = stored_matrix(zeros, zeros.shape[1], low, high, first, last)
    return unpack(packed, bits, row, last_row - row)
