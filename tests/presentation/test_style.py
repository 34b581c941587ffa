"""Figures show the numbers of their tables, are legible, and are saved whole."""

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from dynamics import InputError
from dynamics.presentation import style
from dynamics.presentation.text import percent
from dynamics.sparsity import plot_rules
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.plot_rules import rules
from dynamics.sparsity.plot_ulp import merge_tail, ulp_histogram

SPARSITY = {
    "bf16 weights\nsaved as bf16": (0.9712345, 0.9712345, 0.9712345, 0.99871),
    "fp32 masters\nsaved as fp32": (0.0, 0.8612, 0.4231, 0.0311),
    "fp32 masters\nsaved as bf16": (0.8612, 0.8612, 0.8612, 0.99996),
}
STEPS = {
    "bf16 weights": {"0": 97_000, "1": 2_000, "2": 900, "3-4": 99, "5-8": 1, "9-16": 0},
    "fp32 masters": {"0": 86_000, "1": 9_000, "2": 4_000, "3-4": 900, "5-8": 90, "9-16": 10},
}


def rules_table() -> pd.DataFrame:
    return pd.DataFrame(
        [(name, rule, value) for name, row in SPARSITY.items() for rule, value in zip(RULES, row, strict=True)],
        columns=["comparison", "rule", "sparsity"],
    )


def steps_table() -> pd.DataFrame:
    rows = [(name, steps, count / 100_000) for name, bins in STEPS.items() for steps, count in bins.items()]
    return pd.DataFrame(rows, columns=["series", "steps", "fraction"])


def drawn(draw, table) -> Figure:
    figure = style.new_figure(9, 4)
    ax = figure.subplots()
    assert draw(table, ax) is ax
    ax.set_title("a title")
    figure.canvas.draw()
    return figure


def in_view(axis: Axis, tick: Tick) -> bool:
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high


def assert_legible(figure: Figure) -> None:
    """Check that every text lies inside the figure, and that no two texts overlap."""
    renderer = figure.canvas.get_renderer()
    page = figure.bbox
    boxes = []
    for ax in figure.axes:
        texts = [text for text in ax.texts if isinstance(text, Annotation)]
        ticks = [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis.get_major_ticks() if in_view(axis, tick)]
        for text in [*texts, *ticks, ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_legend().get_texts()]:
            if text.get_text():
                boxes.append((text.get_text(), text.get_window_extent(renderer)))
    for i, (text, box) in enumerate(boxes):
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), (text, other)


def test_bars_are_the_table():
    with style.use_style():
        (ax,) = drawn(rules, rules_table()).axes
    for rule, container in zip(RULES, ax.containers, strict=True):
        expected = [row[RULES.index(rule)] for row in SPARSITY.values()]
        assert [bar.get_height() for bar in container] == expected
        assert {mpl.colors.to_hex(bar.get_facecolor()) for bar in container} == {plot_rules.RULE_COLORS[rule].lower()}
    assert [label.get_text() for label in ax.get_xticklabels()] == list(SPARSITY)
    assert ax.get_ylim()[0] == 0
    for bar, label in zip((bar for container in ax.containers for bar in container), ax.texts, strict=True):
        assert label.get_text() == percent(bar.get_height(), short=True)
        assert label.xy == pytest.approx((bar.get_x() + bar.get_width() / 2, bar.get_height()))


def test_bars_of_one_comparison_stand_together():
    with style.use_style():
        (ax,) = drawn(rules, rules_table()).axes
    for x in range(len(SPARSITY)):
        bars = sorted((container[x] for container in ax.containers), key=lambda bar: bar.get_x())
        assert all(round(bar.get_x() + bar.get_width() / 2) == x for bar in bars)
        assert all(left.get_x() + left.get_width() <= right.get_x() for left, right in pairwise(bars))


def test_a_missing_rule_leaves_a_gap_and_moves_no_label():
    table = rules_table().drop(index=2)  # rtol of the first comparison
    with style.use_style():
        (ax,) = drawn(rules, table).axes
    heights = {label.xy[1] for label in ax.texts}
    assert heights == set(table["sparsity"])
    assert [len(container) for container in ax.containers] == [3, 3, 2, 3]


def test_dots_are_the_table():
    with style.use_style():
        (ax,) = drawn(ulp_histogram, steps_table()).axes
    dots = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if c.get_label() in STEPS}
    assert list(dots) == list(STEPS)
    names = list(STEPS["bf16 weights"])
    for name, points in dots.items():
        filled = [(i, count / 100_000) for i, count in enumerate(STEPS[name].values()) if count]
        assert np.round(points[:, 0]).astype(int).tolist() == [i for i, _ in filled]
        np.testing.assert_array_equal(points[:, 1], [y for _, y in filled])
    assert [label.get_text().replace("–", "-") for label in ax.get_xticklabels()] == names
    assert ax.get_yscale() == "log"
    counts = [count for bins in STEPS.values() for count in bins.values()]
    assert sorted(text.get_text() for text in ax.texts) == sorted(percent(count / 100_000, short=True) for count in counts)


def test_identical_checkpoints_still_make_a_figure():
    with style.use_style():
        drawn(ulp_histogram, pd.DataFrame({"series": ["a"], "steps": ["0"], "fraction": [1.0]}))
        drawn(ulp_histogram, pd.DataFrame({"series": ["a"], "steps": ["0"], "fraction": [0.0]}))
        drawn(rules, pd.DataFrame({"comparison": ["a"], "rule": ["exact"], "sparsity": [1.0]}))


@pytest.mark.parametrize(("draw", "table"), [(rules, rules_table()), (ulp_histogram, steps_table())])
def test_labels_do_not_overlap(draw, table):
    with style.use_style():
        assert_legible(drawn(draw, table))


@pytest.mark.parametrize("suffix", [".png", ".svg", pytest.param(".pdf", marks=pytest.mark.slow)])
def test_same_table_same_bytes(tmp_path, suffix):
    with style.use_style():
        for name in ("a", "b"):
            style.save(drawn(rules, rules_table()), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_a_failed_save_leaves_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fails(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(InputError, match="disk full"):
        style.save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.csv", "png"])
def test_other_suffixes_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf"):
        style.save(Figure(), tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_the_callers_matplotlib_is_left_alone():
    plt.rcParams["font.size"] = 31.0
    try:
        before, backend, open_figures = dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()
        with style.use_style():
            assert mpl.rcParams["font.size"] != 31.0
            drawn(rules, rules_table())
        assert (dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()) == (before, backend, open_figures)
    finally:
        plt.rcParams["font.size"] = mpl.rcParamsDefault["font.size"]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0.00 %"),
        (1.0, "100.00 %"),
        (0.5, "50.00 %"),
        (0.9712345, "97.12 %"),
        (0.00053, "0.05 %"),
        (0.99996, "99.9960 %"),
        (1e-9, "< 0.000001 %"),
        (1 - 1e-9, "> 99.999999 %"),
        (float("nan"), "-"),
    ],
)
def test_percent(fraction, text):
    assert percent(fraction) == text


def test_percent_never_rounds_to_a_bound_and_is_right_to_its_last_digit():
    for exponent in np.linspace(-0.4, -7.9, 200):
        for fraction in (10**exponent, 1 - 10**exponent):
            number = percent(fraction).removesuffix(" %")
            assert 0 < float(number) < 100
            digits = len(number.partition(".")[2])
            assert digits >= 2
            assert abs(float(number) - 100 * fraction) <= 0.5000001 * 10**-digits
            rare = min(fraction, 1 - fraction)
            assert digits == next(digits for digits in (2, 4, 6) if float(f"{100 * rare:.{digits}f}") > 0)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50.0 %"),
        (0.98213, "98.2 %"),
        (0.00527, "0.53 %"),
        (0.000527, "0.053 %"),
        (0.99996, "99.9960 %"),
        (1 - 1e-9, "> 99.999999 %"),
        (1e-9, "< 0.000001 %"),
    ],
)
def test_short_percent(fraction, text):
    assert percent(fraction, short=True) == text


def test_short_percent_never_rounds_to_a_bound_and_is_right_to_two_digits():
    for rare in np.logspace(-6.9, np.log10(0.5), 500):
        for fraction in (rare, 1 - rare):
            number = float(percent(fraction, short=True).removesuffix(" %")) / 100
            assert number == pytest.approx(fraction, abs=0.051 * rare)
            assert 0 < number < 1


def test_joining_the_tail_loses_no_weight():
    bins = {"0": 5, "1": 3, "2": 1, "3-4": 2, "5-8": 1, "9-16": 7}
    assert merge_tail(bins, 4) == {"0": 5, "1": 3, "2": 1, "3-4": 2, "over 4": 8}
    assert sum(merge_tail(bins, 1).values()) == sum(bins.values())
    assert merge_tail(bins, 16) == bins | {"over 16": 0}
