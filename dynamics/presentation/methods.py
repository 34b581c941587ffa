"""Colours and markers of the training methods, the same in every figure of a comparison, and plots that use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.presentation import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLORS = {
    "base": "#000000",
    "sft": "#E69F00",
    "rlvr": "#0072B2",
    "selfplay": "#009E73",
    "seirenes": "#56B4E9",
    "spc": "#882255",
    "pasodoble": "#D55E00",
    "populora": "#8C6D1F",
}
MARKERS = {"base": "o", "sft": "s", "rlvr": "^", "selfplay": "D", "seirenes": "P", "spc": "p", "pasodoble": "v", "populora": "X"}
#: colours of the roles in games
ROLES = {"proposer": "#CC79A7", "solver": "#00523B", "critic": "#AA4499", "generator": "#DDAA33", "claimer": "#882255"}
ROLES |= {"adversary": "#D55E00", "hinted": "#56B4E9"}
#: colour of everything that is not a method
OTHER = "#6b6b6b"


def color(label: str) -> str:
    """Return the colour of the method at the start of a label: that of ``sft`` for ``sft, learning rate 3e-05``."""
    return COLORS.get(label.partition(",")[0], OTHER)


def marker_style(label: str) -> dict[str, Any]:
    """Return colour and marker of the method at the start of a label, as options of ``Axes.plot``."""
    return {"color": color(label), "marker": MARKERS.get(label.partition(",")[0], "o")}


def line(part: pd.DataFrame, x: str, label: str, ax: Axes, band: bool = True, **more: Any) -> Axes:
    """Draw a line with its band from columns ``x``, value, low, high, with rows in any order. A band with NaN is not drawn.

    A single point has a marker, and a bar for its band.
    """
    part = part.sort_values(x)
    at, low, high = (part[name].to_numpy(float) for name in (x, "low", "high"))
    options = marker_style(label) | {"markersize": 4, "label": label} | more | lone_marker(at, label, more.get("marker", "o"))
    if band and np.isfinite(low).all() and np.isfinite(high).all():
        style.band(ax, at, low, high, color=options["color"], alpha=0.15)
    ax.plot(at, part["value"], **options)
    return ax


def lone_marker(values: Any, label: str, marker: str = "") -> dict[str, Any]:
    """Return the options of ``Axes.plot`` that make a line of a single finite value visible: a marker, unless the line has one."""
    lone = int(np.isfinite(np.asarray(values, float)).sum()) == 1 and marker in ("", "None")
    return {"marker": MARKERS.get(label.partition(",")[0], "o"), "markersize": 5} if lone else {}


def seeds(part: pd.DataFrame, x: str, label: str, ax: Axes, window: int = 1, **more: Any) -> Axes:
    """Draw every seed as a thin line and their mean as a thick line; what is a single point has a marker.

    Parameters
    ----------
    part : columns seed, ``x`` and value.
    x : name of the column on the x axis.
    label : label of the method.
    ax : axes to draw on.
    window : length of the centred running mean, in rows.
    more : options of ``Axes.plot``.
    """
    options = dict[str, Any](color=color(label), label=label) | more
    wide = part.pivot_table(index=x, columns="seed", values="value").sort_index()
    smooth = wide.rolling(window, center=True, min_periods=1).mean()
    if len(wide.columns) > 1:
        for seed in wide.columns:
            thin = {"color": options["color"], "linewidth": 0.7, "alpha": 0.5, "linestyle": options.get("linestyle", "-")}
            ax.plot(smooth.index, smooth[seed], **thin | lone_marker(smooth[seed], label) | {"markersize": 3})
    mean = smooth.mean(axis=1)
    ax.plot(smooth.index, mean, **lone_marker(mean, label) | options)
    return ax


def dots(table: pd.DataFrame, labels: Sequence[str], ax: Axes) -> Axes:
    """Draw a row per label: a dot per seed, a tick for the mean and a bar for the interval.

    Parameters
    ----------
    table : columns label, value, low, high, one row per seed.
    labels : the labels from top to bottom.
    ax : axes to draw on.
    """
    for row, label in enumerate(labels):
        part = table[table["label"] == label]
        values = part["value"].to_numpy(float)
        if not len(values):
            continue
        if len(part) and np.isfinite(part[["low", "high"]].to_numpy(float)).all():
            ax.plot([part["low"].iloc[0], part["high"].iloc[0]], [row, row], color=color(label), linewidth=4, alpha=0.3)
        ax.plot(values, np.full(len(values), row), linestyle="none", markersize=4, **marker_style(label))
        ax.plot([values.mean()], [row], marker="|", markersize=12, markeredgewidth=1.5, color=color(label))
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="x")
    return ax


def cut_marks(table: pd.DataFrame, labels: Sequence[str], ax: Axes) -> Axes:
    """Mark the intervals of ``dots`` that go on beyond the ends of the axis with an arrowhead there, once the ends are set."""
    left, right = ax.get_xlim()
    for row, label in enumerate(labels):
        part = table[table["label"] == label]
        for column, end, marker in (("low", left, "<"), ("high", right, ">")):
            beyond = part[column].to_numpy(float)
            if len(beyond) and ((beyond < end) if column == "low" else (beyond > end)).any():
                ax.plot([end], [row], marker=marker, markersize=5, color=color(label), clip_on=False, linestyle="none", zorder=5)
    ax.set_xlim(left, right)
    return ax
