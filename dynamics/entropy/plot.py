"""Plots of entropy: its distribution, by position, by token, and the change in a second model.

Most functions take a table of tokens (``dynamics.entropy.trace(...).tokens``) and Axes, and return the Axes.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullLocator

from dynamics.descriptions import plural
from dynamics.entropy.summaries import CERTAIN, by_token, change_by_percentile, summary
from dynamics.errors import printable
from dynamics.presentation import style, text, ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamics.entropy.traces import Trace

FIRST, SECOND = "#0072B2", "#D55E00"
#: lower end of the axis; smaller entropies count in the first bin
LEAST = 1e-6
#: number of tokens at each end of the ranking
NAMED = 10
BINS = 24


def histogram(tokens: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a histogram of entropy on a logarithmic axis, with the 80th percentile; the second model's as a line."""
    values = tokens["entropy"].dropna().to_numpy()
    top = max(float(values.max(initial=LEAST)) * 1.05, 10 * LEAST)
    edges = np.geomspace(LEAST, top, 60).tolist()
    count = max(len(values), 1)
    weights = np.full(len(values), 100 / count)
    ax.hist(np.clip(values, LEAST, None), edges, weights=weights, color=FIRST, alpha=0.75, linewidth=0)
    if "entropy_b" in tokens:
        other = tokens["entropy_b"].dropna().to_numpy()
        share = np.full(len(other), 100 / max(len(other), 1))
        ax.hist(np.clip(other, LEAST, None), edges, weights=share, histtype="step", color=SECOND, linewidth=1.4)
    ax.set_xscale("log")
    ticks.logarithmic(ax.xaxis)
    ax.set_xlim(LEAST, top)
    height = ax.get_ylim()[1]
    ax.set_ylim(0, height * 1.22)
    below = float((values < CERTAIN).mean()) if len(values) else 0.0
    ax.axvline(CERTAIN, color=style.FAINT, linewidth=0.9, linestyle=(0, (1, 1.5)))
    ax.text(
        CERTAIN / 1.25,
        height * 1.2,
        f"{text.percent(below, short=True)} below {CERTAIN}",
        ha="right",
        va="top",
        fontsize=8,
        color=style.FAINT,
    )
    if len(values):
        mark = float(np.percentile(values, 80))
        ax.axvline(max(mark, LEAST), color=style.FAINT, linewidth=0.9, linestyle=(0, (1, 1.5)))
        ax.text(max(mark, LEAST) / 1.12, height * 1.08, f"80th percentile {mark:.2g}", ha="right", va="top", fontsize=8, color=style.FAINT)
    ax.set_xlabel(f"entropy, nats (log scale; the first bin holds all below {style.exponent(LEAST)})")
    ticks.plain(ax.yaxis)
    ax.set_ylabel("share of tokens, %")
    return ax


def by_position(tokens: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the median entropy over the position in the text, with a band from the 25th to the 75th percentile, in equal bins."""
    known = tokens.dropna(subset=["entropy"])
    last = int(known["position"].max()) if len(known) else 1
    edges = np.unique(np.linspace(1, last + 1, min(BINS, last) + 1).astype(int))
    for name, color in (("entropy", FIRST), ("entropy_b", SECOND)):
        if name not in known:
            continue
        bins = np.searchsorted(edges, known["position"].to_numpy(), side="right") - 1
        grouped = known.assign(bin=np.clip(bins, 0, len(edges) - 2)).groupby("bin")
        quartiles = grouped[name].quantile([0.25, 0.5, 0.75]).unstack()
        middle = grouped["position"].mean()
        style.band(ax, middle, quartiles[0.25], quartiles[0.75], color=color, alpha=0.16)
        ax.plot(middle, quartiles[0.5], color=color, marker="o", markersize=3)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("position in the text, tokens")
    ax.set_ylabel("entropy, nats: median, quartiles")
    ticks.whole(ax.xaxis)
    ticks.plain(ax.yaxis)
    return ax


def tokens_ranked(tokens: pd.DataFrame, ax: Axes, named: int = NAMED, least: int = 5) -> Axes:
    """Draw the tokens with the highest and the lowest mean entropy, of those that occur at least ``least`` times."""
    ranked = by_token(tokens, least)
    count = min(named, len(ranked) // 2)
    parts = [ranked.head(count), ranked.tail(count)]
    rows = [row for part in parts for row in part.to_dict("records")]
    positions = [*range(count), *range(count + 1, 2 * count + 1)]
    for position, row in zip(positions, rows, strict=True):
        ax.barh(position, row["entropy"], color=FIRST if position < count else "#9cc3dd", height=0.72)
        ax.text(row["entropy"], position, f" {row['entropy']:.2g}", va="center", fontsize=7, color=style.FAINT)
    labels = [f"{_visible(row['token'])}  {row['tokens']:,}x" for row in rows]
    ax.set_yticks(positions, labels, parse_math=False, fontsize=7.5)
    ax.invert_yaxis()
    if rows:
        ax.set_xlim(0, max(row["entropy"] for row in rows) * 1.18 + 1e-9)
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"mean entropy, nats (tokens seen at least {least} times)")
    return ax


def _visible(token: str) -> str:
    """Make whitespace of a token visible, write block elements as code points, and replace characters from U+2600 up."""
    if token and all(0x2580 <= ord(c) <= 0x259F for c in token):
        return f"{f'{len(token)} ' if len(token) > 1 else ''}U+{ord(token[0]):04X}"
    word = printable(token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"), 16)
    return "".join(c if ord(c) < 0x2600 else "□" for c in word)


def change(tokens: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the change of entropy in the second model by percentile of the first model's entropy."""
    bins = change_by_percentile(tokens)
    ax.bar(bins["percentile"] - 2.5, bins["change"], width=4.2, color=style.FAINT)
    ax.axhline(0, color=style.FAINT, linewidth=0.9)
    ax.set_xlabel("percentile of the first model's entropy")
    ax.set_ylabel("change of entropy, nats")
    ax.set_xlim(0, 100)
    ticks.plain(ax.yaxis, signed=True)
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def over_training(series: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the mean entropy of several checkpoints on the same texts, with its interval.

    ``series``: columns model, entropy, low, high, one row per checkpoint in order. If the names differ in an increasing number only, it is
    the x position.
    """
    numbers = text.checkpoint_numbers([str(name) for name in series["model"]])
    x = np.asarray(numbers if numbers else range(len(series)), float)
    style.band(ax, x, series["low"].to_numpy(float), series["high"].to_numpy(float), color=FIRST, alpha=0.16)
    ax.plot(x, series["entropy"].to_numpy(float), color=FIRST, marker="o", markersize=4)
    if numbers:
        ax.set_xlabel("checkpoint")
        ticks.whole(ax.xaxis, 8)
    else:
        ax.set_xticks(x, [printable(str(name).rstrip("/").rpartition("/")[2], 16) for name in series["model"]], parse_math=False)
    ends = ticks.padded((0.0, float(np.nanmax(series[["entropy", "high"]].to_numpy(float), initial=0.0)) or 1.0))
    ax.set_ylim(0, ends[1])
    ticks.plain(ax.yaxis)
    ax.set_ylabel("mean entropy, nats")
    return ax


def series_figure(series: pd.DataFrame) -> Figure:
    """Draw the figure of several checkpoints on the same texts."""
    with style.use_style():
        drawing = style.new_figure(7.5, 3.8)
        over_training(series, drawing.subplots())
        return drawing


def figure(trace: Trace, model: str, against: str | None = None) -> Figure:
    """Draw the figure of a trace: distribution, position and tokens; for two models also the change by percentile."""
    numbers = summary(trace.tokens).iloc[0]
    with style.use_style():
        both = "entropy_b" in trace.tokens
        lines = [f"model: {printable(model, 90)}" + (f"; second model (orange): {printable(against or '', 90)}" if both else "")]
        span = f" [{numbers['low']:.3g}, {numbers['high']:.3g}]" if numbers["low"] == numbers["low"] else ""
        lines.append(
            f"{plural(int(numbers['tokens']), 'token')} of {plural(int(numbers['texts']), 'text')}, forward in {trace.dtype}. Mean entropy "
            f"{numbers['entropy']:.3g}{span} nats" + (f", change {numbers['change']:+.3g}." if both else ".")
        )
        wrapped = [part for line in lines for part in textwrap.wrap(line, 138, subsequent_indent="    ")]
        body, head = (6.6, 0.5 + 0.165 * len(wrapped))
        whole = body + head
        drawing = style.new_figure(10, whole)
        drawing.text(0.012, 1 - 0.12 / whole, "Where the model is unsure", fontsize=11, fontweight="bold", va="top")
        for number, line in enumerate(wrapped):
            height = 1 - (0.37 + 0.165 * number) / whole
            drawing.text(0.012, height, line, fontsize=8.5, color=style.FAINT, va="top", parse_math=False)
        engine = drawing.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0, 0, 1, body / whole), hspace=0.08, wspace=0.06)  # type: ignore[call-arg]
        grid: Any = drawing.add_gridspec(2, 2)
        histogram(trace.tokens, drawing.add_subplot(grid[0, 0]))
        by_position(trace.tokens, drawing.add_subplot(grid[1, 0]))
        if both:
            tokens_ranked(trace.tokens, drawing.add_subplot(grid[0, 1]), 7)
            change(trace.tokens, drawing.add_subplot(grid[1, 1]))
        else:
            tokens_ranked(trace.tokens, drawing.add_subplot(grid[:, 1]), 14)
        return drawing
