"""Expected proposer reward against the true solve rate, for an estimate from few samples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamics.io.csv import write_csv
from dynamics.presentation import style
from dynamics.train.proposer_rewards import REWARDS, expected

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = (4, 8, 32)
LIMIT = "#c4c4c4"
SHADES = ("#9CC7E4", "#3F8FC5", "#0B3C6F")


def curves() -> pd.DataFrame:
    """Tabulate the columns reward, samples, p, expected of every reward of ``dynamics.train.proposer_rewards``."""
    import pandas as pd

    p = np.linspace(0, 1, 101)
    rows = [{"reward": name, "samples": count, "p": p, "expected": expected(name, p, count)} for name in REWARDS for count in SAMPLES]
    return pd.DataFrame(rows).explode(["p", "expected"])


def draw(ax: Axes, name: str) -> Axes:
    """Draw the curves of a reward: a line for each number of samples, and the limit of many samples in grey."""
    p = np.linspace(0, 1, 201)
    ax.plot(p, expected(name, p, 512), color=LIMIT, linewidth=2.8, label="many")
    for shade, count in zip(SHADES, SAMPLES, strict=True):
        ax.plot(p, expected(name, p, count), color=shade, linewidth=1.3, label=f"{count}")
    ax.set_title(f"{name}:\n{textwrap.fill(REWARDS[name].formula, 30)}", fontsize=7, fontweight="normal")
    ax.set_xlim(0, 1)
    ax.axhline(0, color=style.FAINT, linewidth=0.6, zorder=0)
    return ax


def figure() -> Figure:
    """Draw the curves of all rewards in one figure."""
    drawn = style.new_figure(style.TWO_COLUMN, 6.4)
    axes = drawn.subplots(3, 4, sharex=True)
    for ax, name in zip(axes.flat, REWARDS, strict=False):
        draw(ax, name)
    for ax in axes.flat[len(REWARDS) :]:
        ax.axis("off")
    axes.flat[len(REWARDS) - axes.shape[1]].tick_params(labelbottom=True)
    axes.flat[len(REWARDS)].legend(*axes.flat[0].get_legend_handles_labels(), title="samples of each task", loc="center")
    drawn.supxlabel("true solve rate p", fontsize=9)
    drawn.supylabel("expected proposer reward", fontsize=9)
    return drawn


def write(path: Path) -> list[Path]:
    """Write the figure, and the table of its curves beside it."""
    with style.use_style():
        style.save(figure(), path)
    write_csv(path.with_suffix(".csv"), curves(), "%.5g")
    return [path, path.with_suffix(".csv")]
