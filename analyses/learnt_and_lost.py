"""What was learnt, and what was lost, by type of task?

The paper holds gains to be a sharpening of what the base can do. Drawn, by type of task: held-out pass@1 before and after; paired change of
it, and of pass@k at the largest k, against the base at T=1. A gain at k = 1 with a loss at large k is sharpening; a loss in both is
forgetting.

    python -m analyses.learnt_and_lost runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.pass_at_k import BASE, WITHIN, apart, gap, graded
from analyses.question import Verdict, judge_rows
from analyses.runs import Run, plain
from dynamics import InputError
from dynamics.presentation import methods, style

TITLE = "Learnt and lost, by type of task"
CLAIM = "gains are sharpening: more at k = 1, less at large k"


def caption(table: pd.DataFrame) -> str:
    whole = table[table["seed"].isna()]
    return (
        f"Left: pass@1 of the base (hollow) and of the tuned model, both at temperature 1. Others: paired difference on the same "
        f"{int(whole['problems'].max())} held-out problems of all splits, {int(whole['seeds'].max())} seeds together; "
        "bars: 95 % bootstrap over problems."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, task, k, seed (NaN: all together), before, after, value (paired difference), low, high, problems, seeds."""
    every = graded(plain(runs))
    rows: list[dict[str, Any]] = []
    for label in [str(name) for name in every["name"].unique() if not str(name).startswith("base")]:
        seeds = sorted(every.loc[every["name"] == label, "seed"].unique())
        mine = every[every["seed"].isin(seeds)]
        for task in ("all", *sorted(mine["task"].unique())):
            part = mine if task == "all" else mine[mine["task"] == task]
            found = apart(part, BASE, label)
            if found is None:
                continue
            points = found.points.sort_values("k")
            means = part.groupby("name")["correct"].mean()
            for one in points[points["k"].isin({1, points["k"].max()})].to_dict("records"):
                shared = {"label": label, "task": task, "k": int(one["k"]), "seeds": len(seeds)}
                before = {"before": means[BASE], "after": means[label]} if one["k"] == 1 else {}
                ends = {"low": one["low"], "high": one["high"], "problems": int(one["problems"])}
                rows.append(shared | {"seed": None, "value": one["difference"]} | ends | before)
                if task == "all":
                    each = [(seed, its) for seed, its in part.groupby("seed") if {BASE, label} <= set(its["name"])]
                    rows += [shared | {"seed": seed, "value": gap(its, BASE, label, int(one["k"]))} for seed, its in each]
    if not rows:
        raise InputError("none of the runs has evals/ of the base and of the trained model")
    return pd.DataFrame(rows)


def before_after(table: pd.DataFrame, ax: Axes) -> Axes:
    """pass@1 of the base and of each tuned model, by type of task."""
    for label, y, part in _by_label(table, 1):
        color = methods.color(label)
        ax.hlines(y, part["before"], part["after"], color=color, linewidth=1.2)
        ax.plot(part["before"], y, linestyle="none", markersize=5, **methods.look(label) | {"markerfacecolor": "white"})
        ax.plot(part["after"], y, linestyle="none", markersize=5, **methods.look(label))
    _rows(table, ax)
    ax.set(title="before, after", xlabel="pass@1")
    return ax


def _by_label(table: pd.DataFrame, k: int) -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """Label, heights of its rows, and its part of the table in the order of tasks."""
    labels, tasks = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["task"]))
    for number, label in enumerate(labels):
        part = table[(table["label"] == label) & (table["k"] == k) & table["seed"].isna()].set_index("task").reindex(tasks)
        yield label, np.arange(len(tasks)) + 0.22 * (number - (len(labels) - 1) / 2), part


def _rows(table: pd.DataFrame, ax: Axes) -> None:
    tasks = list(dict.fromkeys(table["task"]))
    ax.set_yticks(range(len(tasks)), tasks)
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(4))


def draw(table: pd.DataFrame, ax: Axes, k: int = 1) -> Axes:
    for label, y, part in _by_label(table, k):
        ends = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(part["value"], y, xerr=ends, linestyle="none", markersize=5, elinewidth=1.6, label=label, **methods.look(label))
    _rows(table, ax)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set(title=f"pass@{k}", xlabel="minus base, T=1")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    ks = sorted(table["k"].unique())
    made = style.new_figure(style.TWO_COLUMN, 2.9)
    axes = made.subplots(1, 1 + len(ks), sharey=True)
    before_after(table, axes[0])
    for ax, k in zip(axes[1:], ks, strict=True):
        draw(table, ax, int(k))
    handles, labels = axes[1].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Of gains alone: what is lost at the largest k is what ``analyses.support`` judges."""
    found = []
    for label in ("rlvr", "selfplay"):
        mine = table[(table["label"] == label) & (table["task"] == "all") & (table["k"] == 1)]
        if len(mine):
            found.append(judge_rows(f"{label} gains at k = 1", f"pass@1, {label} minus base, all splits", mine, 1, WITHIN))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
