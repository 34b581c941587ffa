"""Compare pass@k before and after training, by type of task.

Question: what did the model learn, and what did it lose?

The paper says that gains are a sharpening of what the base can do. The figure shows by type of task: held-out pass@1 before and after
training; and the paired difference from the base at T=1, at k = 1 and at the largest k. A gain at k = 1 with a loss at large k is
sharpening; a loss at both is forgetting.

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

from analyses import analysis
from analyses.pass_at_k import BASE, GREEDILY, WITHIN, graded, mean_difference, points
from analyses.runs import Run, default_settings
from analyses.verdicts import Verdict, check_claim_on_rows
from dynamics import InputError
from dynamics.presentation import methods, style, ticks

TITLE = "Learnt and lost, by type of task"
CLAIM = "gains are sharpening: more at k = 1, less at large k"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    together = table[table["seed"].isna()]
    return (
        f"Left: pass@1 of the base (hollow) and of the tuned model, both at temperature 1. Other panels: paired difference on the same "
        f"{int(together['problems'].max())} held-out problems of all splits, {int(together['seeds'].max())} seeds together; "
        f"bars: 95 %, {' or '.join(sorted(set(together['interval'])))}."
    )


def headline(table: pd.DataFrame) -> str:
    """Say what each method gained over all tasks, at the smallest and the largest k."""
    rows = table[(table["task"] == "all") & table["seed"].isna()]
    parts = []
    for label, own in rows.groupby("label", sort=False):
        said = [
            f"{row['value']:+.2f}{'' if row['low'] * row['high'] > 0 else ' (not told)'} at k = {row['k']}"
            for row in own.sort_values("k").to_dict("records")
        ]
        parts.append(f"{label} {', '.join(said)}")
    return f"pass@k minus the base, all tasks: {'; '.join(parts)}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns label, task, k, seed, before, after, value, low, high, problems, seeds, interval.

    ``value`` is the paired difference; ``seed`` is NaN in the rows for all seeds together.
    """
    samples = graded(default_settings(runs))
    rows: list[dict[str, Any]] = []
    labels = samples.loc[~samples["of_base"].astype(bool), "name"].unique()
    for label in (label for label in labels if not label.endswith(GREEDILY)):
        seeds = sorted(samples.loc[samples["name"] == label, "seed"].unique())
        own = samples[samples["seed"].isin(seeds)]
        for task in ("all", *sorted(own["task"].unique())):
            rows += _task_rows(own if task == "all" else own[own["task"] == task], str(label), task, len(seeds))
    if not rows:
        raise InputError("none of the runs has evals/ of the base and of the trained model")
    return pd.DataFrame(rows)


def _task_rows(samples: pd.DataFrame, label: str, task: str, seeds: int) -> list[dict[str, Any]]:
    """Make the rows of a label and a type of task at k = 1 and at the largest k; for all tasks together, also those of each seed."""
    if not {BASE, label} <= set(samples["name"]):
        return []
    known = sorted(points(samples, label, BASE), key=lambda point: int(point["k"]))
    means = samples.groupby("name")["correct"].mean()
    rows: list[dict[str, Any]] = []
    for point in [known[0], *known[1:][-1:]]:
        k = int(point["k"])
        shared = {"label": label, "task": task, "k": k, "seeds": seeds}
        before = {"before": means[BASE], "after": means[label]} if k == 1 else {}
        rows.append(shared | {"seed": None} | {name: point[name] for name in ("value", "low", "high", "problems", "interval")} | before)
        if task == "all":
            by_seed = [(seed, own) for seed, own in samples.groupby("seed") if {BASE, label} <= set(own["name"])]
            rows += [shared | {"seed": seed, "value": mean_difference(own, BASE, label, k)} for seed, own in by_seed]
    return rows


def before_after(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw pass@1 of the base and of each tuned model, by type of task."""
    for label, heights, rows in _by_label(table, 1):
        marker = methods.marker_style(label)
        ax.hlines(heights, rows["before"], rows["after"], color=marker["color"], linewidth=1.2)
        ax.plot(rows["before"], heights, linestyle="none", markersize=5, **marker | {"markerfacecolor": "white"})
        ax.plot(rows["after"], heights, linestyle="none", markersize=5, **marker)
    _task_axis(table, ax)
    ax.set(title="before, after", xlabel="pass@1")
    return ax


def _by_label(table: pd.DataFrame, k: int) -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """Yield each label, the y positions of its rows, and its part of the table in the order of tasks."""
    labels, tasks = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["task"]))
    for number, label in enumerate(labels):
        rows = table[(table["label"] == label) & (table["k"] == k) & table["seed"].isna()].set_index("task").reindex(tasks)
        yield label, np.arange(len(tasks)) + 0.22 * (number - (len(labels) - 1) / 2), rows


def _task_axis(table: pd.DataFrame, ax: Axes) -> None:
    """Name the tasks along the y axis."""
    tasks = list(dict.fromkeys(table["task"]))
    ax.set_yticks(range(len(tasks)), tasks)
    ax.set_ylim(len(tasks) - 0.5, -0.5)
    ax.grid(axis="x")
    ticks.plain(ax.xaxis, 4, least=2)


def draw(table: pd.DataFrame, ax: Axes, k: int = 1) -> Axes:
    """Draw the paired difference of pass@k, by type of task."""
    for label, heights, rows in _by_label(table, k):
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        ax.errorbar(
            rows["value"], heights, xerr=errors, linestyle="none", markersize=5, elinewidth=1.6, label=label, **methods.marker_style(label)
        )
    _task_axis(table, ax)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set(title=f"pass@{k}", xlabel="minus base, T=1")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    ks = sorted(table["k"].unique())
    drawing = style.new_figure(style.TWO_COLUMN, 2.9)
    axes = drawing.subplots(1, 1 + len(ks), sharey=True)
    before_after(table, axes[0])
    for ax, k in zip(axes[1:], ks, strict=True):
        draw(table, ax, int(k))
    handles, labels = axes[1].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check the gains at k = 1; ``analyses.support`` checks the losses at large k."""
    checked = []
    for method in ("rlvr", "selfplay"):
        rows = table[(table["label"] == method) & (table["task"] == "all") & (table["k"] == 1)]
        if len(rows):
            measured = f"pass@1, {method} minus base, all splits"
            kind = str(rows["interval"].dropna().iloc[0]) if "interval" in rows else WITHIN
            checked.append(check_claim_on_rows(f"{method} gains at k = 1", measured, rows, 1, kind))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
