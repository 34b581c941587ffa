"""Plots of update sparsity by layer and module, and over the checkpoints of a run."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynamics.checkpoints.parameter_names import MODULE_ORDER, OUTSIDE
from dynamics.errors import printable
from dynamics.presentation import style, text, ticks
from dynamics.presentation.text import percent
from dynamics.sparsity import plot_rules
from dynamics.sparsity.definitions import RULES, rule_texts

if TYPE_CHECKING:
    from dynamics.sparsity.results import Comparison, Step

#: maximum number of cells for which values are written into the cells
ANNOTATED = 150
#: maximum number of layers with a label each; beyond, every second, fifth, tenth ... layer has one
LABELLED = 40
#: minimum span of a colour scale, 0.1 percentage points, so that cells that differ by a few weights look alike
LEAST_SPAN = 0.001
#: added to the label of a colour scale that does not cover all norms
NORMS_CLIPPED = "\nnorms are off the scale"
#: what every figure calls its numbers: the share of weights that did not change
UNCHANGED = "unchanged, {rule} (update sparsity)"
#: colour of cells without weights; not a colour of the scale
EMPTY = "#ececec"
#: marker, marker size and line width by rule; they decrease in drawing order, so that coinciding lines stay visible
MARKS = {"exact": ("o", 8.5, 3.6), "bf16": ("s", 6.0, 2.4), "rtol": ("^", 4.5, 1.5), "atol": ("D", 2.4, 0.8)}


def heat_map(grid: pd.DataFrame, rule: str, ax: Axes, bar: Literal["right", "bottom"] = "right") -> Axes:
    """Draw a heat map of update sparsity by layer and kind of module, with a colour bar.

    Parameters
    ----------
    grid : one row per cell, with columns ``layer``, ``module`` and ``sparsity_<rule>`` (fraction of weights unchanged), as in
        ``Comparison.grid``. Layers are drawn in order, stacks below each other, and modules outside the layers last.
    rule : one of ``RULES``.
    ax : axes to draw on; they are returned.
    bar : where the colour bar is.

    Notes
    -----
    The colours run from the lowest to the highest cell, not from 0 to 1: read the colour bar before you compare two
    figures. Norms do not count for the scale, because they have only a few hundred weights. Norms beyond the scale have
    the colour of its end, and the colour bar has an arrow. The scale spans at least ``LEAST_SPAN``. Grey cells have no
    weights. All cells have the same size, whatever their number of weights.

    Examples
    --------
    >>> figure = style.new_figure(3, 2)
    >>> cells = pd.DataFrame({"layer": ["layers.0", "layers.1"], "module": ["q", "q"], "sparsity_bf16": [0.2, 0.9]})
    >>> heat_map(cells, "bf16", figure.subplots()).get_xticklabels()[0].get_text()
    'q'
    """
    rows = heat_rows(grid["layer"])
    columns = [module for module in MODULE_ORDER if module in set(grid["module"])]
    cells = grid.pivot(index="layer", columns="module", values=f"sparsity_{rule}")
    values = cells.reindex(index=[row or "" for row in rows], columns=columns).to_numpy(float)
    low, high, clipped = color_scale(grid, rule)
    written = np.isfinite(values).sum() <= ANNOTATED
    import seaborn as sns

    sns.heatmap(
        values,
        ax=ax,
        vmin=low,
        vmax=high,
        cmap=style.SEQUENTIAL,
        mask=~np.isfinite(values),
        annot=np.array([[percent(value, short=True).removesuffix(" %") for value in line] for line in values], object) if written else None,
        fmt="",
        annot_kws={"fontsize": 7.5},
        linewidths=0.5 if len(rows) <= LABELLED else 0.0,
        linecolor="white",
        cbar=False,
        xticklabels=False,
        yticklabels=False,
    )
    ax.grid(False)
    ax.set_facecolor(EMPTY)
    for index in (index for index, row in enumerate(rows) if row is None):
        ax.axhspan(index, index + 1, color="white", linewidth=0, zorder=3)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    prefix, labels = _labels(rows)
    ax.set_yticks([index + 0.5 for index in labels], list(labels.values()), parse_math=False)
    fits = 0 < len(prefix) <= (16 if len(rows) <= 12 else 40)  # the label is vertical, so it must be shorter than the rows are high
    ax.set_ylabel(f"layer ({prefix}*)" if fits else "layer", parse_math=False)
    ax.tick_params(axis="x", bottom=False)
    beside = bar == "right"
    label = UNCHANGED.format(rule=rule) + (NORMS_CLIPPED if clipped != "neither" else "")
    ticks.color_bar(
        ax.collections[0], ax, label, ticks.round_ticks(low, high, 5 if beside else 4), share=True, beside=beside, extend=clipped
    )
    return ax


def color_scale(grid: pd.DataFrame, rule: str) -> tuple[float, float, str]:
    """Compute the limits of the colour scale without the norms, and which of them norms exceed: neither, min, max or both.

    Parameters
    ----------
    grid : one row per cell, columns ``module`` and ``sparsity_<rule>``; norms count if there are no other values.
    rule : one of ``RULES``.
    """
    values, norm = grid[f"sparsity_{rule}"].to_numpy(float), (grid["module"] == "norm").to_numpy(bool)
    counted = values[~norm] if np.isfinite(values[~norm]).any() else values
    low, high = limits(counted)
    beyond = bool((values < low).any()), bool((values > high).any())
    return low, high, {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]


def limits(values: np.ndarray) -> tuple[float, float]:
    """Compute the lowest and the highest finite value; if they are closer than ``LEAST_SPAN``, widen them to it within [0, 1]."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low < LEAST_SPAN:
        low = min(max((low + high - LEAST_SPAN) / 2, 0.0), 1.0 - LEAST_SPAN)
        high = low + LEAST_SPAN
    return low, high


def heat_rows(layers: pd.Series[str]) -> list[str | None]:
    """List the rows of a heat map from top to bottom; None is a gap between stacks."""
    groups = text.stacks(layer for layer in layers if layer != OUTSIDE) + [[OUTSIDE]] * (OUTSIDE in set(layers))
    rows: list[str | None] = []
    for group in groups:
        rows += [*[None] * bool(rows), *group]
    return rows


def _labels(rows: Sequence[str | None]) -> tuple[str, dict[int, str]]:
    """Return the common prefix of the layer names, and the labels by row.

    A label is the number of the layer; with several stacks, the label of the first layer of each also has the name of the stack.
    """
    row_of = {row: index for index, row in enumerate(rows) if row is not None and row != OUTSIDE}
    prefix, short = text.layer_labels(row_of)
    stride = next(step for step in (1, 2, 5, 10, 20, 50, *(10**power for power in range(2, 9))) if len(row_of) <= step * LABELLED)
    labels: dict[int, str] = {}
    for stack in text.stacks(row_of):
        for position, layer in enumerate(stack):
            if position % stride == 0:
                labels[row_of[layer]] = printable(short[layer], 32) if position == 0 else layer.rpartition(".")[2]
    if OUTSIDE in rows:
        labels[rows.index(OUTSIDE)] = "no layer"
    return prefix, labels


def series_table(steps: Sequence[Step]) -> pd.DataFrame:
    """Make a table of a series, one row per step: ``against`` (``first`` or ``previous``), ``start``, ``end``, ``sparsity_<rule>``."""
    return pd.DataFrame(
        [
            {"against": step.against, "start": step.start, "end": step.end}
            | {f"sparsity_{rule}": step.comparison.total.sparsity[rule] for rule in RULES}
            for step in steps
        ]
    )


def series_lines(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw sparsity over checkpoints, a colour per rule: solid against the first checkpoint, dashed against the previous one.

    Parameters
    ----------
    table : one row per step, with columns ``against`` (``first`` or ``previous``), ``end`` (the later checkpoint) and
        ``sparsity_exact`` ... ``sparsity_atol``, as from ``series_table``.
    ax : axes to draw on; they are returned.

    Notes
    -----
    If the names of the checkpoints differ only in an increasing number, that number is the x position; else they are evenly
    spaced. The y axis does not start at 0. Dashed lines do not add up to the solid line: against the first checkpoint, a
    weight that changes twice counts once, and a weight that changes back does not count.
    """
    ends = list(dict.fromkeys(table["end"]))
    numbers = text.checkpoint_numbers(ends)
    positions = dict(zip(ends, numbers or range(len(ends)), strict=True))
    dashes: Any
    for against, dashes in (("first", "-"), ("previous", (0, (3, 2)))):
        part = table[table["against"] == against]
        for rule, (marker, size, width) in MARKS.items():
            ax.plot(
                [positions[end] for end in part["end"]],
                part[f"sparsity_{rule}"].to_numpy(float),
                color=plot_rules.RULE_COLORS[rule],
                linestyle=dashes,
                linewidth=width,
                marker=marker,
                markersize=size,
                label=f"{rule}, {against}",
            )
    low, high = limits(table[[f"sparsity_{rule}" for rule in RULES]].to_numpy(float))
    padding = 0.06 * (high - low)
    ax.set_ylim(low - padding, high + padding)
    ticks.plain(ax.yaxis, 6, share=True)
    ax.set_ylabel("unchanged (update sparsity)")
    if numbers:
        ticks.whole(ax.xaxis, 8)
        ax.set_xlabel(re.sub(r"\d+(?=\D*$)", "*", printable(text.short_paths(ends)[ends[0]], 40)), parse_math=False)
    else:
        stride = math.ceil(len(ends) / 12)
        short = [printable(label, 28) for label in text.short_paths(ends).values()]
        turned = max(map(len, short)) * len(short[::stride]) > 60
        ax.set_xticks(
            range(0, len(ends), stride), short[::stride], parse_math=False, rotation=30 * turned, ha="right" if turned else "center"
        )
        ax.set_xlabel("checkpoint")
    rules = [Line2D([], [], color=plot_rules.RULE_COLORS[rule], marker=MARKS[rule][0], linewidth=2, label=rule) for rule in MARKS]
    styles: list[tuple[Any, str]] = [("-", "the first"), ((0, (3, 2)), "the one before")]
    kinds = [Line2D([], [], color=style.INK, linestyle=dashes, label=f"against {words}") for dashes, words in styles]
    ax.legend(handles=[*rules, *kinds], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return ax


def figure(comparison: Comparison, steps: Sequence[Step] = ()) -> Figure:
    """Draw the figure of a comparison: a layer x module map under rule bf16; for a series, sparsity over checkpoints under all rules."""
    total = comparison.total
    with style.use_style():
        if steps:
            size = (8.5, 3.8)
        else:
            grid = comparison.grid
            rows, columns = len(heat_rows(grid["layer"])), grid["module"].nunique()
            size = (max(7.5, 2.6 + 0.62 * columns), 0.8 + max(1.3, rows * (0.3 if rows <= 12 else 0.2 if rows <= LABELLED else 0.1)))
        size = (size[0], min(size[1], 14.0))
        sides = [
            f"{side}: {printable(checkpoint.path.rstrip('/').rpartition('/')[2] or checkpoint.path, 60)} ({text.types(checkpoint.dtypes)})"
            for side, checkpoint in (("base", comparison.base), ("tuned", comparison.tuned))
        ]
        other_rules = ", ".join(f"{rule} {percent(total.sparsity[rule])}" for rule in RULES if rule != "bf16")
        definitions = rule_texts(comparison.rtol, comparison.atol)
        changed = f"Changed under bf16: {definitions['bf16']}. {total.numel:,} weights compared."
        title = f"Update sparsity under bf16: {percent(total.sparsity['bf16'])}" + (" at the last checkpoint" if steps else "")
        drawing, ax = _titled(size, title, [*sides, changed, f"Other rules: {other_rules}."])
        if steps:
            series_lines(series_table(steps), ax)
        else:
            heat_map(grid, "bf16", ax)
        return drawing


def _titled(size: tuple[float, float], title: str, lines: Sequence[str]) -> tuple[Figure, Axes]:
    """Make a figure with title and text lines above axes, which have ``size`` inches including their labels."""
    width, height = size
    wrapped = [part for line in lines for part in textwrap.wrap(line, int(13.5 * width), subsequent_indent="    ")]
    head = 0.45 + 0.165 * len(wrapped)
    drawing = style.new_figure(width, height + head)
    full_height = height + head
    drawing.text(0.12 / width, 1 - 0.12 / full_height, title, fontsize=11, fontweight="bold", va="top")
    for number, line in enumerate(wrapped):
        height_of_line = 1 - (0.37 + 0.165 * number) / full_height
        drawing.text(0.12 / width, height_of_line, line, fontsize=8.5, color=style.FAINT, va="top", parse_math=False)
    engine = drawing.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0, 1, height / full_height))  # type: ignore[call-arg]
    return drawing, drawing.subplots()
