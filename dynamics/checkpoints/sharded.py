"""One tensor made of rectangular pieces that lie in different places: what the shards of a distributed checkpoint are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from dynamics.checkpoints.tensor import Tensor
from dynamics.errors import InputError, printable

#: where a piece starts in the whole, its shape, and the tensor of that shape
Piece = tuple[tuple[int, ...], tuple[int, ...], Tensor]


def assemble(name: str, shape: tuple[int, ...], dtype: str, pieces: Sequence[Piece]) -> Tensor:
    """A lazy tensor over pieces that cover it exactly; anything else is an ``InputError``.

    A piece keeps the row-major order of the whole, so the elements of a piece that fall into a flat range of the
    whole are themselves a flat range of the piece: each read asks every piece it touches for one such range, no more.
    """
    if math.prod(shape) >= 2**62:
        raise InputError(f"{printable(name)}: claims the shape {shape}, which no file can hold")
    kept = [(tuple(offsets), tuple(sizes), piece) for offsets, sizes, piece in pieces if math.prod(sizes)]
    for offsets, sizes, piece in kept:
        if len(offsets) != len(shape) or piece.shape != sizes or piece.dtype != dtype:
            raise InputError(f"{printable(name)}: {dtype} {shape} has a piece {piece.dtype} {piece.shape} declared as {sizes} at {offsets}")
    _check_cover(name, shape, kept)
    if len(kept) == 1:
        return Tensor(name, shape, dtype, kept[0][2].read, kept[0][2].source)

    kept.sort(key=lambda piece: piece[0])
    strides = _strides(shape)
    first = np.array([_dot(offsets, strides) for offsets, _, _ in kept], np.int64)
    last = np.array([_dot(offsets, strides) + _dot([n - 1 for n in sizes], strides) for offsets, sizes, _ in kept], np.int64)

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        out = out[: stop - start]
        for index in np.flatnonzero((first < stop) & (last >= start)):
            offsets, sizes, piece = kept[index]
            begin, end = _elements_before(offsets, sizes, shape, start), _elements_before(offsets, sizes, shape, stop)
            if begin == end:
                continue
            if int(last[index] - first[index]) + 1 == piece.numel:  # contiguous in the whole too: read it into place
                place = int(first[index]) + begin - start
                target = out[place : place + end - begin]
                values = piece.read(begin, end, target)
                if values.ctypes.data != target.ctypes.data:
                    target[:] = values
            else:
                values = piece.read(begin, end, np.empty(end - begin, out.dtype))
                _scatter(values, sizes, begin, end, out, int(first[index]) - start, strides)
        return out

    sources = tuple((offsets, piece.source) for offsets, _, piece in kept)
    known = all(source is not None for _, source in sources)
    source: Hashable | None = ("pieces", shape, sources) if known and kept else None
    return Tensor(name, shape, dtype, read, source)


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut the flat range ``start:stop`` of a row-major array into the fewest boxes (origin, sizes), in flat order."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start,), (stop - start,)) if shape else ((), ())
        return
    inner = math.prod(shape[1:])
    whole, end = -(-start // inner), stop // inner  # rows [whole, end) are complete
    if whole > end:
        yield from _in_row(shape, end, start - end * inner, stop - end * inner)
        return
    if start < whole * inner:
        yield from _in_row(shape, whole - 1, start - (whole - 1) * inner, inner)
    if whole < end:
        yield (whole, *[0] * (len(shape) - 1)), (end - whole, *shape[1:])
    if end * inner < stop:
        yield from _in_row(shape, end, 0, stop - end * inner)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for origin, sizes in boxes(shape[1:], start, stop):
        yield (row, *origin), (1, *sizes)


def _scatter(
    values: np.ndarray, sizes: tuple[int, ...], begin: int, end: int, out: np.ndarray, shift: int, strides: tuple[int, ...]
) -> None:
    """Put elements ``begin:end`` of a piece where they belong in ``out``; ``shift`` is the place of the piece's element 0."""
    done = 0
    for origin, box in boxes(sizes, begin, end):
        count = math.prod(box)
        place = shift + _dot(origin, strides)
        steps = [stride * out.itemsize for stride in strides]
        np.lib.stride_tricks.as_strided(out[place:], box, steps)[...] = values[done : done + count].reshape(box)
        done += count


def _elements_before(offsets: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...], flat: int) -> int:
    """How many elements of a piece come before flat position ``flat`` of the whole."""
    if flat >= math.prod(shape):
        return math.prod(sizes)
    count = 0
    for axis, stride in enumerate(_strides(shape)):
        index, flat = divmod(flat, stride)
        count += min(max(index - offsets[axis], 0), sizes[axis]) * math.prod(sizes[axis + 1 :])
        if not offsets[axis] <= index < offsets[axis] + sizes[axis]:
            break
    return count


def _check_cover(name: str, shape: tuple[int, ...], pieces: list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]) -> None:
    """Inside, disjoint, and as many elements as the whole: then there is no hole either."""
    for offsets, sizes, _ in pieces:
        if any(low < 0 or low + size > whole for low, size, whole in zip(offsets, sizes, shape, strict=True)):
            raise InputError(f"{printable(name)}: a piece {sizes} at {offsets} lies outside the tensor {shape}")
    total = sum(math.prod(sizes) for _, sizes, _ in pieces)
    if total < math.prod(shape):
        raise InputError(f"{printable(name)}: its pieces hold {total} of the {math.prod(shape)} elements of {shape}; a shard is missing")
    if not shape or len(pieces) < 2:
        return
    low = np.array([offsets for offsets, _, _ in pieces], np.int64)
    high = low + np.array([sizes for _, sizes, _ in pieces], np.int64)
    order = np.argsort(low[:, 0], kind="stable")
    low, high = low[order], high[order]
    ends = np.searchsorted(low[:, 0], high[:, 0])  # only pieces that start before this one ends on axis 0 can overlap it
    for index, end in enumerate(ends):
        others = slice(index + 1, end)
        clash = ((low[others] < high[index]) & (high[others] > low[index])).all(axis=1)
        if clash.any():
            other = index + 1 + int(np.argmax(clash))
            raise InputError(f"{printable(name)}: two pieces overlap, at {low[index].tolist()} and {low[other].tolist()}")


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
