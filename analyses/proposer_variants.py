"""Does it matter how the proposer is paid, and that it learns?

The paper: with the reward 1 - 2|p - 1/2| the final validation accuracy is 2 % lower and entropy moves the same; with a frozen proposer
entropy stays higher, the curriculum is lost and performance suffers. "Frozen" there drops the proposer's gradient, while the weights that
it shares with the solver still move; ``snapshot`` is the other reading: the untouched base proposes all along.

Drawn, a row a variant, a dot a seed: change of held-out pass@1 from the base; in the last fifth of the run entropy of the solver, on its
own tasks (which differ between variants) and on prompts that stay the same, and validity of proposals; solve rate by the untouched base
of the tasks of the last quarter.

    python -m analyses.proposer_variants runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.pass_at_k import BASE, gap
from analyses.question import Verdict, blocks, judge, seeds_of
from analyses.runs import Run, lines, matched
from dynamics import InputError
from dynamics.presentation import methods, style

TITLE = "Proposer rewards and the frozen proposer"
CLAIM = "p ~ 1/2 reward: accuracy 2 % lower, entropy unchanged; frozen proposer: more entropy, worse performance"
PANELS = {
    "gain": "gain in pass@1",
    "entropy": "entropy, own tasks",
    "fixed": "entropy, fixed prompts",
    "valid": "share valid",
    "solve_rate": "solve rate",
}
MEASURED = {"entropy": "solver entropy on its own tasks, nats", "fixed": "solver entropy on fixed prompts, nats"}
#: what counts as no change of entropy, in nats a token
SAME = 0.05


def caption(table: pd.DataFrame) -> str:
    return (
        "Gain: held-out pass@1 minus that of the base at T=1, all splits. Entropy of the solver (nats a token), on its own tasks, which "
        "differ between variants, and on prompts that stay the same, and share of valid proposals: last fifth of the run. Solve rate: of "
        "the tasks of the last quarter, by the untouched base. "
        f"{seeds_of(table)} seeds, a dot each, ticks their mean, bars Student's 95 % interval over seeds, cut at the panel's edge."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, seed, quantity, value, low, high."""
    rows = []
    for run in matched(runs):
        if run.method != "selfplay":
            continue
        shared = {"label": run.label, "seed": run.seed}
        if {run.label, BASE} <= set(run.evals["name"]):
            rows.append({**shared, "quantity": "gain", "value": gap(run.evals, BASE, run.label, 1)})
        rows.append({**shared, "quantity": "entropy", "value": blocks(run.metrics, "solver/entropy")[1]})
        rows.append({**shared, "quantity": "fixed", "value": blocks(run.metrics, "probe/solver/entropy")[1]})
        rows.append({**shared, "quantity": "valid", "value": blocks(run.metrics, "proposer/valid")[1]})
        if (run.path / "curriculum.jsonl").exists():
            tasks = pd.DataFrame(lines(run.path / "curriculum.jsonl"))
            late = tasks[tasks["phase"] == tasks["phase"].max()]
            rows.append({**shared, "quantity": "solve_rate", "value": float(late["solve_rate"].mean())})
    if len({row["label"] for row in rows}) < 2:
        raise InputError("needs self-play with two proposers or rewards at least, at the usual learning rate and dtype")
    return question.with_intervals(pd.DataFrame(rows).dropna(subset=["value"]), ["label", "quantity"])


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "gain") -> Axes:
    part = table[table["quantity"] == quantity]
    labels = list(dict.fromkeys(table["label"]))
    methods.dots(part, labels, ax)
    ax.set_yticks(range(len(labels)), [_short(label) for label in labels])
    least, most = part["value"].min(), part["value"].max()
    room = max(0.02, 0.6 * (most - least))  # what of an interval is shown beyond the seeds
    ax.set_xlim(
        max(least - room, np.nanmin([least, *part["low"]]) - 0.1 * room), min(most + room, np.nanmax([most, *part["high"]]) + 0.1 * room)
    )
    ax.xaxis.set_major_locator(MaxNLocator(3))
    if quantity == "gain":
        ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_title(textwrap.fill(PANELS[quantity], 12))
    return ax


def _short(label: str) -> str:
    return label.partition(", ")[2] or "one_minus, trained"


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(style.TWO_COLUMN, 1.05 + 0.27 * table["label"].nunique())
    there = [name for name in PANELS if (table["quantity"] == name).any()]
    for ax, name in zip(made.subplots(1, len(there), sharey=True, squeeze=False)[0], there, strict=True):
        draw(table, ax, name)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for variant, quantity, side, text in (
        ("triangular reward", "gain", -1, "the p ~ 1/2 reward ends lower in accuracy"),
        ("triangular reward", "entropy", 0, "the p ~ 1/2 reward leaves entropy as it is"),
        ("triangular reward", "fixed", 0, "and on the same prompts"),
        ("frozen proposer", "gain", -1, "a frozen proposer ends lower in accuracy"),
        ("frozen proposer", "entropy", 1, "a frozen proposer keeps more entropy"),
        ("frozen proposer", "fixed", 1, "and on the same prompts"),
        ("frozen proposer", "solve_rate", 1, "a frozen proposer loses the curriculum"),
        ("snapshot proposer", "gain", -1, "a proposer that never moves ends lower in accuracy"),
        ("snapshot proposer", "entropy", 1, "a proposer that never moves keeps more entropy"),
        ("snapshot proposer", "fixed", 1, "and on the same prompts"),
    ):
        wide = table[table["quantity"] == quantity].pivot_table(index="seed", columns="label", values="value")
        name = f"selfplay, {variant}"
        if {name, "selfplay"} <= set(wide.columns):
            margin = f" (the same: within {SAME} nats)" if side == 0 else ""
            what = f"{MEASURED.get(quantity, PANELS[quantity])}{margin}, {variant} minus trained proposer with one_minus"
            found.append(judge(text, what, wide[name] - wide["selfplay"], side, margin=SAME if side == 0 else 0.0))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
