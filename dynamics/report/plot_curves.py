"""Plots of curves over training: a panel a metric, a colour and a line style a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.lines import Line2D

from dynamics.presentation import style, ticks
from dynamics.report.labels import legend_label, run_color

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: line styles of the runs, which tell them apart without colour
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
#: number of points of a line; longer curves are averaged
POINTS = 300
#: a curve with fewer values has markers
FEW = 30
#: the axis holds the values between these quantiles, and this part of their range beyond them; spikes farther out are marked at its end
QUANTILES, MARGIN = (0.01, 0.99), 0.6
#: opacity of an interval
BAND = 0.16
#: columns of panels in a wide figure, and the width of a column in inches
COLUMNS, COLUMN = 3, 3.3
#: most intervals between ticks of the axis of steps and of the axis of values
STEPS, VALUES = 6, 4


@dataclass(frozen=True)
class Panel:
    """A panel of a figure.

    Attributes
    ----------
    title : above it.
    series : values by step of each run; a run without this metric has none.
    changes : steps of abrupt changes of each run.
    logarithmic : whether the axis of values is logarithmic, if all of them are above 0.
    share : whether the values are fractions, which the axis shows as percentages.
    bands : intervals by step of each run that has them, with the columns low and high; a band that reaches far beyond the lines is cut.
    """

    title: str
    series: Mapping[int, pd.Series[float]]
    changes: Mapping[int, Sequence[int]]
    logarithmic: bool = False
    share: bool = False
    bands: Mapping[int, pd.DataFrame] = field(default_factory=dict)


def line(index: int) -> dict[str, Any]:
    """Return colour and style of the line of a run."""
    return {"color": run_color(index), "linestyle": LINES[index % len(LINES)], "linewidth": 1.3}


def averaged(series: pd.Series[float], points: int = POINTS) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Average a curve in stretches of as many values, so that at most ``points`` remain; a stretch without a finite value is NaN."""
    x, y = series.index.to_numpy(float), series.to_numpy(float)
    y = np.where(np.isfinite(y), y, np.nan)
    width = math.ceil(len(y) / points) if len(y) else 1
    if width == 1:
        return x, y
    starts = np.arange(0, len(y), width)
    known = ~np.isnan(y)
    counts = np.add.reduceat(known.astype(float), starts)
    sums = np.add.reduceat(np.where(known, y, 0.0), starts)
    steps = np.add.reduceat(x, starts) / np.diff(np.append(starts, len(x)))
    return steps, np.where(counts > 0, sums / np.where(counts > 0, counts, 1.0), np.nan)


def limits(values: Float[np.ndarray, " values"]) -> tuple[float, float] | None:
    """Return the ends of an axis on which spikes do not flatten the rest; None if all values fit."""
    known = values[np.isfinite(values)]
    if len(known) < 5:
        return None
    low, high = (float(value) for value in np.quantile(known, QUANTILES))
    margin = MARGIN * (high - low)
    if margin == 0 or (known.min() >= low - margin and known.max() <= high + margin):
        return None
    return max(float(known.min()), low - margin), min(float(known.max()), high + margin)


def curves(panels: Sequence[Panel], labels: Sequence[str], *, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the panels, beside each other unless the figure is narrow.

    Parameters
    ----------
    panels : with the runs by their position in ``labels``.
    labels : names of the runs.
    width : of the space in inches.
    """
    wide = width > style.NARROW
    columns = min(COLUMNS if wide else 1, len(panels))
    rows = math.ceil(len(panels) / columns)
    several = len(labels) > 1
    figure = style.new_figure(COLUMN * columns if wide else width, (1.75 if wide else 1.35) * rows + 0.35 * several + 0.2)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        draw(panel, ax)
    for number, ax in enumerate(axes):
        ticks.whole(ax.xaxis, STEPS)
        if number >= len(panels):
            ax.set_visible(False)
        elif number + columns >= len(panels):
            ax.set_xlabel("step")
            ax.xaxis.set_tick_params(labelbottom=True)
    if several:
        handles = [Line2D([], [], **line(index)) for index in range(len(labels))]
        figure.legend(
            handles, list(map(legend_label, labels)), loc="outside upper left", ncols=min(3 if wide else 1, len(labels)), handlelength=3.2
        )
    return figure


def draw(panel: Panel, ax: Axes) -> Axes:
    """Draw a panel: lines with gaps where a value is no number, spikes beyond the axis as triangles, changes as vertical lines."""
    drawn = {index: averaged(series) for index, series in panel.series.items() if len(series)}
    for index, (x, y) in drawn.items():
        marks: dict[str, Any] = {"marker": "o", "markersize": 5.0 if len(x) == 1 else 2.5} if len(x) < FEW else {}
        ax.plot(x, y, **line(index), **marks)
        for step in panel.changes.get(index, ()):
            ax.axvline(step, color=run_color(index), linewidth=0.9, linestyle=(0, (1, 1.5)), alpha=0.8, zorder=1)
    every, known = _values(drawn)
    share = panel.share and bool(((known >= 0) & (known <= 1)).all())  # what a trainer logs otherwise is shown as it is
    low, high = ticks.span(every, (0.0, 1.0) if share else (-math.inf, math.inf))
    if panel.bands:
        _draw_bands(panel, every, (0.0, 1.0) if share else (0.0, math.inf), ax)
    elif _is_logarithmic(panel, known):
        ax.set_yscale("log")
    elif (ends := limits(every)) is not None:
        _cut(drawn, ends, ax)
    else:
        ax.set_ylim(*ticks.padded((low, high)))
    is_log = ax.get_yscale() == "log"
    ax.set_title(f"{panel.title}{', log scale' * is_log}", fontsize=8.5, pad=4)
    if is_log:
        ticks.logarithmic(ax.yaxis, VALUES)
    else:
        ticks.plain(ax.yaxis, VALUES, share=share)
    return ax


def _draw_bands(panel: Panel, values: Float[np.ndarray, " values"], natural: tuple[float, float], ax: Axes) -> None:
    """Draw the intervals, and set the ends of the axis, which the lines decide."""
    for index, band in panel.bands.items():
        ax.fill_between(band.index.to_numpy(float), band["low"], band["high"], color=run_color(index), alpha=BAND, linewidth=0)
    low, high = (np.concatenate([band[end].to_numpy(float) for band in panel.bands.values()]) for end in ("low", "high"))
    ax.set_ylim(*ticks.padded(ticks.band_span(values, low, high, natural)))


def has_spikes(panel: Panel) -> bool:
    """Tell whether a panel has triangles for values beyond its axis, so that the figure can say what they are."""
    every, known = _values({index: averaged(series) for index, series in panel.series.items() if len(series)})
    return not _is_logarithmic(panel, known) and limits(every) is not None


def _values(drawn: Mapping[int, tuple[Any, Any]]) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, " known"]]:
    """Return the values of all lines of a panel, and those that are finite."""
    every = np.concatenate([y for _, y in drawn.values()]) if drawn else np.zeros(0)
    return every, every[np.isfinite(every)]


def _is_logarithmic(panel: Panel, known: Float[np.ndarray, " known"]) -> bool:
    """Tell whether the axis is logarithmic: not if values are equal, which have no range."""
    return bool(panel.logarithmic and len(known) > 0 and ticks.span(known)[0] == known.min() > 0)


def _cut(
    drawn: Mapping[int, tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]], ends: tuple[float, float], ax: Axes
) -> None:
    """Set the ends of the axis, and mark what lies beyond them."""
    low, high = ends
    space = 0.05 * (high - low)
    ax.set_ylim(low - space, high + space)
    for index, (x, y) in drawn.items():
        for beyond, end, marker in ((y > high, high + space, "^"), (y < low, low - space, "v")):
            if beyond.any():
                style_of: dict[str, Any] = {"color": run_color(index), "markersize": 4, "clip_on": False, "zorder": 5}
                ax.plot(x[beyond], np.full(int(beyond.sum()), end), marker, **style_of)[0].set_in_layout(False)
