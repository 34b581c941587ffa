"""Do the methods move the same weights, in the same directions?

Not in the paper, but what its comparison asks for next: cosine of the updates of methods and seeds; overlap of the weights that they
changed against the chance value of independent masks with the same density in every tensor, at the lowest learning rate at which all
methods were run (where nearly every weight changes, any two runs change the same); spectral drift, principal angles and stable rank.

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
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.question import Verdict
from analyses.runs import Run, plain, slowest, with_weights
from dynamics import InputError, overlap, spectra
from dynamics.presentation import methods, style

TITLE = "Overlap and shape of the updates"
CLAIM = "not in the paper"
PANELS = {"nss": "spectral drift (NSS)", "angle_left_max": "largest angle, degrees", "stable_rank": "stable rank"}


#: weights above which decompositions are estimated, by random projections
LARGE = 5_000_000


def caption(table: pd.DataFrame) -> str:
    shapes = table[table["part"] == "spectrum"]
    estimated = (shapes["estimator"] == "approx").any()
    return (
        f"Top left: cosine of the updates of two runs, over all weights{_rate(table, 'usual', ', learning rate ')}; unrelated updates of "
        "so many weights are within a hundredth of 0. Top right: overlap (Jaccard index) of the weights that they changed (rule bf16) over "
        f"that of independent masks with the same density in every tensor{_rate(table, 'lowest', ', learning rate ')}. Below: means over "
        "matrices, every matrix the same weight, of the runs of the first, a dot a seed; bars: Student's 95 % over seeds"
        f"{'; estimates by random projections' if estimated else ''}. Angles: the largest of the first 32 left singular directions; stable "
        "rank: of the update."
    )


def _rate(table: pd.DataFrame, at: str, before: str) -> str:
    """The learning rate of the pairs at ``usual`` or ``lowest``, if they say it and have one in common."""
    pairs = _pairs_at(table, at)
    return f"{before}{style.exponent(pairs['learning_rate'].iloc[0])}" if pairs["learning_rate"].nunique() == 1 else ""


def _pairs_at(table: pd.DataFrame, at: str) -> pd.DataFrame:
    """Pairs of runs at the lowest learning rate that all methods were run at, if there were any; else at the usual ones."""
    pairs = table[table["part"] == "pair"]
    return pairs[pairs["at"] == (at if (pairs["at"] == at).any() else "usual")]


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part (pair, spectrum), learning_rate; at (usual, lowest), first, second, jaccard, chance, ratio, same_sign, cosine; label,
    seed, estimator, quantity, value, low, high.
    """
    chosen = with_weights(plain(runs))
    if len(chosen) < 2:
        raise InputError("overlap needs two runs from one base")
    low = [run for run in slowest(runs) if run.has_weights]
    rows: list[dict[str, object]] = [one | {"at": at} for at, part in (("usual", chosen), ("lowest", low)) for one in _pairs(part)]
    for run in chosen:
        method = "approx" if int(run.document.get("parameters") or 0) > LARGE else "full"
        parts, _ = spectra.compare(run.checkpoints[0], run.checkpoints[-1], method=method)
        for name in PANELS:
            values = pd.Series([getattr(one, name) for one in parts], dtype=float)
            shared = {"part": "spectrum", "label": run.label, "learning_rate": run.learning_rate, "seed": run.seed, "estimator": method}
            rows.append({**shared, "quantity": name, "value": float(values.mean())})
    table = pd.DataFrame(rows)
    shapes = table["part"] == "spectrum"
    return pd.concat([table[~shapes], question.with_intervals(table[shapes], ["label", "quantity"])], ignore_index=True)


def _pairs(runs: Sequence[Run]) -> list[dict[str, object]]:
    if len(runs) < 2:
        return []
    found = overlap.compare(runs[0].checkpoints[0], [run.checkpoints[-1] for run in runs])
    rate = runs[0].learning_rate if len({run.learning_rate for run in runs}) == 1 else float("nan")
    names = [f"{run.method} {run.seed}" for run in runs]
    if len(set(names)) < len(names):
        names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(Path(*run.path.resolve().parts[-2:])) for run in runs]
    made: list[dict[str, object]] = []
    for row in found.total:
        one = row.rules["bf16"]
        chance = one.jaccard_chance_by_tensor
        made.append(
            {
                "part": "pair",
                "learning_rate": rate,
                "first": names[row.a],
                "second": names[row.b],
                "jaccard": one.jaccard,
                "chance": chance,
                "ratio": one.jaccard / chance if chance else float("nan"),
                "same_sign": row.same_sign,
                "cosine": row.cosine_all,
            }
        )
    return made


def draw(table: pd.DataFrame, ax: Axes, column: str = "cosine") -> Axes:
    """The cosine, or another ``column``, of every pair of updates at the usual learning rate; ``ratio`` at the lowest."""
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
    made = style.new_figure(style.TWO_COLUMN, 4.9)
    parts: Any = made.subfigures(2, 1, height_ratios=[2.6, 1])
    top, bottom = parts
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
        part = shapes[shapes["quantity"] == name]
        methods.dots(part, list(dict.fromkeys(part["label"])), ax)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.set_title(PANELS[name])
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    return []


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
