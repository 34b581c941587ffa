"""Expected proposer reward against the true solve rate, for an estimate from few samples."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np


def draw(ax: Any, name: str, samples: tuple[int, ...] = (4, 8, 32)) -> Any:
    """Curves of one reward of ``dynamics.train.proposer``, a line for each number of samples, the limit of many in grey."""
    from dynamics.train.proposer import REWARDS, expected

    p = np.linspace(0, 1, 201)
    ax.plot(p, expected(name, p, 512), color="0.6", lw=2.5, label="many")
    for shade, count in zip((0.75, 0.5, 0.15), samples, strict=False):
        ax.plot(p, expected(name, p, count), color=(0.0, 0.45 * (1 - shade) + 0.2, 0.35 + 0.5 * (1 - shade)), lw=1.3, label=f"{count}")
    ax.set_title(f"{name}\n{textwrap.fill(REWARDS[name].formula, 34)}", fontsize=7)
    ax.set_xlim(0, 1)
    ax.axhline(0, color="0.85", lw=0.6, zorder=0)
    return ax


def figure(path: str) -> None:
    """The whole catalogue in one picture, and its table beside it."""
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from dynamics.train.proposer import REWARDS, expected

    fig, axes = plt.subplots(3, 4, figsize=(10, 6.6), sharex=True)
    for ax, name in zip(axes.flat, REWARDS, strict=False):
        draw(ax, name)
    for ax in axes.flat[len(REWARDS) :]:
        ax.axis("off")
    axes.flat[len(REWARDS) - axes.shape[1]].tick_params(labelbottom=True)
    axes.flat[len(REWARDS)].legend(*axes.flat[0].get_legend_handles_labels(), title="samples of each task", loc="center", frameon=False)
    fig.supxlabel("true solve rate p")
    fig.supylabel("expected proposer reward")
    fig.tight_layout()
    fig.savefig(path, dpi=160)
    plt.close(fig)
    p = np.linspace(0, 1, 101)
    table = pd.DataFrame(
        {"reward": name, "samples": count, "p": p, "expected": expected(name, p, count)} for name in REWARDS for count in (4, 8, 32)
    )
    table.explode(["p", "expected"]).to_csv(Path(path).with_suffix(".csv"), index=False, float_format="%.5g")
