"""Compare the updates of methods and seeds: directions, changed weights, spectra.

Question: do the methods change the same weights, in the same directions?

The paper does not report this. The figure shows, for every two runs from one base, the cosine between their updates and the overlap of the
changed weights, divided by the overlap expected for independent masks with the same density in every tensor; and spectral drift, principal
angles and stable rank of each update. The overlap is at the lowest learning rate at which all methods were run: if nearly every weight
changes, any two runs overlap.

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
from analyses.runs import Run, default_settings, lowest_lr, same_base, with_weights
from analyses.verdicts import Verdict, with_intervals
from dynamics import InputError, overlap, spectra
from dynamics.presentation import methods, style, ticks

TITLE = "Overlap and shape of the updates"
CLAIM = "no claim about this"
PANELS = {"nss": "spectral drift (NSS)", "angle_left_max": "largest angle, degrees", "stable_rank": "stable rank"}
#: columns of the table
COLUMNS = (
    "part",
    "label",
    "seed",
    "learning_rate",
    "at",
    "first",
    "second",
    "jaccard",
    "chance",
    "ratio",
    "same_sign",
    "cosine",
    "estimator",
    "quantity",
    "value",
    "low",
    "high",
)
#: number of weights above which decompositions are estimated by random projections
LARGE = 5_000_000


#: at most this many kinds of pairs are named in the title
NAMED = 10


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    shapes = table[table["part"] == "spectrum"]
    estimated = (shapes["estimator"] == "approx").any()
    pairs = table[table["part"] == "pair"]
    alone = (
        " Pairs: two runs from the same base, whose updates are compared; updates of other bases are not comparable weight by weight."
        if len(pairs)
        else " No two runs have the same base, so no updates are compared with each other."
    )
    return (
        f"Top left: cosine between the updates of two runs, over all weights{_rate(table, 'usual', ', learning rate ')}; for unrelated "
        "updates of so many weights it is within 0.01 of 0. Top right: overlap (Jaccard index) of the changed weights (rule bf16), divided "
        f"by that of independent masks with the same density in every tensor{_rate(table, 'lowest', ', learning rate ')}. A dot per pair;"
        f" bars: 95 % t interval over seeds, where each pair is of one seed.{alone} Below: "
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
    """Say how alike the updates of every two methods are."""
    pairs = _pairs_at(table, "usual")
    parts = [f"{label} {own['cosine'].mean():.2f}" for label, own in pairs.groupby("label", sort=False)][:NAMED]
    return f"Cosine between updates from one base: {', '.join(parts)}" if parts else TITLE


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of pairs of runs from the same base, and of the spectra of each run.

    Returns
    -------
    Columns part (pair, spectrum), learning_rate; at (usual, lowest), first, second, jaccard, chance, ratio, same_sign, cosine; label
    (of a pair: its methods, and that the runs differ in the seed where they do), seed, estimator, quantity, value, low, high.
    """
    selected = with_weights(default_settings(runs))
    lowest = [run for run in lowest_lr(runs) if run.has_weights]
    rows: list[dict[str, object]] = [pair | {"at": at} for at, part in (("usual", selected), ("lowest", lowest)) for pair in _pairs(part)]
    if not any(row["at"] == "usual" for row in rows) and len(selected) < 2:
        raise InputError("overlap needs two runs from one base")
    for run in selected:
        method = "approx" if int(run.document.get("parameters") or 0) > LARGE else "full"
        matrices, _ = spectra.compare(run.checkpoints[0], run.checkpoints[-1], method=method)
        shared = {"part": "spectrum", "label": run.label, "learning_rate": run.learning_rate, "seed": run.seed, "estimator": method}
        for name in PANELS:
            values = pd.Series([getattr(matrix, name) for matrix in matrices], dtype=float)
            rows.append({**shared, "quantity": name, "value": float(values.mean())})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    shapes = table["part"] == "spectrum"
    return pd.concat([table[~shapes], with_intervals(table[shapes], ["label", "quantity"])], ignore_index=True)


def by_base(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by the weights that they began with."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if same_base(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _pairs(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Compare the updates of every pair of runs from the same base."""
    rate = runs[0].learning_rate if len({run.learning_rate for run in runs}) == 1 else float("nan")
    names = {id(run): name for run, name in zip(runs, _distinct_names(runs), strict=True)}
    rows: list[dict[str, object]] = []
    for group in by_base(runs):
        if len(group) < 2:
            continue
        compared = overlap.compare(group[0].checkpoints[0], [run.checkpoints[-1] for run in group])
        for pair in compared.total:
            masks = pair.rules["bf16"]
            chance = masks.jaccard_chance_by_tensor
            first, second = group[pair.a], group[pair.b]
            rows.append(
                {
                    "part": "pair",
                    "label": _kind(first, second),
                    "seed": first.seed if first.seed == second.seed else float("nan"),
                    "learning_rate": rate,
                    "first": names[id(first)],
                    "second": names[id(second)],
                    "jaccard": masks.jaccard,
                    "chance": chance,
                    "ratio": masks.jaccard / chance if chance else float("nan"),
                    "same_sign": pair.same_sign,
                    "cosine": pair.cosine_all,
                }
            )
    return rows


def _kind(first: Run, second: Run) -> str:
    """Name what two runs are a pair of."""
    if first.method == second.method:
        return f"two seeds of {first.method}"
    return f"{first.method} and {second.method}" + ("" if first.seed == second.seed else ", two seeds")


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Name runs by method and seed; if these are not unique, by folder, and else by folder and its parent."""
    by_seed = [f"{run.method} {run.seed}" for run in runs]
    by_folder = [run.path.name for run in runs]
    by_path = [str(Path(*run.path.resolve().parts[-2:])) for run in runs]
    return next((names for names in (by_seed, by_folder) if len(set(names)) == len(names)), by_path)


def draw(table: pd.DataFrame, ax: Axes, column: str = "cosine") -> Axes:
    """Draw the cosine, or another ``column``, of every pair of updates at the usual learning rate; ``ratio`` at the lowest."""
    pairs = _pairs_at(table, "lowest" if column == "ratio" else "usual").assign(value=lambda rows: rows[column])
    labels = list(dict.fromkeys(pairs["label"]))
    of_one_seed = pairs[pairs["seed"].notna()]  # pairs of other seeds share runs, so they are not independent
    shown = pd.concat([with_intervals(of_one_seed, ["label"]), pairs[pairs["seed"].isna()].assign(low=np.nan, high=np.nan)])
    methods.dots(shown, labels, ax)
    ax.axvline(1.0 if column == "ratio" else 0.0, color=style.FAINT, linewidth=0.9, zorder=1)
    ticks.plain(ax.xaxis, 4, least=2)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was measured only."""
    kinds = table.loc[table["part"] == "pair", "label"].nunique()
    shapes = table[table["part"] == "spectrum"]
    heights = [0.75 + 0.2 * kinds] * bool(kinds) + [0.75 + 0.2 * shapes["label"].nunique()]
    drawing = style.new_figure(style.TWO_COLUMN, 0.5 + sum(heights))
    parts: list[Any] = list(drawing.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if kinds:
        for ax, column, title in zip(
            parts[0].subplots(1, 2),
            ("cosine", "ratio"),
            (f"cosine{_rate(table, 'usual', ', ')}", f"overlap / chance{_rate(table, 'lowest', ', ')}"),
            strict=True,
        ):
            draw(table, ax, column).set_title(title)
    axes = parts[-1].subplots(1, len(PANELS), sharey=True)
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
