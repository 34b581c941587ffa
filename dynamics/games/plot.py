"""Plot the measures of games over the phases of training: a panel per measure, a line per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamics.games.comparison import MEASURES
from dynamics.presentation import style, ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamics.games.comparison import Report

#: measures that are drawn, if there are any of them
DRAWN = tuple(name for name in MEASURES if name not in ("agreement", "lines", "similarity_mean"))
#: dashes of lines, by role and player
DASHES = ("-", "--", ":", "-.")
#: of runs that share a colour, as there are fewer colours than runs
MARKERS = ("o", "s", "^", "D", "x")


def panel(table: pd.DataFrame, measure: str, ax: Axes, names: list[str], kinds: list[str]) -> Axes:
    """Draw a measure over training.

    Parameters
    ----------
    table : rows of ``Report.table`` of this measure, with the column ``kind`` (role and player).
    measure : key of ``MEASURES``.
    ax : where to draw.
    names : all runs; their order gives the colours, and the markers of those that share one.
    kinds : all roles and players; their order gives the dashes.
    """
    for (run, kind), part in table.groupby(["run", "kind"], sort=False):
        again, place = divmod(names.index(str(run)), len(style.SERIES_COLORS))
        color, marker = style.SERIES_COLORS[place], MARKERS[again % len(MARKERS)]
        middle = (part["first_step"] + part["last_step"]) / 2
        dashes = DASHES[kinds.index(str(kind)) % len(DASHES)]
        label = str(run) if len(kinds) == 1 or not kind else f"{run}, {kind}" if len(names) > 1 else str(kind)
        ax.plot(middle, part["value"], linestyle=dashes, marker=marker, markersize=3, color=color, label=label)
        if part["low"].notna().any():
            style.band(ax, middle, part["low"], part["high"], color=color, alpha=0.15)
    ax.set_title(MEASURES[measure].title, fontsize=8)
    if measure == "gap":
        ax.axhline(0, color=style.FAINT, linewidth=0.8)
    ticks.plain(ax.xaxis, 4)
    ticks.plain(ax.yaxis, 4)
    return ax


def figure(report: Report, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the measures of all runs, in as many columns as fit into ``width`` inches."""
    from dynamics.errors import InputError

    table = report.table()
    table = table[(table["task"] == "") & table["measure"].isin(DRAWN)]
    if table.empty:
        raise InputError("there is nothing to draw: no measure of games could be computed")
    table = table.assign(kind=[", ".join(filter(None, pair)) for pair in zip(table["role"], table["player"], strict=True)])
    measures = [name for name in DRAWN if (table["measure"] == name).any()]
    names, kinds = [run.name for run in report.runs], list(dict.fromkeys(table["kind"]))
    columns = min(len(measures), 1 if width <= style.PHONE else max(2, int(width / 2.2)))
    rows = -(-len(measures) // columns)
    with style.use_style():
        drawing = style.new_figure(width, 0.5 + 1.7 * rows)
        axes = drawing.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for ax, measure in zip(axes, measures, strict=False):
            panel(table[table["measure"] == measure], measure, ax, names, kinds)
        for ax in axes[len(measures) :]:
            ax.axis("off")
        for place in range(max(0, len(measures) - columns), len(measures)):
            axes[place].tick_params(labelbottom=True)
            axes[place].set_xlabel("step")
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if len(handles) > 1:
            drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, int(width / 2.2)), fontsize=7)
    return drawing
