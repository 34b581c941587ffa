"""Plots of the overlap of updates: bars by kind of module for two updates, a matrix for more."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dynamics.presentation import style, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dynamics.overlap.comparison import Comparison


#: characters of a line of the title
TITLE = 50
#: what the legend calls the mark beside a bar
BY_CHANCE = "by chance: independent masks, by tensor"


def bars(modules: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the Jaccard index by kind of module and its chance value. ``modules``: columns name, jaccard, jaccard_chance_by_tensor."""
    positions = np.arange(len(modules))
    ax.barh(positions, modules["jaccard"], color="#4477aa", height=0.7, label="measured")
    ax.plot(modules["jaccard_chance_by_tensor"], positions, "|", color="black", ms=11, mew=2, label=BY_CHANCE)
    ax.set_yticks(positions, modules["name"])
    ax.invert_yaxis()
    ax.set_xlim(0, max(0.05, 1.1 * float(modules[["jaccard", "jaccard_chance_by_tensor"]].to_numpy().max(initial=0))))
    ticks.plain(ax.xaxis, share=True)
    ax.set_xlabel("Jaccard index of the changed weights")
    figure = ax.get_figure(root=True)
    if figure is not None:  # below all labels, whatever the height of the axes
        handles, names = ax.get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside lower center", frameon=False, fontsize=7, ncols=2)
    return ax


def matrix(total: pd.DataFrame, names: list[str], ax: Axes) -> Axes:
    """Draw the Jaccard index / chance of every pair of updates. ``total``: columns a, b, jaccard, jaccard_chance_by_tensor."""
    size = len(names)
    ratio = np.full((size, size), np.nan)
    labels: dict[tuple[int, int], str] = {}
    for a, b, jaccard, chance in total[["a", "b", "jaccard", "jaccard_chance_by_tensor"]].to_numpy().tolist():
        ratio[int(b), int(a)] = jaccard / chance if chance else np.nan
        labels[int(b), int(a)] = f"{jaccard:.2f}\n({chance:.2f})"
    top = max(1.1, float(np.nanmax(ratio, initial=1.0)))
    image = ax.imshow(ratio, cmap="viridis", vmin=1.0, vmax=top)
    for (y, x), label in labels.items():
        ax.text(x, y, label, ha="center", va="center", color="white" if ratio[y, x] < (1 + top) / 2 else "black", fontsize=7)
    ax.grid(False)
    ax.set_xticks(range(size - 1), names[:-1], rotation=30, ha="right")
    ax.set_yticks(range(1, size), names[1:])
    ax.set(xlim=(-0.5, size - 1.5), ylim=(size - 0.5, 0.5), aspect="auto")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ticks.color_bar(image, ax, "Jaccard index / chance", ticks.round_ticks(1.0, top, 4))
    return ax


def figure(comparison: Comparison, rule: str = "bf16") -> Any:
    """Draw bars for two updates or a matrix for more, with chance values."""
    from dynamics.overlap.comparison import table
    from dynamics.presentation.text import short_paths

    rows = table(comparison).query("rule == @rule")
    short = short_paths([checkpoint.path for checkpoint in comparison.tuned])
    names = [short[checkpoint.path] for checkpoint in comparison.tuned]
    with style.use_style():
        if len(names) == 2:
            modules = rows[rows["level"] == "module"]
            drawing = style.new_figure(5.5, 1.2 + 0.28 * len(modules))
            ax = bars(modules, drawing.subplots())
            title = "\n".join(textwrap.wrap(f"{names[0]} and {names[1]}, rule {rule}", TITLE, break_long_words=True))
            ax.set_title(title, fontsize=9, parse_math=False)
        else:
            drawing = style.new_figure(2.6 + 0.8 * len(names), 2.0 + 0.7 * len(names))
            ax = matrix(rows[rows["level"] == "total"], names, drawing.subplots())
            ax.set_title(f"rule {rule}\nin brackets: by chance,\nindependent masks", fontsize=8)
    return drawing
