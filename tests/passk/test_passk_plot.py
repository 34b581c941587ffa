"""The figure, the page and the screen of a pass@k report."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from helpers import tidy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from dynamics.passk import report, terminal
from dynamics.passk.page import page
from dynamics.passk.plot import curves, figure
from dynamics.passk.terminal import value
from dynamics.presentation import style


def made(names=("base", "rl", "selfplay"), n=32, **settings):
    import pandas as pd

    rng = np.random.default_rng(0)
    p = rng.beta(0.4, 0.8, 60)
    parts = [tidy(np.clip((1 + index) * p - 0.1 * index * (p < 0.2), 0, 1), n, index, name) for index, name in enumerate(names)]
    return report(pd.concat(parts, ignore_index=True), replicates=300, **settings)


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("base",), {}),
        pytest.param(("base", "rl"), {}, marks=pytest.mark.slow),
        pytest.param(("base", "rl", "selfplay"), {"extrapolate": 4096}, marks=pytest.mark.slow),
        (("a model with a rather long name, step 100", "$x_1$ <b>", "c"), {"ks": [1, 2, 3, 5, 7, 11]}),
        (("one", "two"), {"ks": [1]}),
    ],
)
def test_all_that_is_written_stands_apart_inside_the_figure(names, settings):
    with style.use_style():
        drawing = figure(made(names, **settings))
        FigureCanvasAgg(drawing).draw()
        labels = [part for ax in drawing.axes for part in (ax.xaxis.label, ax.yaxis.label)]
        for ax in drawing.axes:
            ticks = [*ax.get_xticklabels(), *ax.get_yticklabels()]
            labels += [tick for tick in ticks if tick.get_visible() and ax.bbox.expanded(1.02, 1.2).overlaps(tick.get_window_extent())]
        texts = [part for part in (*labels, *drawing.texts, *drawing.axes[0].get_legend().get_texts()) if part.get_text()]
        boxes = [part.get_window_extent() for part in texts]
    for (text, first), (other, second) in combinations(zip(texts, boxes, strict=True), 2):
        assert not first.overlaps(second), (text.get_text(), other.get_text())
    for part, box in zip(texts, boxes, strict=True):
        assert drawing.bbox.x0 <= box.x0, part.get_text()
        assert box.x1 <= drawing.bbox.x1, part.get_text()


def test_lines_hold_the_estimates_and_nothing_beyond():
    result = made(("base", "rl"), ks=[1, 4, 32, 64])
    drawing = style.new_figure(6, 4)
    ax = curves(result.table(), drawing.subplots())
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    for curve in result.curves:
        known = curve.points.dropna(subset=["pass_at_k"])
        assert list(lines[curve.name].get_xdata()) == list(known["k"])
        assert list(lines[curve.name].get_ydata()) == list(known["pass_at_k"])
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[32], [32]]


def test_the_page_is_safe():
    text = page(made(("<script>alert(1)</script>", "rl"), extrapolate=64))
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert text == page(made(("<script>alert(1)</script>", "rl"), extrapolate=64))


@pytest.fixture(scope="module")
def extrapolated():
    return made(extrapolate=64)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_numbers_on_the_screen_are_whole(width, extrapolated):
    result = extrapolated
    buffer = io.StringIO()
    terminal.show(result, Console(file=buffer, width=width))
    text = buffer.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for curve in result.curves:
        for row in curve.points.to_dict("records"):
            assert f"{row['pass_at_k']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in words
    assert "beware" not in text
    assert "k > n / 2" in text


def test_a_value_is_never_rounded_to_certainty():
    assert [value(x) for x in (0, 0.0001, 0.5, 0.9999, 1, float("nan"))] == ["0.000", "<0.001", "0.500", ">0.999", "1.000", "-"]
