"""Plots of the overlap of updates: bars by kind of module for two updates, a matrix for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dynamics.presentation import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dynamics.overlap.comparison import Comparison


def bars(modules: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the Jaccard index by kind of module and its chance value. ``modules``: columns name, jaccard, jaccard_chance_by_tensor."""
    positions = np.arange(len(modules))
    ax.barh(positions, modules["jaccard"], color="#4477aa", height=0.7, label="measured")
    ax.plot(modules["jaccard_chance_by_tensor"], positions, "|", color="black", ms=11, mew=2, label="independent masks, by tensor")
    ax.set_yticks(positions, modules["name"])
    ax.invert_yaxis()
    ax.set_xlim(0, max(0.05, 1.1 * float(modules[["jaccard", "jaccard_chance_by_tensor"]].to_numpy().max(initial=0))))
    ax.set_xlabel("Jaccard index of the changed weights")
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
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label("Jaccard index / chance")
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
            ax.set_title(f"{names[0]} and {names[1]}, rule {rule}", fontsize=9)
            ax.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
        else:
            drawing = style.new_figure(2.6 + 0.8 * len(names), 2.0 + 0.7 * len(names))
            ax = matrix(rows[rows["level"] == "total"], names, drawing.subplots())
            ax.set_title(f"rule {rule}\nin brackets: independent masks", fontsize=8)
    return drawing
