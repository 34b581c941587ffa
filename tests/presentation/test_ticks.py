"""Axes have round ticks, labels without an offset, and ends that the lines decide."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from dynamics.presentation import style, ticks


def drawn(ax: Axes) -> tuple[list[float], list[str]]:
    """Return the ticks of the vertical axis in view, and their labels."""
    low, high = ax.get_ylim()
    places = ax.yaxis.get_majorticklocs()
    shown = [pair for pair in zip(places, ax.yaxis.get_major_formatter().format_ticks(places), strict=True) if low <= pair[0] <= high]
    return [where for where, _ in shown], [label for _, label in shown]


def axes(low: float, high: float) -> Axes:
    ax = style.new_figure(3, 2).subplots()
    ax.set_ylim(low, high)
    return ax


def leading(number: float) -> float:
    """Return a number divided by its power of ten."""
    return float(f"{number:.9e}".partition("e")[0])


@pytest.mark.parametrize(("low", "high"), [(1, 60), (0, 40), (2, 10), (1, 12), (1, 2), (10, 10), (0, 3), (100, 2350), (1, 15_000)])
def test_ticks_of_steps_are_whole_and_round(low: int, high: int) -> None:
    with style.use_style():
        ax = style.new_figure(3, 2).subplots()
        ax.plot([low, high], [0, 1], "o")
        ticks.whole(ax.xaxis)
        ax.get_figure(root=True).canvas.draw()
        places = [place for place in ax.get_xticks() if ax.get_xlim()[0] <= place <= ax.get_xlim()[1]]
    assert len(places) >= min(3, high - low + 1)
    assert all(place == round(place) for place in places)
    gaps = {b - a for a, b in pairwise(places)}
    assert len(gaps) <= 1
    assert all(leading(gap) in (1, 2, 5) for gap in gaps)


@settings(max_examples=40)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_a_plain_axis_has_three_round_ticks_at_least_each_with_its_label(low: float, width: float) -> None:
    if width < 1e-6 * abs(low):
        return
    with style.use_style():
        ax = axes(low, low + width)
        ticks.plain(ax.yaxis)
        places, labels = drawn(ax)
        offset = ax.yaxis.get_major_formatter().get_offset()
    assert len(places) >= 3
    assert offset == ""
    gap = places[1] - places[0]
    assert min(abs(leading(gap) - factor) for factor in (1, 2, 5, 10)) < 1e-3
    numbers = [float(label.replace("−", "-").replace(",", "")) for label in labels]
    assert numbers == pytest.approx(places, abs=1e-3 * gap)
    assert len({len(label.partition(".")[2]) for label in labels if "e" not in label}) <= 1


def test_shares_are_percentages_and_none_lies_outside_0_to_100() -> None:
    with style.use_style():
        ax = axes(-0.3, 1.3)
        ticks.plain(ax.yaxis, share=True)
        places, labels = drawn(ax)
    by_place = dict(zip(np.round(places, 9), labels, strict=True))
    assert by_place[0.0] == "0 %"
    assert by_place[1.0] == "100 %"
    assert all((label == "") == (place < 0 or place > 1) for place, label in by_place.items())


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 2.5), (0.0012, 0.0024), (0.13, 0.21), (1e-9, 0.3), (0.05, 3.0), (1.1e-1, 9e2), (0.5, 5000.0)]
)
def test_a_logarithmic_axis_has_three_labels_without_powers(low: float, high: float) -> None:
    with style.use_style():
        ax = axes(low, high)
        ax.set_yscale("log")
        ticks.logarithmic(ax.yaxis, 4)
        places, labels = drawn(ax)
        minor = [label for label in ax.get_yticklabels(minor=True) if label.get_text()]
    assert len(places) >= 3
    assert len(set(labels)) == len(labels)
    assert [float(label.replace(",", "")) for label in labels] == pytest.approx(places)
    assert minor == []


def test_differences_have_signs() -> None:
    with style.use_style():
        ax = axes(-0.1, 0.1)
        ticks.plain(ax.yaxis, signed=True)
        _, labels = drawn(ax)
    assert {"−0.05", "0.00", "+0.05"} <= set(labels)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_has_a_length(values: list[float]) -> None:
    low, high = ticks.span(np.array([*values, np.nan, np.inf]))
    assert low <= min(values) <= max(values) <= high
    assert low < high


def test_values_that_differ_by_rounding_are_equal() -> None:
    assert ticks.span(np.array([2.0, 2.0 + 4e-16])) == pytest.approx((0, 4))


def test_lines_decide_the_ends_of_an_axis_and_a_wide_band_is_cut() -> None:
    means, wide = np.array([0.5, 0.5, 1.0]), np.array([0.5, 0.4, 6.4])
    low, high = ticks.band_span(means, means - wide, means + wide)
    assert high - low <= 5 * 0.5 + 1e-9  # a fifth of the height is left to the line
    assert ticks.cuts((low, high), means - wide, means + wide)
    narrow = np.full(3, 0.1)
    low, high = ticks.band_span(means, means - narrow, means + narrow)
    assert (low, high) == pytest.approx((0.4, 1.1))
    assert not ticks.cuts((low, high), means - narrow, means + narrow)


def test_a_band_is_cut_where_no_value_can_be() -> None:
    means = np.array([0.2, 0.4])
    assert ticks.band_span(means, means - 0.3, means + 0.3, (0.0, 1.0)) == pytest.approx((0.0, 0.7))


def test_a_band_that_is_not_known_cuts_nothing() -> None:
    unknown = np.full(2, np.nan)
    assert ticks.band_span(np.array([1.0, 2.0]), unknown, unknown) == (1.0, 2.0)
    assert not ticks.cuts((1.0, 2.0), unknown, unknown)


@pytest.mark.parametrize("beside", [True, False])
def test_the_label_of_a_colour_bar_stands_clear_of_its_ticks_and_of_the_axes(beside: bool) -> None:
    with style.use_style():
        figure = style.new_figure(style.PHONE, 3)
        ax = figure.subplots()
        picture = ax.imshow(np.array([[0.97, 0.98], [0.99, 0.9712]]), aspect="auto")
        ax.set_xticks([0, 1], ["embedding", "norm"], rotation=90)
        bar = ticks.color_bar(picture, ax, "unchanged", ticks.round_ticks(0.97, 0.99, 4), share=True, beside=beside)
        figure.canvas.draw()
        axis = bar.ax.yaxis if beside else bar.ax.xaxis
        label = axis.label.get_window_extent()
        boxes = [tick.label2 if beside else tick.label1 for tick in axis.get_major_ticks()]
        texts = [box.get_text() for box in boxes]
        extents = [box.get_window_extent() for box in boxes]
        names = [name.get_window_extent() for name in ax.get_xticklabels()]
        own = bar.ax.get_window_extent()
    assert texts == ["97 %", "98 %", "99 %"]
    gap = min((label.x0 - box.x1) if beside else (box.y0 - label.y1) for box in extents)
    assert gap >= 3
    assert not any(name.overlaps(own) for name in names)
    assert not any(a.overlaps(b) for a, b in pairwise(extents))


def test_a_band_of_one_point_is_visible() -> None:
    with style.use_style():
        ax = style.new_figure(3, 2).subplots()
        style.band(ax, np.array([1.0]), np.array([0.2]), np.array([0.4]), color="black", alpha=0.2)
        style.band(ax, np.array([1.0, 2.0]), np.array([0.2, 0.2]), np.array([0.4, 0.4]), color="black", alpha=0.2)
    assert [type(part).__name__ for part in ax.collections].count("LineCollection") == 1
