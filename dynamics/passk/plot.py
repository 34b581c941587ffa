"""Plots of pass@k over log2 k: a line and a band per model, extrapolation dashed, and the crossing marked.

with style.use_style():
    drawing = style.new_figure(7, 4.5)
    curves(report.table(), drawing.subplots())
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.passk.comparison import crossing_text
from dynamics.presentation import style, ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamics.passk.comparison import Comparison, Report

#: colours in the order of the models; further models repeat them with another marker
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BAND = 0.16


def colors(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for every name, by its position."""
    return {name: (COLORS[i % len(COLORS)], MARKERS[(i + i // len(COLORS)) % len(MARKERS)]) for i, name in enumerate(names)}


def curves(table: pd.DataFrame, ax: Axes, kind: str = "pass@k") -> Axes:
    """Draw a line with its band for each model.

    Parameters
    ----------
    table : columns kind, name, k, value, low, high, problems, over_half: ``Report.table()``.
    kind : the kind to draw.

    Notes
    -----
    A marker is hollow if k > n / 2 for most problems: there the estimate depends on little more than whether any sample was correct.
    Extrapolation, beyond n, is dashed and has a lighter band.
    """
    names = list(dict.fromkeys(table.loc[table["kind"] == kind, "name"]))
    marks = colors(names)
    for name in names:
        color, marker = marks[name]
        part = table[(table["kind"] == kind) & (table["name"] == name)].dropna(subset=["value"]).sort_values("k")
        k, value = part["k"].to_numpy(float), part["value"].to_numpy(float)
        style.band(ax, k, part["low"].to_numpy(float), part["high"].to_numpy(float), color=color, alpha=BAND)
        ax.plot(k, value, color=color, label=printable(name, 60), zorder=3)
        solid = (2 * part["over_half"] <= part["problems"]).to_numpy()
        ax.plot(k[solid], value[solid], linestyle="none", marker=marker, markersize=4.5, color=color, zorder=4)
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": color, "markeredgewidth": 1.1}
        ax.plot(k[~solid], value[~solid], linestyle="none", marker=marker, markersize=4.5, zorder=4, **hollow)
        if kind == "pass@k":
            _extrapolation(table[(table["kind"] == "extrapolation") & (table["name"] == name)], color, ax)
    _log2(ax, table.loc[table["kind"].isin([kind, "extrapolation"]) & table["value"].notna(), "k"])
    ax.set_ylabel(kind)
    ticks.plain(ax.yaxis, 6)
    return ax


def _extrapolation(part: pd.DataFrame, color: str, ax: Axes) -> None:
    if part.empty:
        return
    part = part.sort_values("k")
    k = part["k"].to_numpy(float)
    ax.fill_between(k, part["low"].to_numpy(float), part["high"].to_numpy(float), color=color, alpha=BAND / 2, linewidth=0)
    ax.plot(k, part["value"], color=color, linestyle=(0, (3, 2)), linewidth=1.2, zorder=2)


def differences(table: pd.DataFrame, ax: Axes, marks: Mapping[str, tuple[str, str]] | None = None) -> Axes:
    """Draw paired differences from the model ``against`` with bands, and a line at 0."""
    part = table[(table["kind"] == "difference")].dropna(subset=["value"])
    marks = marks or colors(list(dict.fromkeys(table["name"])))
    ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    for name, lines in part.groupby("name", sort=False):
        color, marker = marks[str(name)]
        lines = lines.sort_values("k")
        k = lines["k"].to_numpy(float)
        style.band(ax, k, lines["low"].to_numpy(float), lines["high"].to_numpy(float), color=color, alpha=BAND)
        ax.plot(k, lines["value"], color=color, marker=marker, markersize=3.5, zorder=3)
    against = part["against"].iloc[0] if part["against"].nunique() == 1 else "the base of each" if len(part) else ""
    ax.set_ylabel(f"difference from\n{textwrap.shorten(printable(against, 24), 24)}", parse_math=False)
    _log2(ax, part["k"])
    ticks.plain(ax.yaxis, signed=True)
    return ax


def crossing(comparison: Comparison, ax: Axes, color: str, row: int = 0) -> None:
    """Mark the k at which the curve that was behind gets ahead, and its interval by a bar on the line at 0.

    ``row`` is the number of bars drawn before; each further bar is slightly lower. The bars lie below the lines, which they must not hide.
    """
    met = comparison.crossing
    if met is None or met.k is None:
        return
    low, high = met.low or met.k, met.high or met.largest
    ax.axvline(met.k, color=color, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
    shifted = ax.transData + ScaledTranslation(0, -4.5 * row / 72, ax.figure.dpi_scale_trans)
    ax.plot([low, high], [0, 0], color=color, linewidth=4, alpha=0.75, transform=shifted, solid_capstyle="butt", zorder=2)
    ax.plot([met.k], [0], marker="|", markersize=7, markeredgewidth=1.5, color="white", transform=shifted, zorder=2.1)


def _log2(ax: Axes, ks: pd.Series[Any]) -> None:
    """Set a logarithmic x axis with plain numbers at powers of two, as many as fit."""
    ax.set_xscale("log", base=2)
    least, most = (float(ks.min()), float(ks.max())) if len(ks) else (1.0, 2.0)
    first, last = math.floor(math.log2(least)), math.ceil(math.log2(max(most, least + 1e-9)))
    stride = max(1, math.ceil((last - first) / 12))
    ax.set_xticks([2.0**power for power in range(first, last + 1, stride)])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    spread = max(most / least, 2.0) ** 0.03
    ax.set_xlim(least / spread, most * spread)
    ax.set_xlabel("k: samples drawn per problem (log scale)")


def figure(report: Report, *, width: float = 8.2) -> Figure:
    """Draw the figure of a report: curves above and, for several models, paired differences below.

    Parameters
    ----------
    report : from ``dynamics.passk.comparison.report``.
    width : of the figure in inches; in a narrow one the legend is below the curves.
    """
    table = report.table()
    names = [curve.name for curve in report.curves]
    marks = colors(names)
    with style.use_style():
        lines = [_facts(report), *(crossing_text(comparison, report.level) for comparison in report.comparisons[:4])]
        pair = bool(report.comparisons)
        narrow = width <= style.NARROW
        wrapped = [part for line in lines for part in textwrap.wrap(line, int(112 * width / 8.2), subsequent_indent="    ")]
        body, head = (5.6 if pair else 3.9) + narrow * 0.2 * (len(names) + 3), 0.5 + 0.165 * len(wrapped)
        whole = body + head
        drawing = style.new_figure(width, whole)
        drawing.text(0.12 / width, 1 - 0.12 / whole, "pass@k" if len(names) > 1 else f"pass@k of {printable(names[0], 60)}", fontsize=11,
                     fontweight="bold", va="top", parse_math=False)  # fmt: skip
        for number, line in enumerate(wrapped):
            drawing.text(
                0.12 / width, 1 - (0.37 + 0.165 * number) / whole, line, fontsize=8.5, color=style.FAINT, va="top", parse_math=False
            )
        engine = drawing.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0, 0, 1, body / whole))  # type: ignore[call-arg]
        axes: Any = drawing.subplots(2 if pair else 1, 1, sharex=pair, height_ratios=[2.1, 1] if pair else [1], squeeze=False)[:, 0]
        curves(table, axes[0])
        _legend(axes[0], report, narrow)
        if pair:
            differences(table, axes[1], marks)
            axes[0].set_xlabel("")
            _log2(axes[1], table.loc[table["value"].notna(), "k"])
            for row, comparison in enumerate(report.comparisons):
                crossing(comparison, axes[1], marks[comparison.b][0], row)
                if comparison.crossing is not None and comparison.crossing.k is not None:
                    axes[0].axvline(comparison.crossing.k, color=marks[comparison.b][0], linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
        return drawing


def _legend(ax: Axes, report: Report, narrow: bool) -> None:
    handles: list[Any] = list(ax.get_legend_handles_labels()[0])
    labels = [printable(curve.name, 40) for curve in report.curves]
    marks = colors([curve.name for curve in report.curves])
    for handle, curve in zip(handles, report.curves, strict=True):
        handle.set_marker(marks[curve.name][1])
        handle.set_markersize(4.5)
    faint: dict[str, Any] = {"color": style.FAINT, "linewidth": 1.2}
    handles.append(Patch(color=style.FAINT, alpha=BAND, linewidth=0))
    labels.append(f"{100 * report.level:g} % interval, pointwise in k")
    if any((2 * curve.points["over_half"] > curve.points["problems"]).any() for curve in report.curves):
        handles.append(Line2D([], [], marker="o", markersize=4.5, markerfacecolor="white", linestyle="none", color=style.FAINT))
        labels.append("k > n / 2")
    if any(curve.extrapolation is not None for curve in report.curves):
        handles.append(Line2D([], [], linestyle=(0, (3, 2)), **faint))
        labels.append("beta-binomial model,\nnot an estimate")
    if any(comparison.crossing is not None and comparison.crossing.k is not None for comparison in report.comparisons):
        handles.append(Line2D([], [], linestyle=(0, (1, 1.5)), **faint))
        labels.append("crossing k*; the bar\nbelow is its interval")
    figure = ax.get_figure(root=True)
    if narrow and figure is not None:
        legend = figure.legend(handles, labels, loc="outside lower left", alignment="left")
    else:
        legend = ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, alignment="left")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _facts(report: Report) -> str:
    sizes = {len(curve.counts) for curve in report.curves}
    least = min(curve.samples["min"] for curve in report.curves)
    most = max(curve.samples["max"] for curve in report.curves)
    problems = plural(min(sizes), "problem") if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,} problems"
    samples = plural(least, "sample") if least == most else f"{least:,} to {most:,} samples"
    return f"{problems}, {samples} each; unbiased for k <= n; bootstrap over problems, {report.replicates:,} replicates"


__all__ = ["colors", "crossing", "crossing_text", "curves", "differences", "figure"]
