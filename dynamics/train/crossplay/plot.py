"""Draw a cross-play matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamics.presentation import style, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from dynamics.games.crossplay import CrossPlay


def draw(found: CrossPlay, ax: Axes) -> Axes:
    """Draw the matrix: a row per phase, a column per checkpoint; the own checkpoint of a phase is framed."""
    image = ax.imshow(found.matrix, cmap=style.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(found.matrix):
        if not np.isnan(value):
            half = (found.high[row, column] - found.low[row, column]) / 2
            text = f"{value:.2f}" if np.isnan(half) else f"{value:.2f}\n±{half:.2f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if value < 0.6 else "black")
    for row, column in enumerate(found.own):
        ax.add_patch(_frame(column, row))
    ax.grid(False)
    ax.set_xticks(range(len(found.checkpoints)), found.checkpoints, rotation=30, ha="right")
    ax.set_yticks(range(len(found.phases)), found.phases)
    ax.set_xlabel("solver")
    ax.set_ylabel("tasks of")
    ticks.color_bar(image, ax, "accuracy", [0, 0.5, 1])
    return ax


def _frame(column: int, row: int) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, fill=False, edgecolor="#D55E00", linewidth=1.8)


def figure(found: CrossPlay, clean: CrossPlay | None = None) -> Figure:
    """Draw the matrix with a caption; the one without hints beside that with hints."""
    parts = [(found, "accuracy")] if clean is None else [(found, "accuracy under the hints"), (clean, "accuracy without a hint")]
    with style.use_style():
        width, height = 1.9 + 0.75 * len(found.checkpoints), 1.4 + 0.6 * len(found.phases)
        drawing = style.new_figure(width * len(parts), height)
        for (part, what), ax in zip(parts, drawing.subplots(1, len(parts), squeeze=False)[0], strict=True):
            draw(part, ax).set_title(
                f"{what} ± half of its 95 % interval;\nframed: the checkpoint at the end of the phase", fontsize=7, fontweight="normal"
            )
    return drawing
