"""Expected rewards of proposers and of opponents against the true solve rate, which is estimated from few samples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.io.csv import write_csv
from dynamics.presentation import style
from dynamics.train import opponent_rewards
from dynamics.train.proposer_rewards import REWARDS, expected

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = (4, 8, 32)
#: true shares of right answers without a hint, and number of answers of each estimate, in the panels of opponents
CLEAN, ANSWERS = (0.25, 0.5, 1.0), 8
LIMIT = "#c4c4c4"
SHADES = ("#9CC7E4", "#3F8FC5", "#0B3C6F")


def curves() -> pd.DataFrame:
    """Tabulate every reward of a proposer and of an opponent.

    Columns: reward, samples, p (the true solve rate; for opponents, that without them), q (that against an opponent), expected.
    """
    import pandas as pd

    p = np.linspace(0, 1, 101)
    rows = [{"reward": name, "samples": count, "p": p, "expected": expected(name, p, count)} for name in REWARDS for count in SAMPLES]
    for name in opponent_rewards.REWARDS:
        for clean in CLEAN:
            values = opponent_rewards.expected(name, clean, p, ANSWERS)
            rows.append({"reward": name, "samples": ANSWERS, "p": np.full(len(p), clean), "q": p, "expected": values})
    table = pd.DataFrame(rows, columns=["reward", "samples", "p", "q", "expected"])
    table["q"] = [values if isinstance(values, np.ndarray) else np.full(len(p), np.nan) for values in table["q"]]
    return table.explode(["p", "q", "expected"])


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


def draw_opponent(ax: Axes, name: str) -> Axes:
    """Draw the expected reward of an opponent against the share of right answers that it leaves."""
    q = np.linspace(0, 1, 101)
    reward = opponent_rewards.REWARDS[name]
    if name == "deceives":
        ax.plot(q, opponent_rewards.expected(name, 0.0, q, ANSWERS), color=SHADES[2], linewidth=1.3, label="generator")
        ax.plot(q, -opponent_rewards.expected(name, 0.0, q, ANSWERS), color=SHADES[2], linewidth=1.3, linestyle="dashed", label="critic")
        ax.set_xlabel("critic right on wrong steps, q", fontsize=7)
    else:
        for shade, clean in zip(SHADES, CLEAN, strict=True):
            ax.plot(q, opponent_rewards.expected(name, clean, q, ANSWERS), color=shade, linewidth=1.3, label=f"p = {clean:g}")
        ax.set_xlabel("true solve rate under the hint, q", fontsize=7)
    ax.set_title(f"{reward.source.partition(' (')[0].partition(',')[0]}: {reward.formula}", fontsize=7, fontweight="normal")
    ax.set_xlim(0, 1)
    ax.axhline(0, color=style.FAINT, linewidth=0.6, zorder=0)
    ax.legend(fontsize=6, loc="lower left" if name == "indicator" else "best")
    return ax


def figure() -> Figure:
    """Draw the curves of all rewards in one figure."""
    drawn = style.new_figure(style.TWO_COLUMN, 8.4)
    parts: Any = drawn.subfigures(2, 1, height_ratios=[6.2, 2.2])
    above, below = parts
    axes = above.subplots(3, 4, sharex=True)
    for ax, name in zip(axes.flat, REWARDS, strict=False):
        draw(ax, name)
    for ax in axes.flat[len(REWARDS) :]:
        ax.axis("off")
    axes.flat[len(REWARDS) - axes.shape[1]].tick_params(labelbottom=True)
    axes.flat[len(REWARDS)].legend(*axes.flat[0].get_legend_handles_labels(), title="samples of each task", loc="center")
    above.supxlabel("true solve rate p", fontsize=9)
    above.supylabel("expected proposer reward", fontsize=9)
    for ax, name in zip(below.subplots(1, 3), opponent_rewards.REWARDS, strict=True):
        draw_opponent(ax, name)
    below.supylabel("expected reward", fontsize=9)
    return drawn


def write(path: Path) -> list[Path]:
    """Write the figure, and the table of its curves beside it."""
    with style.use_style():
        style.save(figure(), path)
    write_csv(path.with_suffix(".csv"), curves(), "%.5g")
    return [path, path.with_suffix(".csv")]
