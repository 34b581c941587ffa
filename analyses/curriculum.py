"""Does self-play make itself a curriculum?

The paper: of questions sampled across training the solve rate falls, and responses grow longer.

Drawn: proposals sampled from the four quarters of training, solved by the untouched base, so that their difficulty compares: solve rate,
length of the base's answers, length of the programs; and the share of proposals that are valid. Variants with a frozen proposer beside it.

    python -m analyses.curriculum runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict
from analyses.runs import Run, lines, matched
from dynamics import InputError
from dynamics.plots import methods, style

TITLE = "The curriculum of self-play"
CLAIM = "proposals grow harder (solve rate falls) and answers longer"
PANELS = {
    "solve_rate": "solve rate by the base",
    "length": "tokens of its answers",
    "characters": "characters of the program",
    "valid": "share of proposals valid",
    "by_difficulty": "answers by difficulty",
}


def caption(table: pd.DataFrame) -> str:
    count = int(table.loc[table["quantity"] == "solve_rate", "count"].max())
    return (
        f"Tasks proposed in each quarter of training, up to {count} a point, solved by the untouched base at temperature 1. "
        f"Bands: 95 % of the mean over tasks (normal), {int(table['seeds'].max())} seeds together; validity over steps. "
        "Duplicates count as invalid. Right: tokens of the base's answers against how often it solves the task."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, at (quarter; for by_difficulty a bin of solve rates), quantity, value, low, high, error, count, seeds."""
    parts = []
    for run in matched(runs):
        if run.method != "selfplay" or not (run.path / "curriculum.jsonl").exists():
            continue
        tasks = pd.DataFrame(lines(run.path / "curriculum.jsonl"))
        for name in ("solve_rate", "length", "characters"):
            parts.append(
                pd.DataFrame({"label": run.label, "seed": run.seed, "at": tasks["phase"] + 1, "quantity": name, "one": tasks[name]})
            )
        middle = np.ceil(4 * tasks["solve_rate"]) / 4 - np.where(tasks["solve_rate"] > 0, 0.125, 0.0)
        shared = {"label": run.label, "seed": run.seed, "quantity": "by_difficulty"}
        parts.append(pd.DataFrame({**shared, "at": middle, "one": tasks["length"]}))
        quarter = np.arange(len(run.metrics)) * 4 // len(run.metrics)
        valid = run.metrics["proposer/valid"]
        parts.append(pd.DataFrame({"label": run.label, "seed": run.seed, "at": quarter + 1, "quantity": "valid", "one": valid}))
    if not parts:
        raise InputError("no self-play run with curriculum.jsonl among the runs")
    found = pd.concat(parts).groupby(["label", "quantity", "at"], sort=False)
    table = found["one"].agg(value="mean", error="sem", count="count").assign(seeds=found["seed"].nunique()).reset_index()
    return table.assign(low=table["value"] - 1.96 * table["error"], high=table["value"] + 1.96 * table["error"])


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "solve_rate") -> Axes:
    looks = ["-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1))]
    for place, label in enumerate(dict.fromkeys(table["label"])):
        part = table[(table["label"] == label) & (table["quantity"] == quantity)]
        tint = methods.COLORS["selfplay"] if label == "selfplay" else style.SERIES_COLORS[(place - 1) % len(style.SERIES_COLORS)]
        methods.line(part, "at", label, ax, linestyle=looks[place % len(looks)], color=tint)
    if quantity == "by_difficulty":
        ax.set(xlabel="solve rate of the task", title=PANELS[quantity])
    else:
        ax.set(xlabel="quarter of training", title=PANELS[quantity])
        ax.set_xticks([1, 2, 3, 4])
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(12, 3.3)
    axes = made.subplots(1, len(PANELS))
    for ax, name in zip(axes, PANELS, strict=True):
        draw(table, ax, name)
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for name, side, text in (("solve_rate", -1, "proposals grow harder"), ("length", 1, "answers grow longer")):
        part = table[(table["label"] == "selfplay") & (table["quantity"] == name)].sort_values("at")
        if len(part) < 2:
            continue
        first, last = part.iloc[0], part.iloc[-1]
        effect = float(last["value"] - first["value"])
        half = 1.96 * float(np.hypot(first["error"], last["error"]))
        what = f"{PANELS[name]}, last minus first quarter"
        found.append(Verdict(text, what, effect, effect - half, effect + half, int(last["seeds"]), "normal, over tasks", side))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
