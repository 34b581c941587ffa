"""Lazy dense tensors over quantised codes: read rectangles of stored matrices, unpack codes, and round the result.

Arithmetic is done in float32 and rounded once to the dtype of the dense weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.tensor import MOST_AXES, MOST_ELEMENTS, STORAGE, Tensor, decode
from dynamics.errors import InputError, printable
from dynamics.io.side_files import json_object

if TYPE_CHECKING:  # importing jaxtyping takes longer than all other imports needed to read a checkpoint
    from jaxtyping import Float32, Int64, Shaped, UInt32

#: (first row, last row + 1, first column, last column + 1) of a weight -> its values there
Rectangle = Callable[[int, int, int, int], "Float32[np.ndarray, 'rows columns']"]

#: reading one row of a matrix costs about as much time as reading this many bytes
BYTES_PER_READ = 16_384
#: bytes of whole rows that are read at once in order to cut columns out of them
ROWS_AT_ONCE = 1 << 22
#: values of the OCP FP4 format E2M1 by code; the fourth bit is the sign
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
#: dtypes of dense weights
DENSE = ("bfloat16", "float16", "float32")


class Unreadable(Exception):
    """A quantised weight that is not dequantised; the message completes "quantised as ...: "."""


@dataclass(frozen=True)
class Group:
    """The stored tensors of one quantised weight.

    Attributes
    ----------
    name : usual name of the dense weight.
    parts : role -> tensor: ``weight`` for codes under the weight's own name, else the end of the stored name.
    """

    name: str
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Name of the module that owns the weight."""
        return self.name.removesuffix(".weight")

    def need(self, *roles: str) -> list[Tensor]:
        """Return the tensors of some roles, all of which must be there."""
        missing = [role for role in roles if role not in self.parts]
        if missing:
            raise Unreadable(f"{' and '.join(missing)} missing")
        return [self.parts[role] for role in roles]


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's JSON files say about its quantisation.

    Attributes
    ----------
    method : ``quant_method`` in lower case; empty if there is none.
    options : the quantisation config itself.
    dtype : dtype of the model's dense weights; empty if unknown.
    """

    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""

    def dense(self, tensor: Tensor) -> str:
        """Return the dtype of a dense weight: the model's, else that of ``tensor`` (its scales), else bfloat16."""
        return self.dtype or (tensor.dtype if tensor.dtype in DENSE else "bfloat16")


def check_scales(*scales: Tensor) -> None:
    """Refuse scales that are no floats."""
    for scale in scales:
        if scale.dtype not in DENSE:
            raise Unreadable(f"its scales are {scale.dtype}")


def dense_weight(group: Group, label: str, shape: tuple[int, ...], dtype: str, rectangle: Rectangle) -> Tensor:
    """Make the dense weight of a group.

    Parameters
    ----------
    group, label : the group, and the format's name; they make the ``source`` of the tensor.
    shape : of the dense weight. Its last axis has the columns, all axes before it the rows.
    dtype : one of ``DENSE``.
    rectangle : see ``Rectangle``.
    """
    columns = shape[-1] if shape else 1

    def read(start: int, stop: int, out: Shaped[np.ndarray, " room"]) -> Shaped[np.ndarray, " n"]:
        out = out[: stop - start]
        done = 0
        for box in rectangles(start, stop, columns):
            with np.errstate(all="ignore"):  # a damaged scale gives infinity or NaN, which is counted as such
                values = rectangle(*box).reshape(-1)
                out[done : done + values.size] = rounded(values, dtype)
            done += values.size
        return out

    sources = {role: tensor.source for role, tensor in group.parts.items()}
    source: Hashable = (label, shape, dtype, *sources.items()) if all(entry is not None for entry in sources.values()) else None
    return Tensor(group.name, shape, dtype, read, source)


def rectangles(start: int, stop: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Split elements ``start:stop`` of a row-major matrix into a part of a row, whole rows, and a part of a row.

    >>> list(rectangles(3, 11, 4))
    [(0, 1, 3, 4), (1, 2, 0, 4), (2, 3, 0, 3)]
    """
    while start < stop:
        row, column = divmod(start, columns)
        if column == 0 and stop - start >= columns:
            last = stop // columns
            yield row, last, 0, columns
            start = last * columns
        else:
            end = min(columns, column + stop - start)
            yield row, row + 1, column, end
            start += end - column


def rounded(values: Float32[np.ndarray, " n"], dtype: str) -> Shaped[np.ndarray, " n"]:
    """Round to a dense dtype, ties to even; bfloat16 as uint16.

    >>> hex(rounded(np.float32([1.00390625 + 2**-20]), "bfloat16")[0])
    '0x3f81'
    """
    if dtype != "bfloat16":
        return values.astype(STORAGE[dtype], copy=False)
    bits = values.view(np.uint32)
    nearest = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    return np.where(nan, ((bits >> 16) | np.uint32(0x40)).astype(np.uint16), nearest) if nan.any() else nearest


def stored_matrix(tensor: Tensor, width: int, row: int, last_row: int, column: int, last_column: int) -> Shaped[np.ndarray, "rows columns"]:
    """Read rows ``row:last_row`` and columns ``column:last_column`` of a tensor that is seen as a matrix of ``width`` columns."""
    height, span, itemsize = last_row - row, last_column - column, tensor.storage.itemsize
    if span == width:
        return tensor.stored(row * width, last_row * width).reshape(height, width)
    out = np.empty((height, span), tensor.storage)
    if (width - span) * itemsize > BYTES_PER_READ:
        for index in range(height):
            first = (row + index) * width
            out[index] = tensor.stored(first + column, first + last_column)
        return out
    step = max(1, ROWS_AT_ONCE // (width * itemsize))
    for index in range(0, height, step):
        end = min(height, index + step)
        whole = tensor.stored((row + index) * width, (row + end) * width).reshape(end - index, width)
        out[index:end] = whole[:, column:last_column]
    return out


def value_matrix(tensor: Tensor, width: int, row: int, last_row: int, column: int, last_column: int) -> Float32[np.ndarray, "rows columns"]:
    """Read a rectangle as ``stored_matrix`` does, as float32; a uint8 is the exponent of a power of two (E8M0)."""
    stored = stored_matrix(tensor, width, row, last_row, column, last_column)
    return decode(stored, "float8_e8m0fnu" if tensor.dtype == "uint8" else tensor.dtype).astype(np.float32, copy=False)


def stored_bytes(tensor: Tensor, first: int, last: int) -> Shaped[np.ndarray, " n"]:
    """Read bytes ``first:last`` of a tensor, whatever its dtype."""
    size = tensor.storage.itemsize
    start = first // size
    raw = tensor.stored(start, -(-last // size)).view(np.uint8)
    return raw[first - start * size : last - start * size]


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor of words as a tensor of bytes, of which each row has four or two times as many."""
    size = tensor.storage.itemsize
    shape = (*tensor.shape[:-1], tensor.shape[-1] * size) if tensor.shape else (size,)
    return Tensor(tensor.name, shape, "uint8", lambda start, stop, _out: stored_bytes(tensor, start, stop), tensor.source)


def pairs(values: Float32[np.ndarray, 16], high_first: bool = False) -> Float32[np.ndarray, "256 2"]:
    """Tabulate the two values of every byte that holds two codes of four bits.

    >>> pairs(E2M1)[0x21].tolist()
    [0.5, 1.0]
    """
    return values[nibbles(np.arange(256, dtype=np.uint8)[:, None], high_first)]


def nibbles(packed: Shaped[np.ndarray, "rows bytes"], high_first: bool = False) -> Shaped[np.ndarray, "rows codes"]:
    """Split bytes into two codes of four bits each along the last axis."""
    halves = (packed >> 4, packed & 0xF) if high_first else (packed & 0xF, packed >> 4)
    return np.stack(halves, axis=-1).reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def unpack(words: Shaped[np.ndarray, "rows words"], bits: int, first: int, count: int) -> UInt32[np.ndarray, "rows codes"]:
    """Unpack codes ``first:first + count`` of rows that are dense streams of bits in 32-bit words, lowest bits first.

    Parameters
    ----------
    words : the words from the one that holds the first bit of code ``first``.
    bits : bits of a code, 1 to 8.
    first : index of the first code in the whole row.
    count : number of codes.

    >>> unpack(np.array([[0x76543210]], np.uint32), 4, 0, 8).tolist()
    [[0, 1, 2, 3, 4, 5, 6, 7]]
    """
    words = words.view(np.uint32)
    position = (np.arange(first, first + count) * bits) - (first * bits // 32) * 32
    word, shift = position // 32, (position % 32).astype(np.uint32)
    codes = words[..., word] >> shift
    straddling = np.flatnonzero(shift + bits > 32)
    if straddling.size:
        codes[..., straddling] |= words[..., word[straddling] + 1] << (np.uint32(32) - shift[straddling])
    return codes & np.uint32((1 << bits) - 1)


def words_of(first: int, count: int, bits: int) -> tuple[int, int]:
    """Return the range of 32-bit words that hold codes ``first:first + count`` of a dense stream of bits."""
    return first * bits // 32, -(-(first + count) * bits // 32)


def group_numbers(groups: Tensor | None, size: int, column: int, last_column: int, count: int) -> Int64[np.ndarray, " columns"]:
    """Return the number of the scale of each input column: ``groups`` lists them (``g_idx``), else ``size`` columns share one."""
    if groups is None:
        return np.arange(column, last_column) // size
    numbers = groups.stored(column, last_column).astype(np.int64)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
        raise InputError(f"{printable(groups.name)}: names group {numbers.min()} to {numbers.max()} of {count}; the file is damaged")
    return numbers


def small_json(tensor: Tensor) -> dict[str, Any]:
    """Parse the JSON object that a tensor of bytes holds."""
    if tensor.storage.itemsize != 1 or tensor.numel > 100_000:
        raise Unreadable("its state is no JSON text")
    try:
        return json_object(tensor.stored().tobytes(), printable(tensor.name))
    except InputError as error:
        raise Unreadable(f"its state cannot be read: {error}") from None


def natural_shape(sizes: Any) -> tuple[int, ...]:
    """Check a shape that a file states."""
    if not isinstance(sizes, Iterable):
        raise Unreadable("it states no shape")
    shape = tuple(int(size) if isinstance(size, (int, np.integer)) and not isinstance(size, bool) else -1 for size in sizes)
    if not 1 <= len(shape) <= MOST_AXES or min(shape) < 0 or math.prod(shape) >= MOST_ELEMENTS:
        raise Unreadable(f"it states the shape {printable(sizes, 60)}")
    return shape
