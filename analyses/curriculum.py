"""Measure the difficulty of self-play's proposals over training.

Question: do the proposals of self-play become a curriculum?

The paper: the solve rate of questions sampled across training falls, and responses grow longer.

The figure shows proposals sampled from the four quarters of training and solved by the base, so that their difficulty is comparable: solve
rate, operations per program and length of the base's answers over training, and the length against the solve rate. It also shows the share
of proposals that are valid and the share of their programs that are distinct, over the steps, and the variants of the proposer and of its
reward.

    python -m analyses.curriculum runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analyses import analysis
from analyses.proposer_variants import variant_name
from analyses.runs import Run, default_optimizer, make_label, read_json_lines
from analyses.verdicts import Verdict, check_claim, over_seeds
from dynamics import InputError
from dynamics.presentation import methods, style, ticks

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
#: columns of curriculum.jsonl and of metrics.jsonl that are measured by quarter
TASKS = ("solve_rate", "operations", "complexity", "characters", "length")
STEPS = {"valid": "proposer/valid", "distinct": "program/distinct"}
#: smallest number of tasks for a normal interval of their mean
FEW = 20
#: variants with their own colour; the other rewards are grey
SHOWN = {
    make_label("selfplay", {}): (methods.COLORS["selfplay"], "-"),
    make_label("selfplay", {"proposer": "frozen"}): ("#D55E00", "--"),
    make_label("selfplay", {"proposer": "snapshot"}): ("#56B4E9", "-."),
    make_label("selfplay", {"proposer_reward": "triangular"}): ("#AA4499", ":"),
}
#: colour of the other rewards
GREY = "#a8a8a8"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    means = table[table["part"] == "mean"]
    count = int(means.loc[means["quantity"] == "solve_rate", "count"].max())
    others = [variant_name(label) for label in means["label"].unique() if label not in SHOWN]
    one = int(means["seeds"].max()) == 1
    kind = "normal interval over the tasks of one seed, for the shares over steps" if one else "t interval over the means of seeds"
    return (
        f"Tasks proposed in each quarter of training, up to {count} per point, {int(means['seeds'].max())} seeds, solved by the "
        f"base at temperature 1; bands: 95 % {kind}, cut at 0 and at 1. "
        "Duplicates count as invalid. Operations: operators, calls, subscripts and comprehensions of the program. "
        "Difficulty: tokens of the base's answers against how often it solves the task."
        + (f" Grey: {', '.join(others)}." if others else "")
    )


def headline(table: pd.DataFrame) -> str:
    """Say how the base's solve rate changes between proposals of the first and of the last quarter."""
    rows = table[(table["part"] == "change") & (table["quantity"] == "solve_rate")]
    parts: dict[str, tuple[float, float, float]] = {}
    for label in SHOWN:
        own = rows.loc[rows["label"] == label, "value"]
        if len(own):
            parts[variant_name(label).replace("one_minus, trained", "trained proposer")] = over_seeds(own.to_numpy())
    return analysis.changes_in_words("the base's solve rate on proposals, last minus first quarter", parts) if parts else TITLE


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns part, label, quantity, at, seed, value, low, high, count, seeds.

    Part ``mean``: all seeds together; ``at`` is the quarter, for by_difficulty the middle of a bin of solve rates. Part ``change``: last
    quarter minus first of each seed; for by_difficulty the slope of length on 1 - solve rate.
    """
    quantities: list[pd.DataFrame] = []
    changes: list[dict[str, Any]] = []
    for run in default_optimizer(runs):
        if run.method == "selfplay" and (run.path / "curriculum.jsonl").exists():
            tasks = pd.DataFrame(read_json_lines(run.path / "curriculum.jsonl"))
            own = _quantities(tasks, run.metrics)
            quantities.append(own.assign(label=run.label, seed=run.seed))
            changes += [{"label": run.label, "seed": run.seed} | change for change in [*_changes(own), *_slope(tasks)]]
    if not quantities:
        raise InputError("no self-play run with curriculum.jsonl among the runs")
    pooled = pd.concat(quantities)
    means = _means(pooled).assign(part="mean", seeds=pooled["seed"].nunique())
    changed = pd.DataFrame(changes).assign(part="change")
    changed = changed.assign(low=changed["value"] - 1.96 * changed["error"], high=changed["value"] + 1.96 * changed["error"])
    return pd.concat([means, changed], ignore_index=True)


def _means(pooled: pd.DataFrame) -> pd.DataFrame:
    """Average observations over seeds, with Student's interval over their means; over the tasks of one seed, with a normal interval."""
    keys = ["label", "quantity", "at"]
    by_seed = pooled.groupby([*keys, "seed"], sort=False)["observation"].mean().dropna().reset_index()
    rows = []
    for key, own in pooled.groupby(keys, sort=False)["observation"]:
        seeds = by_seed[(by_seed[keys] == list(key)).all(axis=1)]["observation"].to_numpy()
        value, low, high = over_seeds(seeds)
        error = float(own.std() / np.sqrt(own.count()))
        if len(seeds) == 1:
            low, high = value - 1.96 * error, value + 1.96 * error
        rows.append(
            dict(zip(keys, key, strict=True)) | {"value": value, "low": low, "high": high, "error": error, "count": int(own.count())}
        )
    return pd.DataFrame(rows)


def _quantities(tasks: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the observations of one run as columns quantity, at, observation."""
    tasks = tasks.assign(operations=tasks["program"].map(operations))
    quarter = np.arange(len(metrics)) * 4 // len(metrics)
    parts = [pd.DataFrame({"quantity": name, "at": tasks["phase"] + 1, "observation": tasks[name]}) for name in TASKS]
    parts += [
        pd.DataFrame({"quantity": name, "at": quarter + 1, "observation": metrics[column]})
        for name, column in STEPS.items()
        if column in metrics
    ]
    middle = np.ceil(4 * tasks["solve_rate"]) / 4 - np.where(tasks["solve_rate"] > 0, 0.125, 0.0)
    parts.append(pd.DataFrame({"quantity": "by_difficulty", "at": middle, "observation": tasks["length"]}))
    return pd.concat(parts)


def _changes(quantities: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Compute the last quarter minus the first, of every quantity that was recorded in both."""
    for name in (*TASKS, *STEPS):
        own = quantities[quantities["quantity"] == name]
        first, last = (own.loc[own["at"] == quarter, "observation"].dropna() for quarter in (1, 4))
        if len(first) and len(last):
            yield {"quantity": name, "value": float(last.mean() - first.mean()), "error": _error(first, last)}


def _slope(tasks: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Compute the slope of length on difficulty, if there are at least three difficulties."""
    difficulty = 1 - tasks["solve_rate"]
    if difficulty.nunique() > 2:
        line = stats.linregress(difficulty, tasks["length"])
        error = float(line.stderr) if len(tasks) >= 4 * FEW else np.nan
        yield {"quantity": "by_difficulty", "value": float(line.slope), "error": error}


def _error(first: pd.Series[float], last: pd.Series[float]) -> float:
    """Compute the standard error of a difference of means; NaN if there are too few values for a normal interval, or the error is 0."""
    if min(len(first), len(last)) < FEW:
        return float("nan")
    return float(np.hypot(stats.sem(first), stats.sem(last))) or float("nan")


def operations(program: str) -> int:
    """Count operators, calls, subscripts and comprehensions: a measure of complexity that is defined for any Python program."""
    counted = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Subscript, ast.comprehension)
    return sum(isinstance(node, counted) for node in ast.walk(ast.parse(program)))


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "solve_rate") -> Axes:
    """Draw one quantity over training, or against the solve rate."""
    means = table[(table["part"] == "mean") & (table["quantity"] == quantity)]
    for label in sorted(means["label"].unique(), key=lambda label: label in SHOWN):  # those with their own colour last, on top
        rows = means[means["label"] == label]
        if label in SHOWN:
            color, dashes = SHOWN[label]
            methods.line(rows, "at", label, ax, color=color, linestyle=dashes)
        else:
            methods.line(rows, "at", "_", ax, band=False, color=GREY, linewidth=0.9, markersize=2)
    ax.set_title(PANELS[quantity])
    if quantity in ("solve_rate", "distinct", "valid"):  # Student's interval does not know these bounds
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0.0), min(high, 1.0))
    ticks.plain(ax.yaxis, 4)
    if quantity == "by_difficulty":
        ax.set(xlabel="solve rate of the task", xlim=(-0.05, 1.05))
    else:
        ax.set_xlabel("quarter of training")
        ax.set_xticks([1, 2, 3, 4])
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: the quantities that were recorded."""
    means = table[table["part"] == "mean"].dropna(subset="value")
    shown = [name for name in PANELS if (means["quantity"] == name).any()]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawing = style.new_figure(style.TWO_COLUMN, 0.6 + 1.9 * rows)
    names: list[Any] = [*shown, *[shown[-1]] * (rows * columns - len(shown))]  # the last panel fills its row
    axes = drawing.subplot_mosaic([names[start : start + columns] for start in range(0, len(names), columns)])
    for name in shown:
        draw(table, axes[name], name)
    handles, labels = axes[shown[0]].get_legend_handles_labels()
    if set(table["label"]) - set(SHOWN):
        handles, labels = [*handles, Line2D([], [], color=GREY, linewidth=0.9)], [*labels, "other rewards"]
    drawing.legend(handles, [variant_name(label) for label in labels], loc="outside lower center", ncols=min(5, len(labels)), fontsize=8)
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check whether proposals grow harder and answers longer."""
    checked = []
    changes = table[(table["part"] == "change") & (table["label"] == "selfplay")]
    for name, expected, finding, measured in (
        ("solve_rate", -1, "proposals grow harder", "solve rate by the base, last minus first quarter"),
        ("length", 1, "answers grow longer", "tokens of the base's answers, last minus first quarter"),
        ("by_difficulty", 1, "answers to harder tasks are longer", "tokens of the base's answers, slope on 1 - solve rate"),
    ):
        rows = changes[changes["quantity"] == name]
        if len(rows):
            mean, half = rows["value"].mean(), 1.96 * float(np.sqrt((rows["error"] ** 2).sum(skipna=False))) / len(rows)
            within_seeds = (mean - half, mean + half, "normal over tasks") if np.isfinite(half) else None
            checked.append(check_claim(finding, measured, rows["value"], expected, within_seeds))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
