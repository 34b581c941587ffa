"""Do the methods move the same weights, in the same directions?

Not in the paper, but what its comparison asks for next: overlap of the updates of methods and seeds against the chance value of
independent masks with the same density in every tensor; spectral drift, principal angles and stable rank by method.

    python -m analyses.update_shape runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.question import Verdict, over_seeds
from analyses.runs import Run, plain
from dynamics import InputError, overlap, spectra
from dynamics.plots import methods, style
from dynamics.plots import overlap as overlaps

TITLE = "Overlap and shape of the updates"
CLAIM = "not in the paper"
PANELS = {"nss": "spectral drift (NSS)", "angle_left_max": "largest left angle, degrees", "stable_rank": "stable rank of the update"}


def caption(table: pd.DataFrame) -> str:
    return (
        "Left: Jaccard index of the weights that two updates changed by the rule bf16, in brackets that of independent masks with the same "
        "density in every tensor; the colour is their ratio. Right: means over matrices, every matrix the same weight, "
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
    """The matrix of overlaps."""
    pairs = table[table["part"] == "pair"]
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    place = {name: number for number, name in enumerate(names)}
    total = pairs.assign(a=pairs["first"].map(place), b=pairs["second"].map(place), jaccard_chance_by_tensor=pairs["chance"])
    return overlaps.matrix(total, names, ax)


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
