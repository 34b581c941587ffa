"""Lazy rearrangements of tensors: parts, joined tensors and swapped axes, read in ranges and never held as a whole."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Shaped

from dynamics.checkpoints.tensor import Tensor

#: Largest block, in elements, that is read as a whole to swap its axes: a matrix of one expert. Larger ones are read row by row.
LARGEST_BLOCK = 1 << 24


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the same elements in the same order with another shape."""
    if math.prod(shape) != tensor.numel:
        raise ValueError(f"{tensor.shape} cannot be reshaped to {shape}")
    return replace(tensor, shape=shape)


def narrowed(tensor: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Return entries ``start:stop`` of one axis."""
    if axis == 0:
        return tensor.rows(start, stop)
    inner = math.prod(tensor.shape[axis + 1 :])
    whole, part = tensor.shape[axis] * inner, (stop - start) * inner

    def read(first: int, last: int, out: Shaped[np.ndarray, " room"]) -> Shaped[np.ndarray, " n"]:
        for block, low, high, into in _blocks(first, last, part):
            offset = block * whole + start * inner
            out[into] = tensor.read(offset + low, offset + high, out[into])
        return out[: last - first]

    shape = (*tensor.shape[:axis], stop - start, *tensor.shape[axis + 1 :])
    return Tensor(tensor.name, shape, tensor.dtype, read, _source("narrowed", (axis, start, stop), [tensor]))


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors of one dtype along an axis."""
    first_part = parts[0]
    if len(parts) == 1:
        return first_part
    others = {(part.shape[:axis], part.shape[axis + 1 :], part.dtype) for part in parts}
    if len(others) > 1:
        raise ValueError("parts differ in shape or dtype")
    inner = math.prod(first_part.shape[axis + 1 :])
    widths = [part.shape[axis] * inner for part in parts]
    starts = np.concatenate([[0], np.cumsum(widths)])
    whole = int(starts[-1])

    def read(first: int, last: int, out: Shaped[np.ndarray, " room"]) -> Shaped[np.ndarray, " n"]:
        position = 0
        for block, low, high, _ in _blocks(first, last, whole):
            index = int(np.searchsorted(starts, low, side="right")) - 1
            while low < high:
                end = min(high, int(starts[index + 1]))
                into = slice(position, position + end - low)
                offset = block * widths[index] - int(starts[index])
                out[into] = parts[index].read(offset + low, offset + end, out[into])
                position, low, index = into.stop, end, index + 1
        return out[: last - first]

    shape = (*first_part.shape[:axis], sum(part.shape[axis] for part in parts), *first_part.shape[axis + 1 :])
    return Tensor(first_part.name, shape, first_part.dtype, read, _source("joined", axis, parts))


def stacked(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Stack tensors of one shape and dtype along a new axis."""
    return joined([reshaped(part, (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts], axis)


def swapped(tensor: Tensor, axis: int) -> Tensor:
    """Swap an axis with the next one."""
    rows, columns = tensor.shape[axis : axis + 2]
    inner = math.prod(tensor.shape[axis + 2 :])
    size, width = rows * columns * inner, rows * inner

    def read(first: int, last: int, out: Shaped[np.ndarray, " room"]) -> Shaped[np.ndarray, " n"]:
        for block, low, high, into in _blocks(first, last, size):
            start, stop = low // width, -(-high // width)  # entries of the axis that comes first now
            offset = block * size
            if size <= LARGEST_BLOCK:
                values = tensor.stored(offset, offset + size).reshape(rows, columns, inner)[:, start:stop]
            else:
                values = np.stack(
                    [
                        tensor.stored(offset + (row * columns + start) * inner, offset + (row * columns + stop) * inner)
                        for row in range(rows)
                    ]
                ).reshape(rows, stop - start, inner)
            out[into] = values.swapaxes(0, 1).reshape(-1)[low - start * width : high - start * width]
        return out[: last - first]

    shape = (*tensor.shape[:axis], columns, rows, *tensor.shape[axis + 2 :])
    return Tensor(tensor.name, shape, tensor.dtype, read, _source("swapped", axis, [tensor]))


def _blocks(first: int, last: int, size: int) -> Iterator[tuple[int, int, int, slice]]:
    """Split elements ``first:last`` at multiples of ``size``; yield the block, the range within it, and where its elements go."""
    position = first
    while position < last:
        block, low = divmod(position, size)
        high = min(size, low + last - position)
        yield block, low, high, slice(position - first, position - first + high - low)
        position += high - low


def _source(kind: str, how: Hashable, tensors: Sequence[Tensor]) -> Hashable | None:
    sources = tuple((tensor.source, tensor.shape) for tensor in tensors)
    return None if any(source is None for source, _ in sources) else (kind, how, sources)
