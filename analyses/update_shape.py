"""Compare the updates of methods and seeds: directions, changed weights, spectra.

Question: do the methods change the same weights, in the same directions?

The paper does not report this. The figure shows the cosine between the updates of methods and seeds; the overlap of the changed weights,
divided by the overlap expected for independent masks with the same density in every tensor; and spectral drift, principal angles and stable
rank. The overlap is at the lowest learning rate at which all methods were run: if nearly every weight changes, any two runs overlap.

    python -m analyses.update_shape runs/comparison --out figures        # two minutes for the embedded model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.runs import Run, default_settings, lowest_lr, with_weights
from analyses.verdicts import Verdict, with_intervals
from dynamics import InputError, overlap, spectra
from dynamics.presentation import methods, style, ticks

TITLE = "Overlap and shape of the updates"
CLAIM = "no claim about this"
PANELS = {"nss": "spectral drift (NSS)", "angle_left_max": "largest angle, degrees", "stable_rank": "stable rank"}
#: number of weights above which decompositions are estimated by random projections
LARGE = 5_000_000


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    shapes = table[table["part"] == "spectrum"]
    estimated = (shapes["estimator"] == "approx").any()
    return (
        f"Top left: cosine between the updates of two runs, over all weights{_rate(table, 'usual', ', learning rate ')}; for unrelated "
        "updates of so many weights it is within 0.01 of 0. Top right: overlap (Jaccard index) of the changed weights (rule bf16), divided "
        f"by that of independent masks with the same density in every tensor{_rate(table, 'lowest', ', learning rate ')}. Below: "
        "unweighted means over matrices, of the runs at top left, a dot per seed; bars: 95 % t interval over seeds"
        f"{'; estimates by random projections' if estimated else ''}. Angle: the largest principal angle of the first 32 left singular "
        "vectors; stable rank: of the update."
    )


def _rate(table: pd.DataFrame, at: str, before: str) -> str:
    """Name the learning rate of the pairs at ``usual`` or ``lowest``, if it was recorded and they share it."""
    pairs = _pairs_at(table, at)
    return f"{before}{style.exponent(pairs['learning_rate'].iloc[0])}" if pairs["learning_rate"].nunique() == 1 else ""


def _pairs_at(table: pd.DataFrame, at: str) -> pd.DataFrame:
    """Select the pairs of runs with the given ``at`` (``usual`` or ``lowest``); the usual pairs if there are none."""
    pairs = table[table["part"] == "pair"]
    return pairs[pairs["at"] == (at if (pairs["at"] == at).any() else "usual")]


def headline(table: pd.DataFrame) -> str:
    """Say how alike updates are within a method and between methods."""
    pairs = _pairs_at(table, "usual")
    same = pairs["first"].map(_method_of) == pairs["second"].map(_method_of)
    parts = [
        f"{name} {own['cosine'].min():.2f} to {own['cosine'].max():.2f}" if len(own) > 1 else f"{name} {own['cosine'].iloc[0]:.2f}"
        for name, own in (("of two seeds of a method", pairs[same]), ("of two methods", pairs[~same]))
        if len(own)
    ]
    return f"Cosine between updates: {', '.join(parts)}" if parts else TITLE


def _method_of(name: str) -> str:
    return name.partition(" ")[0]


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of pairs of runs and of the spectra of each run.

    Returns
    -------
    Columns part (pair, spectrum), learning_rate; at (usual, lowest), first, second, jaccard, chance, ratio, same_sign, cosine; label,
    seed, estimator, quantity, value, low, high.
    """
    selected = with_weights(default_settings(runs))
    if len(selected) < 2:
        raise InputError("overlap needs two runs from one base")
    lowest = [run for run in lowest_lr(runs) if run.has_weights]
    rows: list[dict[str, object]] = [pair | {"at": at} for at, part in (("usual", selected), ("lowest", lowest)) for pair in _pairs(part)]
    for run in selected:
        method = "approx" if int(run.document.get("parameters") or 0) > LARGE else "full"
        matrices, _ = spectra.compare(run.checkpoints[0], run.checkpoints[-1], method=method)
        shared = {"part": "spectrum", "label": run.label, "learning_rate": run.learning_rate, "seed": run.seed, "estimator": method}
        for name in PANELS:
            values = pd.Series([getattr(matrix, name) for matrix in matrices], dtype=float)
            rows.append({**shared, "quantity": name, "value": float(values.mean())})
    table = pd.DataFrame(rows)
    shapes = table["part"] == "spectrum"
    return pd.concat([table[~shapes], with_intervals(table[shapes], ["label", "quantity"])], ignore_index=True)


def _pairs(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Compare the updates of every pair of runs."""
    if len(runs) < 2:
        return []
    compared = overlap.compare(runs[0].checkpoints[0], [run.checkpoints[-1] for run in runs])
    rate = runs[0].learning_rate if len({run.learning_rate for run in runs}) == 1 else float("nan")
    names = _distinct_names(runs)
    rows: list[dict[str, object]] = []
    for pair in compared.total:
        masks = pair.rules["bf16"]
        chance = masks.jaccard_chance_by_tensor
        rows.append(
            {
                "part": "pair",
                "learning_rate": rate,
                "first": names[pair.a],
                "second": names[pair.b],
                "jaccard": masks.jaccard,
                "chance": chance,
                "ratio": masks.jaccard / chance if chance else float("nan"),
                "same_sign": pair.same_sign,
                "cosine": pair.cosine_all,
            }
        )
    return rows


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Name runs by method and seed; if these are not unique, by folder, and else by folder and its parent."""
    by_seed = [f"{run.method} {run.seed}" for run in runs]
    by_folder = [run.path.name for run in runs]
    by_path = [str(Path(*run.path.resolve().parts[-2:])) for run in runs]
    return next((names for names in (by_seed, by_folder) if len(set(names)) == len(names)), by_path)


def draw(table: pd.DataFrame, ax: Axes, column: str = "cosine") -> Axes:
    """Draw the cosine, or another ``column``, of every pair of updates at the usual learning rate; ``ratio`` at the lowest."""
    pairs = _pairs_at(table, "lowest" if column == "ratio" else "usual")
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    wide = pairs.pivot(index="second", columns="first", values=column).reindex(index=names[1:], columns=names[:-1]).to_numpy(float)
    low = 1.0 if column == "ratio" else 0.0
    image = ax.imshow(wide, cmap=style.SEQUENTIAL, vmin=low, vmax=max(low + 0.05, float(np.nanmax(wide))), aspect="auto")
    bottom, top = image.get_clim()
    for (y, x), value in np.ndenumerate(wide):
        if np.isfinite(value):
            dark = value < bottom + 0.6 * (top - bottom)
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    ax.grid(False)
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=90, fontsize=7.5)
    ax.set_yticks(range(len(names) - 1), names[1:], fontsize=7.5)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 4.9)
    halves: Any = drawing.subfigures(2, 1, height_ratios=[2.6, 1])
    top, bottom = halves
    for ax, column, title in zip(
        top.subplots(1, 2),
        ("cosine", "ratio"),
        (f"cosine{_rate(table, 'usual', ', ')}", f"overlap / chance{_rate(table, 'lowest', ', ')}"),
        strict=True,
    ):
        draw(table, ax, column).set_title(title)
    shapes = table[table["part"] == "spectrum"]
    axes = bottom.subplots(1, len(PANELS), sharey=True)
    axes[0].set_ylabel(_rate(table, "usual", "learning rate "), fontsize=7.5)
    for ax, name in zip(axes, PANELS, strict=True):
        rows = shapes[shapes["quantity"] == name]
        methods.dots(rows, list(dict.fromkeys(rows["label"])), ax)
        ticks.plain(ax.xaxis, 3, least=2)
        ax.set_title(PANELS[name])
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: the paper makes no claim about this."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
