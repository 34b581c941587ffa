"""Codes of 8 bits with scales: FP8 and INT8 per tensor, per row, per group of columns or per block.

The arithmetic is ``code * scale``, or ``(code - zero point) * scale``; a scale holds for a rectangle of codes. This is the layout of
DeepSeek-V3 and Qwen3 (``weight_scale_inv``, blocks of 128 x 128), compressed-tensors and FBGEMM (``weight_scale``), ModelOpt's FP8,
Mistral's ``qscale_weight``, ComfyUI's ``scale_weight``, quanto's ``_data`` and ``_scale``, and torchao's ``_weight_qdata`` and
``_weight_scale``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.quantised.layout import Group, Settings, Unreadable, dense_weight, stored_matrix, value_matrix
from dynamics.checkpoints.tensor import decode
from dynamics.errors import printable

if TYPE_CHECKING:
    from jaxtyping import Float32

    from dynamics.checkpoints.tensor import Tensor

#: roles of scales that multiply the codes, whatever their names suggest
SCALES = ("scale", "scale_inv", "qscale_weight", "scale_weight", "module_scale", "_scale")
CODES = ("float8_e4m3fn", "float8_e5m2", "int8")
#: block of DeepSeek-V3's training, in rows and columns, if the config gives none
USUAL_BLOCK = (128, 128)


def read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise codes of 8 bits; return the format's name and the dense weight."""
    codes = next((group.parts[role] for role in ("weight", "_data", "qdata") if role in group.parts), None)
    if codes is None or codes.dtype not in CODES:
        raise Unreadable(f"its codes are {'missing' if codes is None else codes.dtype}")
    found = [role for role in SCALES if role in group.parts]
    if len(found) != 1:
        raise Unreadable("no scale" if not found else f"several scales ({', '.join(found)})")
    scale, zero = group.parts[found[0]], group.parts.get("zero_point")
    extra = group.parts.keys() - {"weight", "_data", "qdata", found[0], "zero_point"}
    if extra:
        raise Unreadable(f"an unknown part {printable(min(extra), 40)}")
    exponents = scale.dtype in ("uint8", "float8_e8m0fnu")
    if scale.dtype.startswith(("int", "uint", "bool")) and not (exponents and codes.dtype != "int8"):
        raise Unreadable(f"scales of {scale.dtype}")
    if zero is not None and (zero.shape != scale.shape or not zero.dtype.startswith(("int", "float8_e4"))):
        raise Unreadable(f"zero points {zero.dtype} {zero.shape} for scales {scale.shape}")
    grid = Grid(codes.shape, scale.shape, blocks(settings.options))
    label = "INT8" if codes.dtype == "int8" else "MXFP8" if exponents and grid.block == (1, 32) else "FP8"
    label = f"quanto {label}" if "_data" in group.parts else f"torchao {label}" if "qdata" in group.parts else label
    width = codes.shape[-1] if codes.shape else 1

    def rectangle(row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        values = decode(stored_matrix(codes, width, row, last_row, column, last_column), codes.dtype)
        if zero is not None:
            values = values - grid.spread(zero, row, last_row, column, last_column)
        return values * grid.spread(scale, row, last_row, column, last_column)

    return label, dense_weight(group, label, codes.shape, settings.dense(scale), rectangle)


def read_torchao(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a weight of torchao with one scale, or one for each row; other layouts have the same names and are not told apart."""
    codes, scale = group.need("qdata", "scale")
    if codes.dtype not in CODES or len(codes.shape) != 2 or (scale.numel != 1 and scale.shape != (codes.shape[0], 1)):
        raise Unreadable(f"its codes are {codes.dtype} {codes.shape} and its scales {scale.shape}")
    return read(group, settings)


def blocks(options: Any) -> tuple[int, int] | None:
    """Look up the block of scales that a config states; None if it states none, or several."""
    found = {_pair(options.get("weight_block_size"))}
    groups = options.get("config_groups")
    for entry in groups.values() if isinstance(groups, dict) else ():
        weights = entry.get("weights") if isinstance(entry, dict) else None
        if isinstance(weights, dict):
            found.add(_pair(weights.get("block_structure")))
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(size, int) and size > 0 for size in value):
        return value[0], value[1]
    return None


class Grid:
    """How the scales of a weight are spread over its codes.

    Attributes
    ----------
    rows : rows of one matrix of a stack of matrices.
    block : rows and columns of codes that share a scale.
    scale_rows, scale_columns : number of scales of one matrix.
    stacked : every matrix of the stack has scales of its own.
    """

    def __init__(self, shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None):
        self.rows, columns = (shape[-2] if len(shape) > 1 else 1), (shape[-1] if shape else 1)
        lead = math.prod(shape[:-2])
        self.stacked, self.scale_rows, self.scale_columns = _scale_matrix(shape, scales, lead)
        self.block = _block((self.rows, columns), (self.scale_rows, self.scale_columns), block)

    def spread(self, scale: Tensor, row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
        """Return the scales of a rectangle of codes; of one row or column if they are all equal along it."""
        height, width = self.block
        rows = np.arange(row, last_row)
        numbers = (rows % self.rows) // height
        if self.stacked:
            numbers += rows // self.rows * self.scale_rows
        first, last = int(numbers.min()), int(numbers.max()) + 1
        left, right = column // width, -(-last_column // width)
        values = value_matrix(scale, self.scale_columns, first, last, left, right)
        if right - left > 1:
            values = values[:, np.arange(column, last_column) // width - left]
        return values[numbers - first] if last - first > 1 else values


def _scale_matrix(shape: tuple[int, ...], scales: tuple[int, ...], lead: int) -> tuple[bool, int, int]:
    """Tell whether each matrix of a stack has scales of its own, and how many rows and columns of them."""
    rows = shape[-2] if len(shape) > 1 else 1
    if math.prod(scales) == 1:
        return False, 1, 1
    if len(shape) == 2 and len(scales) == 1 and scales[0] == rows:
        return False, rows, 1
    if len(shape) >= 2 and len(scales) == len(shape) and scales[:-2] == shape[:-2]:
        return lead > 1, scales[-2], scales[-1]
    if len(shape) == 3 and scales == shape[:1]:
        return True, 1, 1
    if len(shape) == 3 and scales == shape[:2] and shape[1] != shape[2]:
        return True, rows, 1
    raise Unreadable(f"scales {scales} do not fit codes {shape}")


def _block(size: tuple[int, int], scales: tuple[int, int], stated: tuple[int, int] | None) -> tuple[int, int]:
    """Find how many rows and columns of codes share a scale: as stated, else evenly divided, else DeepSeek's 128 x 128."""
    candidates = [tuple(n if s == 1 else 1 if s == n else b for n, s, b in zip(size, scales, stated, strict=True))] if stated else []
    if all(n % s == 0 for n, s in zip(size, scales, strict=True) if s):
        candidates.append(tuple(n // s for n, s in zip(size, scales, strict=True) if s))
    candidates.append(tuple(n if s == 1 else 1 if s == n else b for n, s, b in zip(size, scales, USUAL_BLOCK, strict=True)))
    fitting = [
        block
        for block in candidates
        if len(block) == 2 and all(b > 0 and -(-n // b) == s for n, s, b in zip(size, scales, block, strict=True))
    ]
    if not fitting:
        raise Unreadable(f"scales {scales} do not fit codes {size}")
    if stated is None and len(set(fitting)) > 1:
        raise Unreadable(f"scales {scales} fit codes {size} in two ways, and no config states the block")
    return fitting[0][0], fitting[0][1]
