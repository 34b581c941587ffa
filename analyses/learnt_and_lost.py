"""What was learnt, and what was lost, by type of task?

The paper holds gains to be a sharpening of what the base can do. Drawn: paired change of held-out pass@1 and of pass@k at the largest k
against the base at T=1, by type of task. A gain at k = 1 with a loss at large k is sharpening; a loss in both is forgetting.

    python -m analyses.learnt_and_lost runs/comparison --out figures        # seconds
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
from analyses.pass_at_k import BASE
from analyses.question import Verdict
from analyses.runs import Run, plain
from dynamics import InputError, passk
from dynamics.plots import methods, style

TITLE = "Learnt and lost, by type of task"
CLAIM = "gains are sharpening: more at k = 1, less at large k"


def caption(table: pd.DataFrame) -> str:
    return (
        "Paired difference from the base at T=1 on the same held-out problems of all splits, "
        f"{int(table['seeds'].max())} seeds together; bars: 95 % bootstrap over problems."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, task, k, value, low, high, problems, seeds."""
    rows: list[dict[str, Any]] = []
    chosen = [run for run in plain(runs) if len(run.evals)]
    for label in dict.fromkeys(run.label for run in chosen):
        mine = [run for run in chosen if run.label == label]
        every = pd.concat([run.evals for run in mine])
        for task in [None, *sorted(every["task"].unique())]:
            part = every if task is None else every[every["task"] == task]
            base, tuned = part[part["name"] == BASE], part[part["name"] == label]
            if base.empty or tuned.empty:
                continue
            found = passk.compare(passk.curve(base, name="base"), passk.curve(tuned, name=label))
            points = found.points.sort_values("k")
            for one in (points.iloc[0], points.iloc[-1]):
                shared = {"label": label, "task": task or "all", "k": int(one["k"]), "value": one["difference"]}
                rows.append(shared | {"low": one["low"], "high": one["high"], "problems": int(one["problems"]), "seeds": len(mine)})
    if not rows:
        raise InputError("none of the runs has evals/ of the base and of the trained model")
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, ax: Axes, k: int = 1) -> Axes:
    labels, tasks = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["task"]))
    for number, label in enumerate(labels):
        part = table[(table["label"] == label) & (table["k"] == k)].set_index("task").reindex(tasks)
        y = np.arange(len(tasks)) + 0.22 * (number - (len(labels) - 1) / 2)
        ends = [part["value"] - part["low"], part["high"] - part["value"]]
        look: dict[str, Any] = {"color": methods.color(label), "marker": methods.MARKERS.get(methods.method(label), "o"), "label": label}
        ax.errorbar(part["value"], y, xerr=ends, linestyle="none", markersize=5, elinewidth=1.6, **look)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(tasks)), tasks)
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(title=f"pass@{k}", xlabel="minus base, T=1")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    ks = sorted(table["k"].unique())
    made = style.new_figure(7.5, 3.4)
    axes = np.atleast_1d(made.subplots(1, len(ks), sharey=True))
    for ax, k in zip(axes, ks, strict=True):
        draw(table, ax, int(k))
    if len(axes) > 1:  # sharing an axis would turn it twice
        axes[0].set_ylim(table["task"].nunique() - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    large = int(table["k"].max())
    for label in ("rlvr", "selfplay"):
        part = table[(table["label"] == label) & (table["task"] == "all")].set_index("k")
        for k, side, text in ((1, 1, "gains at k = 1"), (large, -1, f"loses at k = {large}")):
            if k in part.index:
                row = part.loc[k]
                what = f"pass@{k}, {label} minus base, all splits"
                found.append(
                    Verdict(
                        f"{label} {text}", what, row["value"], row["low"], row["high"], int(row["seeds"]), "bootstrap over problems", side
                    )
                )
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
