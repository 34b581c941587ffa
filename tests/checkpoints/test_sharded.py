"""A tensor joined from rectangles equals the whole tensor, reads only the elements that are needed, and refuses holes and overlaps."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.checkpoints.sharded import join_shards, split_into_boxes
from dynamics.checkpoints.tensor import from_array
from dynamics.errors import InputError


@st.composite
def cut_up(draw):
    """Make an array, and the rectangles of a grid over it in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=0, max_size=4)))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    grid = list(itertools.product(*[list(itertools.pairwise(axis)) for axis in cuts]))
    whole = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    shards = [(tuple(a for a, _ in box), tuple(b - a for a, b in box), whole[tuple(slice(a, b) for a, b in box)].copy()) for box in grid]
    return whole, draw(st.permutations(shards))


def read_counted(shards):
    """Make tensors of the pieces, and a count of the elements read from them."""
    asked = [0]

    def counting(number, tensor):
        def read(start, stop, out):
            asked[0] += stop - start
            if number % 2:
                return tensor.read(start, stop, out)  # returns another view, because a Reader need not use the scratch array
            out = out[: stop - start]
            out[:] = tensor.read(start, stop, out)
            return out

        return replace(tensor, read=read)

    numbered = enumerate(shards)
    return [(offsets, sizes, counting(number, from_array("shard", array))) for number, (offsets, sizes, array) in numbered], asked


@given(cut_up(), st.data())
def test_any_range_equals_the_whole_and_reads_nothing_else(case, data):
    whole, arrays = case
    shards, asked = read_counted(arrays)
    tensor = join_shards("w", whole.shape, "int32", shards)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    scratch = np.full(whole.size + 3, -1, np.int32)
    np.testing.assert_array_equal(tensor.read(start, stop, scratch), whole.reshape(-1)[start:stop])
    assert asked[0] == stop - start
    assert (scratch[stop - start :] == -1).all()


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_tile_a_range_in_order(shape, data):
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    flat = np.arange(size).reshape(shape)
    cut = list(split_into_boxes(shape, start, stop))
    parts = [flat[tuple(slice(o, o + s) for o, s in zip(origin, sizes, strict=True))].reshape(-1) for origin, sizes in cut]
    assert np.concatenate([[], *parts]).tolist() == list(range(start, stop))
    assert len(cut) <= max(1, 2 * len(shape) - 1)


def shard(offsets, sizes, dtype="float32"):
    return offsets, sizes, from_array("shard", np.zeros(sizes, dtype), source=("file", offsets))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([shard((0, 0), (2, 4))], "a shard is missing"),
        ([shard((0, 0), (4, 2)), shard((0, 3), (4, 1))], "a shard is missing"),
        ([], "a shard is missing"),
        ([shard((0, 0), (4, 3)), shard((0, 2), (4, 1))], "overlap"),
        ([shard((0, 0), (4, 4)), shard((0, 0), (4, 4))], "overlap"),
        ([shard((0, 0), (2, 4)), shard((3, 0), (2, 4))], "outside"),
        ([shard((0, 0), (2, 4)), shard((-2, 0), (2, 4))], "outside"),
        ([shard((0,), (16,))], "declared"),
        ([shard((0, 0), (4, 4), "float64")], "declared"),
    ],
)
def test_what_does_not_cover_the_tensor_exactly_is_refused(shards, message):
    with pytest.raises(InputError, match=message):
        join_shards("w", (4, 4), "float32", shards)


def test_a_nonsense_shape_is_refused_before_any_allocation():
    with pytest.raises(InputError, match="claims"):
        join_shards("w", (2**40, 2**40), "float32", [])


def test_empty_pieces_are_of_no_account():
    tensor = join_shards("w", (2, 2), "float32", [shard((0, 0), (2, 2)), shard((2, 0), (0, 2))])
    assert tensor.stored().tolist() == [0, 0, 0, 0]
    assert join_shards("w", (0, 3), "float32", []).stored().size == 0


def test_equal_sources_of_all_pieces_are_an_equal_source_of_the_whole():
    halves = [shard((0, 0), (2, 4)), shard((2, 0), (2, 4))]
    assert join_shards("a", (4, 4), "float32", halves).source == join_shards("b", (4, 4), "float32", halves[::-1]).source
    unknown = [halves[0], (*halves[1][:2], replace(halves[1][2], source=None))]
    assert join_shards("a", (4, 4), "float32", unknown).source is None
