"""Does it matter how the proposer is paid, and that it learns?

The paper: with the reward 1 - 2|p - 1/2| the final validation accuracy is 2 % lower and entropy moves the same; with a frozen proposer
entropy stays higher, the curriculum is lost and performance suffers.

Drawn, a row a variant, a dot a seed: change of held-out pass@1 from the base, entropy of the solver and validity in the last fifth of the
run, solve rate by the fixed base of the tasks of the last quarter.

    python -m analyses.proposer_variants runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict, blocks, over_seeds, seeds_of
from analyses.runs import Run, lines, matched
from dynamics import InputError
from dynamics.plots import methods, style

TITLE = "Proposer rewards and the frozen proposer"
CLAIM = "p ~ 1/2 reward: accuracy 2 % lower, entropy unchanged; frozen proposer: more entropy, worse performance"
PANELS = {
    "gain": "pass@1 minus base",
    "entropy": "solver entropy, nats",
    "valid": "share valid",
    "solve_rate": "late tasks, by the base",
}


def caption(table: pd.DataFrame) -> str:
    return (
        f"{seeds_of(table)} seeds, a dot each, ticks their mean, bars Student's 95 % interval over seeds; "
        "with two seeds it may fill the panel."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, seed, quantity, value, low, high."""
    rows = []
    for run in matched(runs):
        if run.method != "selfplay":
            continue
        shared = {"label": run.label, "seed": run.seed}
        if len(run.evals):
            means = run.evals.groupby(["name", "problem"])["correct"].mean().groupby("name").mean()
            if {run.label, "base, T=1"} <= set(means.index):
                rows.append({**shared, "quantity": "gain", "value": float(means[run.label] - means["base, T=1"])})
        rows.append({**shared, "quantity": "entropy", "value": blocks(run.metrics, "solver/entropy")[1]})
        rows.append({**shared, "quantity": "valid", "value": blocks(run.metrics, "proposer/valid")[1]})
        if (run.path / "curriculum.jsonl").exists():
            tasks = pd.DataFrame(lines(run.path / "curriculum.jsonl"))
            late = tasks[tasks["phase"] == tasks["phase"].max()]
            rows.append({**shared, "quantity": "solve_rate", "value": float(late["solve_rate"].mean())})
    if not rows:
        raise InputError("no self-play run among the runs")
    table = pd.DataFrame(rows)
    for _, part in table.groupby(["label", "quantity"]):
        table.loc[part.index, ["low", "high"]] = over_seeds(part["value"].to_numpy())[1:]
    return table


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "gain") -> Axes:
    part = table[table["quantity"] == quantity]
    methods.dots(part, list(dict.fromkeys(table["label"])), ax)
    spread = part["value"].max() - part["value"].min()
    middle, half = (part["value"].max() + part["value"].min()) / 2, max(0.02, 1.2 * spread)
    ax.set_xlim(middle - half, middle + half)
    if quantity == "gain":
        ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_title(PANELS[quantity])
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(11, 1.2 + 0.35 * table["label"].nunique())
    for ax, name in zip(made.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        draw(table, ax, name)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for variant, quantity, side, text in (
        ("triangular reward", "gain", -1, "the p ~ 1/2 reward ends lower in accuracy"),
        ("frozen proposer", "gain", -1, "a frozen proposer ends lower in accuracy"),
        ("frozen proposer", "entropy", 1, "a frozen proposer keeps more entropy"),
    ):
        wide = table[table["quantity"] == quantity].pivot_table(index="seed", columns="label", values="value")
        name = f"selfplay, {variant}"
        if {name, "selfplay"} <= set(wide.columns):
            apart = (wide[name] - wide["selfplay"]).dropna().to_numpy()
            what = f"{PANELS[quantity]}, {variant} minus trained proposer with one_minus"
            found.append(Verdict(text, what, *over_seeds(apart), len(apart), "Student over seeds", side))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
