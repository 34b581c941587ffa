"""Do the methods move the same weights, in the same directions?

Not in the paper, but what its comparison asks for next: cosine of the updates of methods and seeds; overlap of the weights that they
changed against the chance value of independent masks with the same density in every tensor; spectral drift, principal angles and stable
rank by method.

    python -m analyses.update_shape runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.question import Verdict, over_seeds
from analyses.runs import Run, plain
from dynamics import InputError, overlap, spectra
from dynamics.plots import methods, style

TITLE = "Overlap and shape of the updates"
CLAIM = "not in the paper"
PANELS = {"nss": "spectral drift (NSS)", "angle_left_max": "largest left angle, degrees", "stable_rank": "stable rank of the update"}


def caption(table: pd.DataFrame) -> str:
    pairs = table[table["part"] == "pair"]
    ratio = pairs["jaccard"] / pairs["chance"]
    return (
        "Left: cosine of the updates of two runs, over all weights; unrelated updates of so many weights are within a hundredth of 0. "
        f"The weights that they changed (rule bf16) overlap {ratio.min():.3f} to {ratio.max():.3f} times as much as independent "
        "masks with the same density in every tensor (Jaccard index). Right: means over matrices, every matrix the same weight, "
        "a dot a seed; bars: Student's 95 % over seeds."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part (pair, spectrum); first, second, jaccard, chance, same_sign, cosine; label, seed, quantity, value, low, high."""
    chosen = plain(runs)
    if len(chosen) < 2:
        raise InputError("overlap needs two runs from one base")
    found = overlap.compare(chosen[0].checkpoints[0], [run.checkpoints[-1] for run in chosen])
    names = [f"{run.label} {run.seed}" for run in chosen]
    rows: list[dict[str, object]] = []
    for row in found.total:
        one = row.rules["bf16"]
        rows.append(
            {
                "part": "pair",
                "first": names[row.a],
                "second": names[row.b],
                "jaccard": one.jaccard,
                "chance": one.jaccard_chance_by_tensor,
                "same_sign": row.same_sign,
                "cosine": row.cosine_all,
            }
        )
    for run in chosen:
        parts, _ = spectra.compare(run.checkpoints[0], run.checkpoints[-1])
        for name in PANELS:
            values = pd.Series([getattr(one, name) for one in parts], dtype=float)
            rows.append({"part": "spectrum", "label": run.label, "seed": run.seed, "quantity": name, "value": float(values.mean())})
    table = pd.DataFrame(rows)
    for _, part in table[table["part"] == "spectrum"].groupby(["label", "quantity"]):
        table.loc[part.index, ["low", "high"]] = over_seeds(part["value"].to_numpy(float))[1:]
    return table


def draw(table: pd.DataFrame, ax: Axes) -> Axes:
    """The cosine of every pair of updates."""
    pairs = table[table["part"] == "pair"]
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    wide = pairs.pivot(index="second", columns="first", values="cosine").reindex(index=names[1:], columns=names[:-1]).to_numpy(float)
    image = ax.imshow(wide, cmap=style.SEQUENTIAL, vmin=0, vmax=max(0.1, float(np.nanmax(wide))), aspect="auto")
    for (y, x), value in np.ndenumerate(wide):
        if np.isfinite(value):
            dark = value < 0.6 * image.get_clim()[1]
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    ax.grid(False)
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right")
    ax.set_yticks(range(len(names) - 1), names[1:])
    ax.figure.colorbar(image, ax=ax).set_label("cosine of the updates")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(10, 4.6)
    axes: Any = made.subplot_mosaic([["pairs", name] for name in PANELS], width_ratios=[1.5, 1])
    draw(table, axes["pairs"])
    shapes = table[table["part"] == "spectrum"]
    for name in PANELS:
        ax = axes[name]
        part = shapes[shapes["quantity"] == name]
        methods.dots(part, list(dict.fromkeys(part["label"])), ax)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(PANELS[name])
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    return []


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
