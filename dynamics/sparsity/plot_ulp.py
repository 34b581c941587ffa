"""A histogram of the size of updates in bf16 steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dynamics.presentation import style, ticks
from dynamics.presentation.text import percent


def ulp_histogram(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the fraction of weights that moved by 0, 1, 2, 3-4, ... bf16 steps: a dot per series and bin, on a log axis.

    Parameters
    ----------
    table : one row per series and bin, with columns ``series`` (text), ``steps`` (the bin as text, ``"0"``, ``"1"``, ``"3-4"``, in
        order) and ``fraction`` (of all weights, in [0, 1]).
    ax : axes to draw on; they are returned.

    Notes
    -----
    Both sides are rounded to bf16 before steps are counted, so bin "0" also contains weights with an update that is too
    small for a bf16 file. The relative size of a step is 2^-8 to 2^-7 of the weight. The plot has dots rather than bars,
    because the length of a bar has no meaning on a log axis. An empty bin has no dot; its label is 0 %, at the bottom.

    Examples
    --------
    >>> from dynamics.presentation import style
    >>> figure = style.new_figure(6, 3)
    >>> table = pd.DataFrame({"series": ["a", "a"], "steps": ["0", "1"], "fraction": [0.9, 0.1]})
    >>> len(ulp_histogram(table, figure.subplots()).collections) > 0
    True
    """
    bins = list(dict.fromkeys(table["steps"]))
    series = list(dict.fromkeys(table["series"]))
    positive = table.loc[table["fraction"] > 0, "fraction"]
    floor = 10.0 ** np.floor(np.log10(positive.min() / 3)) if len(positive) else 1e-3
    gap = 0.8 / len(series)
    for i, name in enumerate(series):
        color = style.SERIES_COLORS[i % len(style.SERIES_COLORS)]
        offset = (i - (len(series) - 1) / 2) * gap
        fractions = table[table["series"] == name].set_index("steps")["fraction"]
        filled = [(bins.index(steps) + offset, float(value)) for steps, value in fractions.items() if value > 0]
        x, y = [point[0] for point in filled], [point[1] for point in filled]
        ax.vlines(x, floor, y, color=color, linewidth=1.0, alpha=0.5)
        ax.scatter(x, y, color=color, s=26, zorder=3, label=name)
        for left, height in filled:
            _write(ax, percent(height, short=True), left, height)
        for steps, value in fractions.items():
            if value == 0:
                _write(ax, percent(0, short=True), bins.index(steps) + offset, floor)
    ax.set_yscale("log")
    ax.set_ylim(floor, 5.0)  # room for the label of a full bin
    ticks.logarithmic(ax.yaxis, share=True)
    ax.set_xticks(range(len(bins)), [steps.replace("-", "–") for steps in bins])
    ax.set_xlim(-0.5, len(bins) - 0.5)
    ax.set_xlabel("size of the update, in bf16 steps (both sides rounded to bf16)")
    ax.set_ylabel("share of the weights (log scale)")
    if len(series) > 1:
        ax.legend(loc="upper right")  # above the tail, where it covers no data
    return ax


def merge_tail(ulp: dict[str, int], last: int = 64) -> dict[str, int]:
    """Merge all bins beyond ``last`` steps of a histogram of ``dynamics.sparsity`` into one, ``over 64``.

    The far bins do not show large updates: bf16 has thousands of values between zero and a typical weight, so even a small update puts a
    weight that was exactly zero there.

    Examples
    --------
    >>> merge_tail({"0": 5, "1": 3, "2": 1, "3-4": 2, "5-8": 1}, last=2)
    {'0': 5, '1': 3, '2': 1, 'over 2': 3}
    """
    kept = {steps: count for steps, count in ulp.items() if int(steps.split("-")[-1]) <= last}
    return kept | {f"over {last}": sum(ulp.values()) - sum(kept.values())}


def _write(ax: Axes, text: str, x: float, y: float) -> None:
    ax.annotate(text, (x, y), xytext=(0, 5), textcoords="offset points", ha="center", va="bottom", fontsize=7.0, color=style.INK)
