"""The figures of a report: what an axis holds, what is named, and what the words of a figure call its numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report_helpers import run_of

from dynamics.presentation import style
from dynamics.report import plot_curves, plot_rollouts, plot_uncertainty
from dynamics.report.section import Options, Picture
from dynamics.report.sections import directions, overlap, rollouts, weights
from dynamics.runs.rollouts import COLUMNS

WIDTHS = (style.TWO_COLUMN, style.PHONE)


def labels(ax: Axes, axis: str = "y") -> list[str]:
    """Return the labels of the ticks in view."""
    low, high = ax.get_ylim() if axis == "y" else ax.get_xlim()
    ticks = (ax.yaxis if axis == "y" else ax.xaxis).get_major_ticks()
    return [tick.label1.get_text() for tick in ticks if min(low, high) <= tick.get_loc() <= max(low, high)]


def panels(*values: list[float], **options: bool) -> list[plot_curves.Panel]:
    return [
        plot_curves.Panel(f"metric {number}", {0: pd.Series(of, range(1, len(of) + 1))}, {}, **options) for number, of in enumerate(values)
    ]


def curves(of: list[plot_curves.Panel], width: float = style.TWO_COLUMN) -> Figure:
    figure = plot_curves.curves(of, ["run"], width=width)
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("value", [2.0, 0.0, -1.5, 1e-6, 1 + 1e-16])
def test_a_constant_curve_lies_in_the_middle_of_a_plain_axis(value: float) -> None:
    with style.use_style():
        (ax,) = curves(panels([value, value * (1 + 2e-16), value])).axes
    low, high = ax.get_ylim()
    assert low < value < high
    assert high - low >= max(abs(value), 1e-12)
    assert ax.yaxis.get_offset_text().get_text() == ""
    assert len(labels(ax)) >= 3
    assert len(set(labels(ax))) == len(labels(ax))


@pytest.mark.parametrize("width", WIDTHS)
def test_panels_share_the_steps_and_a_single_value_is_a_visible_point(width: float) -> None:
    with style.use_style():
        figure = curves(panels(list(np.linspace(0, 1, 40)), [0.5], list(np.linspace(3, 2, 15)), [1.0, 2.0]), width)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len({ax.get_xlim() for ax in shown}) == 1
    (point,) = shown[1].lines
    assert point.get_marker() == "o"
    assert point.get_markersize() > shown[3].lines[0].get_markersize()
    named = [ax for ax in shown if ax.get_xlabel()]
    assert len(named) == (1 if width == style.PHONE else 3)  # one a column
    assert labels(shown[-1], "x") == ["0", "10", "20", "30", "40"]


def test_a_share_is_shown_in_percent_unless_the_trainer_logs_other_numbers() -> None:
    with style.use_style():
        share, other = curves(panels([0.0, 0.3, 0.1], [0.0, 30.0, 10.0], share=True)).axes[:2]
    assert all(label.endswith(" %") for label in labels(share))
    assert not any("%" in label for label in labels(other))


def completions(rng: np.random.Generator) -> pd.DataFrame:
    """Return completions of two prompts that agree at first and then differ, so that a t interval over them is six wide."""
    step, prompt = (array.ravel() for array in np.meshgrid(np.arange(1, 11), [0, 0, 1, 1], indexing="ij"))
    reward = np.where(step < 6, 0.5, prompt.astype(float))
    table = pd.DataFrame({"step": step, "prompt": [f"question {number}" for number in prompt], "reward": reward})
    table = table.assign(completion=[f"answer {number}" for number in rng.integers(0, 3, len(step))], tokens=10.0, truncated=False)
    return table.assign(role="", held_out=False, file="f")[list(COLUMNS)]


def test_means_decide_the_axis_and_the_title_says_that_bands_are_cut(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a"], [completions(rng)], Options())
    over = section.tables[0].frame
    assert over[over["measure"] == "reward"]["high"].max() > 5  # of two prompts
    picture = section.pictures[0]
    assert plot_rollouts.CUT in picture.title
    with style.use_style():
        figure = picture.draw()
        figure.canvas.draw()
    reward = figure.axes[0]
    assert -0.1 < reward.get_ylim()[0] < reward.get_ylim()[1] < 1.1  # no reward lies outside of 0 and 1
    assert len(labels(reward)) >= 3


def test_a_figure_without_cut_bands_says_nothing_of_them(rng: np.random.Generator) -> None:
    table = pd.concat(
        [completions(rng).assign(prompt=f"question {number}", reward=lambda of: 0.5 + 0.01 * of["step"]) for number in range(8)]
    )
    assert plot_rollouts.CUT not in rollouts.describe(["a"], [table], Options()).pictures[0].title


def test_a_heat_map_of_one_constant_reward_has_a_scale_and_says_what_is_white() -> None:
    cells = pd.DataFrame({"row": [0, 0], "bin": [0, 2], "reward": [0.0, 0.0]})
    for width in WIDTHS:
        with style.use_style():
            figure = plot_rollouts.heat_map(cells, ["a question"], ["1-3", "4-6", "7-9"], width=width)
            figure.canvas.draw()
        bar = figure.axes[1]
        ticks = (
            labels(bar, "x" if width == style.PHONE else "y")
            if width == style.PHONE
            else [tick.label2.get_text() for tick in bar.yaxis.get_major_ticks()]
        )
        assert [ticks[0], ticks[-1]] == ["0.0", "1.0"]


def drawn(picture: Picture, width: float) -> Figure:
    figure = picture.draw(width=width)
    figure.canvas.draw()
    return figure


def legends(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("count", [1, 2])
def test_the_chance_lines_of_directions_are_named(tmp_path: Path, count: int) -> None:
    pytest.importorskip("torch")
    section = directions.make([run_of(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))[:count]], Options())
    for width in WIDTHS:
        with style.use_style():
            figure = drawn(section.pictures[0], width)
        dotted = [line for line in figure.axes[3].lines if line.get_linestyle() == ":"]
        assert dotted
        assert legends(figure).count("by chance") == 1


def test_the_chance_marks_of_overlap_are_named(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))]
    pair, matrix = overlap.make(runs[:2], Options()).pictures[0], overlap.make(runs, Options()).pictures[0]
    for width in WIDTHS:
        with style.use_style():
            figure = drawn(pair, width)
            drawn(matrix, width)
        assert [label.partition(":")[0] for label in legends(figure)] == ["measured", "by chance"]
        box = figure.legends[0].get_window_extent()
        assert all(not box.overlaps(label.get_window_extent()) for ax in figure.axes for label in (ax.xaxis.label, *ax.get_xticklabels()))
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert "by chance in brackets" in matrix.title


def test_title_colour_bar_and_axis_call_unchanged_weights_the_same(tmp_path: Path) -> None:
    section = weights.make([run_of(tmp_path / "a")], Options())
    over, heat = section.pictures[:2]
    for width in WIDTHS:
        with style.use_style():
            bar, lines = drawn(heat, width).axes[1], drawn(over, width).axes[0]
        words = (bar.get_xlabel() or bar.get_ylabel()).partition("\n")[0]
        assert words == "unchanged, bf16 (update sparsity)"
        assert words in heat.title
        assert lines.get_ylabel() == "unchanged (update sparsity)"
        assert all(label.endswith(" %") for label in labels(lines) if label)
        steps = [float(label) for label in labels(lines, "x")]
        assert all(step == round(step) for step in steps)
        assert len({b - a for a, b in pairwise(steps)}) <= 1


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_the_figures_of_entropy_leaves_them(width: float) -> None:
    table = pd.DataFrame({"kind": ["word", "number"], "share": [0.7, 0.3], "entropy": [1.0, 0.5], "entropy_b": [0.8, 0.4]})
    for name, value in (("entropy", 0.5), ("entropy_b", 0.4)):
        table = table.assign(**{f"{name}_low": value, f"{name}_high": 1.2})
    with style.use_style():
        figure = plot_uncertainty.kinds(table, width=width)
        figure.canvas.draw()
    (ax,) = figure.axes
    for text in (ax.xaxis.label, *ax.get_yticklabels()):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["word  70 %", "number  30 %"]


def test_titles_and_alternatives_count_in_words_that_agree(tmp_path: Path, rng: np.random.Generator) -> None:
    sections = [weights.make([run_of(tmp_path / "a", steps=(1,))], Options()), rollouts.describe(["a"], [completions(rng)], Options())]
    told = [text for section in sections for picture in section.pictures for text in (picture.title, picture.alternative)]
    assert told
    assert not [text for text in told if re.search(r"(?<![\d.,@])1 (panel|prompt|part|sample|problem|token|text)s\b", text)]
