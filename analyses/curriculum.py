"""Does self-play make itself a curriculum?

The paper: of questions sampled across training the solve rate falls, and responses grow longer.

Drawn: proposals sampled from the four quarters of training, solved by the untouched base, so that their difficulty compares: solve rate,
operations of the programs, length of the base's answers, over training and against difficulty; and over the steps the share of proposals
that are valid and the share of their programs that differ. Variants of the proposer and of its reward beside it.

    python -m analyses.curriculum runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analyses import question
from analyses.question import Verdict, judge
from analyses.runs import Run, lines, matched
from dynamics import InputError
from dynamics.presentation import methods, style

TITLE = "The curriculum of self-play"
CLAIM = "proposals grow harder (solve rate falls) and answers longer"
PANELS = {
    "solve_rate": "solve rate by the base",
    "operations": "operations a program",
    "distinct": "share that differ",
    "valid": "share valid",
    "length": "tokens of the answers",
    "by_difficulty": "tokens by difficulty",
}
#: columns of curriculum.jsonl that are drawn by quarter, and of metrics.jsonl
TASKS = ("solve_rate", "operations", "complexity", "characters", "length")
STEPS = {"valid": "proposer/valid", "distinct": "program/distinct"}
#: tasks below which a normal interval of their mean is not given
FEW = 20
#: variants that are drawn in a colour of their own; those of the reward are grey
SHOWN = {
    "selfplay": (methods.COLORS["selfplay"], "-"),
    "selfplay, frozen proposer": ("#D55E00", "--"),
    "selfplay, snapshot proposer": ("#56B4E9", "-."),
}


def caption(table: pd.DataFrame) -> str:
    means = table[table["part"] == "mean"]
    count = int(means.loc[means["quantity"] == "solve_rate", "count"].max())
    rewards = [str(label).partition(", ")[2] for label in means["label"].unique() if label not in SHOWN]
    return (
        f"Tasks proposed in each quarter of training, up to {count} a point, {int(means['seeds'].max())} seeds together, solved by the "
        "untouched base at temperature 1; bands: 95 % of the mean over tasks (normal), of validity and difference over steps. "
        "Duplicates count as invalid. Operations: operators, calls, subscripts and comprehensions of the program. "
        "Difficulty: tokens of the base's answers against how often it solves the task."
        + (f" Grey: {', '.join(rewards)}." if rewards else "")
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part, label, quantity, at, seed, value, low, high, count, seeds.

    Part ``mean``: all seeds together, ``at`` a quarter, for by_difficulty the middle of a bin of solve rates. Part ``change``: of one seed,
    last quarter minus first; for by_difficulty the slope of length on 1 - solve rate.
    """
    parts, changes = [], []
    for run in matched(runs):
        if run.method != "selfplay" or not (run.path / "curriculum.jsonl").exists():
            continue
        tasks = pd.DataFrame(lines(run.path / "curriculum.jsonl"))
        tasks["operations"] = tasks["program"].map(operations)
        steps = run.metrics
        quarter = np.arange(len(steps)) * 4 // len(steps)
        mine = [pd.DataFrame({"quantity": name, "at": tasks["phase"] + 1, "one": tasks[name]}) for name in TASKS]
        mine += [pd.DataFrame({"quantity": name, "at": quarter + 1, "one": steps[of]}) for name, of in STEPS.items() if of in steps]
        for part in mine:
            first, last = (part.loc[part["at"] == quarter, "one"].dropna() for quarter in (1, 4))
            if not len(first) or not len(last):
                continue
            change = {"value": float(last.mean() - first.mean()), "error": _error(first, last)}
            changes.append({"label": run.label, "seed": run.seed, "quantity": part["quantity"].iloc[0]} | change)
        hard = 1 - tasks["solve_rate"]
        if hard.nunique() > 2:
            slope = stats.linregress(hard, tasks["length"])
            found = {"value": float(slope.slope), "error": float(slope.stderr) if len(tasks) >= 4 * FEW else np.nan}
            changes.append({"label": run.label, "seed": run.seed, "quantity": "by_difficulty"} | found)
        middle = np.ceil(4 * tasks["solve_rate"]) / 4 - np.where(tasks["solve_rate"] > 0, 0.125, 0.0)
        mine.append(pd.DataFrame({"quantity": "by_difficulty", "at": middle, "one": tasks["length"]}))
        parts.append(pd.concat(mine).assign(label=run.label, seed=run.seed))
    if not parts:
        raise InputError("no self-play run with curriculum.jsonl among the runs")
    every = pd.concat(parts)
    groups = every.groupby(["label", "quantity", "at"], sort=False)["one"]
    means = groups.agg(value="mean", error="sem", count="count").reset_index().assign(part="mean", seeds=every["seed"].nunique())
    table = pd.concat([means, pd.DataFrame(changes).assign(part="change")], ignore_index=True)
    return table.assign(low=table["value"] - 1.96 * table["error"], high=table["value"] + 1.96 * table["error"])


def _error(first: pd.Series[float], last: pd.Series[float]) -> float:
    """Standard error of a difference of means; NaN where the normal interval made of it would be no interval."""
    if min(len(first), len(last)) < FEW:
        return float("nan")
    return float(np.hypot(stats.sem(first), stats.sem(last))) or float("nan")


def operations(program: str) -> int:
    """Operators, calls, subscripts and comprehensions of a program: a measure of how much it does that any Python text has."""
    counted = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Subscript, ast.comprehension)
    return sum(isinstance(node, counted) for node in ast.walk(ast.parse(program)))


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "solve_rate") -> Axes:
    means = table[(table["part"] == "mean") & (table["quantity"] == quantity)]
    for label in sorted(means["label"].unique(), key=lambda label: label in SHOWN):  # grey ones below
        part = means[means["label"] == label]
        if label in SHOWN:
            color, dash = SHOWN[label]
            methods.line(part, "at", label, ax, color=color, linestyle=dash)
        else:
            methods.line(part, "at", "_", ax, band=False, color="#a8a8a8", linewidth=0.9, markersize=2)
    ax.set_title(PANELS[quantity])
    if quantity == "by_difficulty":
        ax.set(xlabel="solve rate of the task", xlim=(-0.05, 1.05))
    else:
        ax.set_xlabel("quarter of training")
        ax.set_xticks([1, 2, 3, 4])
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(style.TWO_COLUMN, 4.4)
    axes = made.subplots(2, 3)
    for ax, name in zip(axes.flat, PANELS, strict=True):
        draw(table, ax, name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if set(table["label"]) - set(SHOWN):
        handles, labels = [*handles, Line2D([], [], color="#a8a8a8", linewidth=0.9)], [*labels, "other rewards"]
    made.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    changes = table[(table["part"] == "change") & (table["label"] == "selfplay")]
    for name, side, text, what in (
        ("solve_rate", -1, "proposals grow harder", "solve rate by the base, last minus first quarter"),
        ("length", 1, "answers grow longer", "tokens of the base's answers, last minus first quarter"),
        ("by_difficulty", 1, "answers are longer the harder the task", "tokens of the base's answers, slope on 1 - solve rate"),
    ):
        part = changes[changes["quantity"] == name]
        if len(part):
            middle, half = part["value"].mean(), 1.96 * float(np.sqrt((part["error"] ** 2).sum(skipna=False))) / len(part)
            within = (middle - half, middle + half, "normal over tasks") if np.isfinite(half) else None
            found.append(judge(text, what, part["value"], side, within))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
