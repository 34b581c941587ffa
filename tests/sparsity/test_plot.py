"""The heat map and the lines show the numbers of the table, and their text is legible."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dynamics.presentation import style, text
from dynamics.sparsity import compare, series
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.plot import figure, heat_map, limits, series_lines, series_table


def grid(layers, modules, rng):
    names = [*(f"model.layers.{number}" for number in range(layers)), "(no layer)"]
    kinds = ["q", "k", "v", "o", "gate", "up", "down", "norm"][:modules]
    cells = [(layer, kind) for layer in names[:layers] for kind in kinds] + [("(no layer)", "embedding")]
    table = pd.DataFrame(cells, columns=["layer", "module"])
    for rule in RULES:
        table[f"sparsity_{rule}"] = rng.uniform(0.5, 1, len(table))
    return table


@pytest.mark.parametrize(("layers", "modules"), [(0, 0), (1, 1), (2, 3), (30, 8), (80, 8)])
def test_cells_hold_the_table_and_labels_do_not_touch(rng, layers, modules):
    table = grid(layers, modules, rng)
    with style.use_style():
        drawing = style.new_figure(8, max(3, layers / 6))
        ax = heat_map(table, "rtol", drawing.subplots())
        FigureCanvasAgg(drawing).draw()
    drawn = np.ma.masked_invalid(ax.collections[0].get_array()).compressed()
    assert sorted(drawn) == pytest.approx(sorted(table["sparsity_rtol"]))
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_scale_is_honest():
    assert limits(np.array([0.25, 0.75, np.nan])) == (0.25, 0.75)
    low, high = limits(np.array([0.9, 0.9 + 1e-9]))
    assert high - low == pytest.approx(0.001)
    assert limits(np.array([1.0, 1.0])) == (0.999, 1.0)
    assert limits(np.array([np.nan])) == (0.0, 1.0)


@pytest.mark.parametrize("prefix", ["", "model.layers", "model.language_model.layers", "x" * 100 + ".layers"])
def test_all_that_is_written_stands_apart_inside_the_figure(prefix):
    name = f"{prefix}.0.q_proj.weight" if prefix else "w"
    base = {name: np.ones(64, np.float32)}
    with style.use_style():
        drawing = figure(compare(base, base))
        FigureCanvasAgg(drawing).draw()
    labels = [part for ax in drawing.axes for part in (ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels())]
    boxes = [part.get_window_extent() for part in (*labels, *drawing.texts) if part.get_text()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(drawing.bbox.x0 <= box.x0 and box.x1 <= drawing.bbox.x1 and box.y1 <= drawing.bbox.y1 for box in boxes)


def test_lines_hold_the_series(pair):
    steps = series([*pair, {name: value + np.float32(1e-4) for name, value in pair[1].items()}])
    drawing = style.new_figure(6, 4)
    ax = series_lines(series_table(steps), drawing.subplots())
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    for rule in RULES:
        for against in ("first", "previous"):
            expected = [step.comparison.total.sparsity[rule] for step in steps if step.against == against]
            assert drawn[f"{rule}, {against}"] == expected


@pytest.mark.parametrize(
    ("paths", "numbers"),
    [
        (["run/step_100", "run/step_200"], [100, 200]),
        (["run/step_200", "run/step_100"], None),
        (["a/step_1", "b/step_2"], None),
        (["a", "b"], None),
    ],
)
def test_numbers_of_checkpoints(paths, numbers):
    assert text.checkpoint_numbers(paths) == numbers


@pytest.mark.parametrize("suffix", ["png", pytest.param("svg", marks=pytest.mark.slow), pytest.param("pdf", marks=pytest.mark.slow)])
def test_the_figure_says_its_total_and_is_the_same_each_time(pair, tmp_path, suffix):
    comparison = compare(*pair)
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        drawing = figure(comparison)
        with style.use_style():
            style.save(drawing, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_bytes()) > 5000
