"""Tensors assembled from rectangular shards, as in distributed checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from dynamics.checkpoints.tensor import MOST_ELEMENTS, Tensor
from dynamics.errors import InputError, printable

#: file name of one rank's shard, as verl writes it: world size, rank
RANK_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt$")
#: the same as accelerate, Composer and scripts write it: stem, rank, world size if it is given
RANK_FILE = re.compile(r"(.*?)rank[_-]?(\d+)(?:[_-]of[_-]?(\d+))?\.(?:pt|pth|bin)")

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
#: files of a training run that contain tensors but no model weights
NOT_WEIGHTS = re.compile(
    r"^(optimizer|optim|scheduler|lr_scheduler|scaler|rng_state|training_args|trainer_state|random_states|extra_state|random_state)"
    r"|^(.*_)?(optim_states|extra_state_world|optim_world)"
    r"|^(sampler(_\d+)?|dl_state_dict(_\d+)?|data|(train_|val_)?dataloader(_\d+)?)\.(bin|pt|pth)$"  # where the data loader was
)

#: pairs of shards that are compared; ten thousand that are cut along two axes need fewer
MOST_COMPARED = 200_000_000
#: origin of a shard in the whole tensor, shape of the shard, and the tensor of that shape
Shard = tuple[tuple[int, ...], tuple[int, ...], Tensor]


def join_shards(name: str, shape: tuple[int, ...], dtype: str, shards: Sequence[Shard]) -> Tensor:
    """Make a lazy tensor from shards, which must cover it exactly; if they do not, raise an ``InputError``.

    A shard keeps the row-major order of the whole, so the elements of a shard that fall into a flat range of the
    whole are themselves a flat range of the shard. Each read therefore reads a single range of each shard that it overlaps.
    """
    if math.prod(shape) >= MOST_ELEMENTS:
        raise InputError(f"{printable(name)}: claims the shape {shape}, which no file can hold")
    filled = [(tuple(offsets), tuple(sizes), shard) for offsets, sizes, shard in shards if math.prod(sizes)]
    for offsets, sizes, shard in filled:
        if len(offsets) != len(shape) or shard.shape != sizes or shard.dtype != dtype:
            raise InputError(f"{printable(name)}: {dtype} {shape} has a shard {shard.dtype} {shard.shape} declared as {sizes} at {offsets}")
    _check_cover(name, shape, filled)
    if len(filled) == 1:
        return Tensor(name, shape, dtype, filled[0][2].read, filled[0][2].source)

    filled.sort(key=lambda shard: shard[0])
    strides = _strides(shape)
    first = np.array([_dot(offsets, strides) for offsets, _, _ in filled], np.int64)
    last = np.array([_dot(offsets, strides) + _dot([n - 1 for n in sizes], strides) for offsets, sizes, _ in filled], np.int64)

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        out = out[: stop - start]
        for index in np.flatnonzero((first < stop) & (last >= start)):
            offsets, sizes, shard = filled[index]
            begin, end = _elements_before(offsets, sizes, shape, start), _elements_before(offsets, sizes, shape, stop)
            if begin == end:
                continue
            if int(last[index] - first[index]) + 1 == shard.numel:  # contiguous in the whole tensor too: read directly into ``out``
                offset = int(first[index]) + begin - start
                target = out[offset : offset + end - begin]
                values = shard.read(begin, end, target)
                if values.ctypes.data != target.ctypes.data:
                    target[:] = values
            else:
                values = shard.read(begin, end, np.empty(end - begin, out.dtype))
                _scatter(values, sizes, begin, end, out, int(first[index]) - start, strides)
        return out

    sources = tuple((offsets, shard.source) for offsets, _, shard in filled)
    known = all(source is not None for _, source in sources)
    source: Hashable | None = ("shards", shape, sources) if known and filled else None
    return Tensor(name, shape, dtype, read, source)


def concatenated(name: str, shape: tuple[int, ...], dtype: str, pieces: Sequence[Tensor]) -> Tensor:
    """Make a lazy tensor from vectors that follow one another; what the last ones have beyond the tensor is padding."""
    count, start = math.prod(shape), 0
    shards: list[Shard] = []
    for piece in pieces:
        length = min(piece.numel, count - start)
        if length > 0:
            shards.append(((start,), (length,), piece.rows(0, length)))
            start += length
    flat = join_shards(name, (count,), dtype, shards)
    return Tensor(name, shape, dtype, flat.read, flat.source)


def split_into_boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split the flat range ``start:stop`` of a row-major array into the fewest boxes (origin, sizes), in flat order."""
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
    for origin, sizes in split_into_boxes(shape[1:], start, stop):
        yield (row, *origin), (1, *sizes)


def _scatter(
    values: np.ndarray, sizes: tuple[int, ...], begin: int, end: int, out: np.ndarray, origin_offset: int, strides: tuple[int, ...]
) -> None:
    """Copy elements ``begin:end`` of a shard into ``out``, where the shard's first element is at ``origin_offset``."""
    done = 0
    for origin, box in split_into_boxes(sizes, begin, end):
        count = math.prod(box)
        offset = origin_offset + _dot(origin, strides)
        steps = [stride * out.itemsize for stride in strides]
        np.lib.stride_tricks.as_strided(out[offset:], box, steps)[...] = values[done : done + count].reshape(box)
        done += count


def _elements_before(offsets: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...], flat: int) -> int:
    """Count the elements of a shard that come before flat position ``flat`` of the whole tensor."""
    if flat >= math.prod(shape):
        return math.prod(sizes)
    count = 0
    for axis, stride in enumerate(_strides(shape)):
        index, flat = divmod(flat, stride)
        count += min(max(index - offsets[axis], 0), sizes[axis]) * math.prod(sizes[axis + 1 :])
        if not offsets[axis] <= index < offsets[axis] + sizes[axis]:
            break
    return count


def _check_cover(name: str, shape: tuple[int, ...], shards: list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]) -> None:
    """Check that the shards lie inside the tensor, are disjoint, and have as many elements; then they cover it without a hole."""
    for offsets, sizes, _ in shards:
        if any(low < 0 or low + size > whole for low, size, whole in zip(offsets, sizes, shape, strict=True)):
            raise InputError(f"{printable(name)}: a shard {sizes} at {offsets} lies outside the tensor {shape}")
    total = sum(math.prod(sizes) for _, sizes, _ in shards)
    if total < math.prod(shape):
        raise InputError(f"{printable(name)}: its shards hold {total} of the {math.prod(shape)} elements of {shape}; a shard is missing")
    if not shape or len(shards) < 2:
        return
    low = np.array([offsets for offsets, _, _ in shards], np.int64)
    high = low + np.array([sizes for _, sizes, _ in shards], np.int64)
    # a later shard can overlap this shard only if it starts before the end of this shard, on the axis along which most are cut
    axis = max(range(len(shape)), key=lambda axis: len(np.unique(low[:, axis])))
    order = np.argsort(low[:, axis], kind="stable")
    low, high = low[order], high[order]
    ends = np.searchsorted(low[:, axis], high[:, axis])
    if (ends - np.arange(1, len(ends) + 1)).clip(0).sum() > MOST_COMPARED:
        raise InputError(f"{printable(name)}: {len(shards)} shards lie too close to one another; the file is damaged")
    for index, end in enumerate(ends):
        later = slice(index + 1, end)
        overlaps = ((low[later] < high[index]) & (high[later] > low[index])).all(axis=1)
        if overlaps.any():
            other = index + 1 + int(np.argmax(overlaps))
            raise InputError(f"{printable(name)}: two shards overlap, at {low[index].tolist()} and {low[other].tolist()}")


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
