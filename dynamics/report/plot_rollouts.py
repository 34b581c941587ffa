"""Plots of completions over training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from dynamics.errors import printable
from dynamics.presentation import style, ticks
from dynamics.report.labels import legend_label, run_color
from dynamics.report.plot_curves import line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND = 0.16
MARKERS = ("o", "s", "^", "D", "v", "P")
#: characters of a prompt beside a row of the heat map, of a wide and of a narrow figure
SHOWN, SHOWN_NARROW = 34, 14
#: rows for which a heat map has space at least: its colour bar needs it
LEAST_ROWS = 4
#: what the title of a figure says if a band reaches beyond an axis
CUT = "cut at the ends of the axis"


@dataclass(frozen=True)
class Measure:
    """A panel of a figure.

    Attributes
    ----------
    title : above it.
    natural : the least and the largest value that there can be; bands beyond are cut.
    share : whether the values are fractions, which the axis shows as percentages.
    """

    title: str
    natural: tuple[float, float] = (-math.inf, math.inf)
    share: bool = False

    def ends(self, part: pd.DataFrame) -> tuple[float, float]:
        """Return the ends of the axis for rows with mean, low and high, which the means decide."""
        means, low, high = (part[name].to_numpy(float) for name in ("mean", "low", "high"))
        return ticks.band_span(means, low, high, self.natural)


def is_cut(table: pd.DataFrame, measures: Mapping[str, Measure]) -> bool:
    """Tell whether a band of ``lines`` reaches beyond its axis, so that the figure can say so."""
    parts = [(measure, table[table["measure"] == name]) for name, measure in measures.items()]
    return any(ticks.cuts(measure.ends(part), part["low"].to_numpy(float), part["high"].to_numpy(float)) for measure, part in parts)


def lines(table: pd.DataFrame, measures: Mapping[str, Measure], x: str, xlabel: str, *, width: float = style.TWO_COLUMN) -> Figure:
    """Draw a panel for each measure, with a line and a band for each series.

    Parameters
    ----------
    table : columns series, run (its position, for the colour), measure, mean, low, high and ``x``; a row a point.
    measures : measure -> its panel, in order.
    x, xlabel : column and name of the horizontal axis.
    width : of the space in inches.
    """
    names = list(dict.fromkeys(table["series"]))
    runs = dict(zip(table["series"], table["run"], strict=True))
    looks = [line(index) | {"color": run_color(runs[name]), "marker": MARKERS[index % len(MARKERS)]} for index, name in enumerate(names)]
    panels = [name for name in measures if (table["measure"] == name).any()]
    wide = width > style.NARROW
    columns = min(2 if wide else 1, len(panels))
    rows = math.ceil(len(panels) / columns)
    several, in_legend = len(names) > 1, 3 if wide else 1
    height = (2.1 if wide else 1.8) * rows + 0.3 * several * math.ceil(len(names) / in_legend) + 0.2
    figure = style.new_figure(width / 2 * max(columns, 1.3) if wide else width, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for number, (ax, name) in enumerate(zip(axes, panels, strict=False)):
        part = table[table["measure"] == name]
        for index, series in enumerate(names):
            _line(part[part["series"] == series], x, looks[index], ax)
        ax.set_title(measures[name].title, fontsize=8.5, pad=4)
        ax.set_ylim(*ticks.padded(measures[name].ends(part)))
        ticks.plain(ax.yaxis, share=measures[name].share)
        if x == "step":
            ticks.whole(ax.xaxis)
        else:
            ticks.plain(ax.xaxis)
        if number + columns >= len(panels):
            ax.set_xlabel(xlabel)
            ax.xaxis.set_tick_params(labelbottom=True)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if several:
        handles = [Line2D([], [], markersize=3.5, **look) for look in looks]
        shown = [legend_label(printable(name, 40)) for name in names]
        figure.legend(handles, shown, loc="outside upper left", ncols=in_legend, handlelength=3.2)
    return figure


def _line(part: pd.DataFrame, x: str, look: Mapping[str, Any], ax: Axes) -> None:
    position = part[x].to_numpy(float)
    style.band(ax, position, part["low"].to_numpy(float), part["high"].to_numpy(float), color=look["color"], alpha=BAND)
    ax.plot(position, part["mean"].to_numpy(float), markersize=5 if len(part) == 1 else 3, **look)


def heat_map(table: pd.DataFrame, prompts: Sequence[str], steps: Sequence[str], *, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the mean reward of each prompt in each part of training; white where it was not sampled.

    Parameters
    ----------
    table : columns row, bin (positions in ``prompts`` and ``steps``) and reward.
    prompts : texts of the rows.
    steps : names of the parts.
    width : of the space in inches.
    """
    wide = width > style.NARROW
    values = np.full((len(prompts), len(steps)), np.nan)
    values[table["row"].to_numpy(int), table["bin"].to_numpy(int)] = table["reward"].to_numpy(float)
    figure = style.new_figure(width, 0.9 + 0.21 * max(len(prompts), LEAST_ROWS) + 0.7 * (not wide))
    ax = figure.subplots()
    low, high = ticks.span(values)
    picture = ax.pcolormesh(np.ma.masked_invalid(values), cmap=style.SEQUENTIAL, vmin=low, vmax=high, edgecolors="white", linewidth=0.6)
    labels = [f"{_start(printable(_plain(text), 400), SHOWN if wide else SHOWN_NARROW)}  {row + 1}" for row, text in enumerate(prompts)]
    ax.set_yticks(np.arange(len(prompts)) + 0.5, labels, parse_math=False, fontsize=7.5)
    ax.set_xticks(np.arange(len(steps)) + 0.5, list(steps), fontsize=7.5, rotation=0 if wide and len(steps) <= 8 else 45 if wide else 90)
    ax.set_xlabel("steps")
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ticks.color_bar(picture, ax, "mean reward", ticks.round_ticks(low, high, 4), beside=wide)
    return figure


def _start(text: str, most: int) -> str:
    """Shorten a text to its start: whole words if that keeps half of the space, else characters."""
    words = textwrap.shorten(text, most, placeholder="…")
    return words if 2 * len(words) >= min(most, len(text)) else f"{text[: most - 1]}…"


def _plain(text: str) -> str:
    """Replace characters that the font of figures lacks."""
    return "".join(c if ord(c) < 0x2600 else "□" for c in text.replace("\n", " ").replace("\t", " "))
