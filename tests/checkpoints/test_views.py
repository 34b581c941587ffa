"""Lazy rearrangements of tensors read the same values as numpy, in any range."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.checkpoints import from_array, views

SHAPE = (3, 4, 6, 5)
VALUES = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
TENSOR = from_array("w", VALUES, source="w")
HALVES = [from_array(name, part.copy(), source=name) for name, part in zip("ab", np.split(VALUES, [1], axis=1), strict=True)]


def assert_reads(view, expected):
    """Check the shape, the whole, and ranges that begin and end anywhere."""
    flat = expected.reshape(-1)
    assert view.shape == expected.shape
    assert np.array_equal(view.stored(), flat)
    for start, stop in np.sort(np.random.default_rng(0).integers(0, flat.size + 1, (40, 2))):
        assert np.array_equal(view.stored(int(start), int(stop)), flat[start:stop])


@pytest.mark.parametrize("axis", range(4))
def test_parts(axis):
    assert_reads(views.narrowed(TENSOR, axis, 1, 3), VALUES.take([1, 2], axis))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("largest", [1, 1 << 24])
def test_swapped_axes(monkeypatch, axis, largest):
    monkeypatch.setattr(views, "LARGEST_BLOCK", largest)
    assert_reads(views.swapped(TENSOR, axis), VALUES.swapaxes(axis, axis + 1))


@pytest.mark.parametrize("axis", range(4))
def test_joined_and_stacked_tensors(axis):
    parts = [part.copy() for part in np.split(VALUES, [1, 2], axis)]
    assert_reads(views.joined([from_array(str(i), part) for i, part in enumerate(parts)], axis), VALUES)
    matrices = [np.full((4, 5), i, np.float32) + np.arange(5) for i in range(3)]
    tensors = [from_array(str(i), matrix) for i, matrix in enumerate(matrices)]
    if axis < 3:
        assert_reads(views.stacked(tensors, axis), np.stack(matrices, axis))


def test_views_of_views():
    view = views.swapped(views.narrowed(views.joined(HALVES, 1), 2, 2, 6), 1)
    assert_reads(view, VALUES[:, :, 2:6].swapaxes(1, 2))
    assert_reads(views.reshaped(view, (3, 80)).rows(1, 3), VALUES[:, :, 2:6].swapaxes(1, 2).reshape(3, 80)[1:3])


def test_equal_views_have_equal_sources():
    assert views.swapped(TENSOR, 1).source == views.swapped(TENSOR, 1).source != views.swapped(TENSOR, 2).source
    assert views.joined(HALVES, 1).source != views.joined(HALVES[::-1], 1).source
    assert views.narrowed(from_array("w", VALUES), 1, 0, 1).source is None


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="cannot be reshaped"):
        views.reshaped(TENSOR, (7,))
    with pytest.raises(ValueError, match="differ in shape or dtype"):
        views.joined([TENSOR, from_array("v", VALUES.astype(np.float64))], 0)
