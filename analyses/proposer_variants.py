"""Compare variants of self-play's proposer and of its reward.

Question: does the proposer's reward matter, and does training the proposer matter?

The paper: with the reward 1 - 2|p - 1/2| the final validation accuracy is 2 % lower and entropy is unchanged; with a frozen proposer
entropy stays higher, the curriculum is lost and performance is worse. "Frozen" in the paper drops the proposer's gradient, while the
weights that it shares with the solver still change. ``snapshot`` is the other reading: the base proposes throughout training.

The figure shows, with a row per variant and a dot per seed: the change of held-out pass@1 from the base; the entropy of the solver on its
own tasks (which differ between variants) and on fixed prompts, and the share of valid proposals, each in the last fifth of the run; and the
base's solve rate on the tasks of the last quarter.

    python -m analyses.proposer_variants runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.pass_at_k import BASE, mean_difference
from analyses.runs import Run, default_optimizer, describe, first_and_last_fifth, make_label, read_json_lines
from analyses.verdicts import Verdict, check_claim, over_seeds, seed_count, with_intervals
from dynamics import InputError
from dynamics.presentation import methods, style, ticks
from dynamics.train.proposer_rewards import REWARDS

TITLE = "Proposer rewards and the frozen proposer"
CLAIM = "p ~ 1/2 reward: accuracy 2 % lower, entropy unchanged; frozen proposer: more entropy, worse performance"
PANELS = {
    "gain": "gain in pass@1",
    "entropy": "entropy, own tasks",
    "fixed": "entropy, fixed",
    "valid": "share valid",
    "solve_rate": "solve rate",
}
MEASURED = {"entropy": "solver entropy on its own tasks, nats", "fixed": "solver entropy on fixed prompts, nats"}
#: largest change of entropy that counts as none, in nats per token
SAME = 0.05


#: label -> settings of the built-in variants
VARIANTS: dict[str, dict[str, Any]] = {
    make_label("selfplay", varied): varied
    for reward in ({}, *({"proposer_reward": name} for name in REWARDS))
    for proposer in ({}, *({"proposer": name} for name in ("trained", "frozen", "snapshot")))
    for varied in [reward | proposer]
}


def variant_name(label: str) -> str:
    """Name a variant by its settings that differ from the default; a variant that is not built in, by its label."""
    varied = VARIANTS.get(label)
    return label if varied is None else describe(varied) or "one_minus, trained"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    return (
        "Gain: held-out pass@1 minus that of the base at T=1, all splits. Entropy of the solver (nats per token), on its own tasks, which "
        "differ between variants, and on fixed prompts, and share of valid proposals: means over the last fifth of the run. Solve rate: of "
        "the base, on the tasks of the last quarter. "
        f"{seed_count(table)} seeds, a dot each; ticks: their mean; bars: 95 % t interval over seeds; an arrowhead where one goes on "
        "beyond the panel."
    )


def headline(table: pd.DataFrame) -> str:
    """Say how each variant's gain differs from that of the default, paired by seed."""
    wide = table[table["quantity"] == "gain"].pivot_table(index="seed", columns="label", values="value")
    default = make_label("selfplay", {})
    if default not in wide:
        return TITLE
    parts = {
        variant_name(str(label)): over_seeds((wide[label] - wide[default]).dropna().to_numpy()) for label in wide.columns.drop(default)
    }
    return analysis.changes_in_words("pass@1 over all sets, minus self-play with its trained proposer", parts) if parts else TITLE


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns label, seed, quantity, value, low, high."""
    rows: list[dict[str, Any]] = []
    for run in default_optimizer(runs):
        if run.method == "selfplay":
            rows += [{"label": run.label, "seed": run.seed, "quantity": name, "value": value} for name, value in _quantities(run).items()]
    if len({row["label"] for row in rows}) < 2:
        raise InputError("needs self-play runs with at least two proposers or rewards, at the default learning rate and dtype")
    return with_intervals(pd.DataFrame(rows).dropna(subset=["value"]), ["label", "quantity"])


def _quantities(run: Run) -> dict[str, float]:
    """Measure those quantities of ``PANELS`` that the run recorded."""
    quantities = {}
    if {run.label, BASE} <= set(run.evals["name"]):
        quantities["gain"] = mean_difference(run.evals, BASE, run.label, 1)
    for name, column in (("entropy", "solver/entropy"), ("fixed", "probe/solver/entropy"), ("valid", "proposer/valid")):
        quantities[name] = first_and_last_fifth(run.metrics, column)[1]
    if (run.path / "curriculum.jsonl").exists():
        tasks = pd.DataFrame(read_json_lines(run.path / "curriculum.jsonl"))
        quantities["solve_rate"] = float(tasks.loc[tasks["phase"] == tasks["phase"].max(), "solve_rate"].mean())
    return quantities


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "gain") -> Axes:
    """Draw one quantity: a row per variant."""
    rows = table[table["quantity"] == quantity]
    labels = list(dict.fromkeys(table["label"]))
    methods.dots(rows, labels, ax)
    ax.set_yticks(range(len(labels)), [variant_name(label) for label in labels])
    least, most = rows["value"].min(), rows["value"].max()
    padding = max(0.02, 0.6 * (most - least))  # show this much of an interval beyond the seeds
    ax.set_xlim(
        max(least - padding, np.nanmin([least, *rows["low"]]) - 0.1 * padding),
        min(most + padding, np.nanmax([most, *rows["high"]]) + 0.1 * padding),
    )
    methods.cut_marks(rows, labels, ax)
    ticks.plain(ax.xaxis, 3, least=2)
    if quantity == "gain":
        ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_title(textwrap.fill(PANELS[quantity], 12))
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 1.05 + 0.27 * table["label"].nunique())
    measured = [name for name in PANELS if (table["quantity"] == name).any()]
    for ax, name in zip(drawing.subplots(1, len(measured), sharey=True, squeeze=False)[0], measured, strict=True):
        draw(table, ax, name)
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check the paper's claims about the p ~ 1/2 reward and the frozen proposer for each seed."""
    checked = []
    triangular, frozen, snapshot = {"proposer_reward": "triangular"}, {"proposer": "frozen"}, {"proposer": "snapshot"}
    for varied, quantity, expected, finding in (
        (triangular, "gain", -1, "the p ~ 1/2 reward gives lower accuracy"),
        (triangular, "entropy", 0, "the p ~ 1/2 reward leaves entropy unchanged"),
        (triangular, "fixed", 0, "control: the p ~ 1/2 reward leaves entropy unchanged on fixed prompts"),
        (frozen, "gain", -1, "a frozen proposer gives lower accuracy"),
        (frozen, "entropy", 1, "a frozen proposer keeps entropy higher"),
        (frozen, "fixed", 1, "control: a frozen proposer keeps entropy higher on fixed prompts"),
        (frozen, "solve_rate", 1, "a frozen proposer loses the curriculum"),
        (snapshot, "gain", -1, "the base as proposer gives lower accuracy"),
        (snapshot, "entropy", 1, "the base as proposer keeps entropy higher"),
        (snapshot, "fixed", 1, "control: the base as proposer keeps entropy higher on fixed prompts"),
    ):
        wide = table[table["quantity"] == quantity].pivot_table(index="seed", columns="label", values="value")
        label, default = make_label("selfplay", varied), make_label("selfplay", {})
        if {label, default} <= set(wide.columns):
            same = f" (unchanged: within {SAME} nats)" if expected == 0 else ""
            measured = f"{MEASURED.get(quantity, PANELS[quantity])}{same}, {describe(varied)} minus trained proposer with one_minus"
            margin = SAME if expected == 0 else 0.0
            checked.append(check_claim(finding, measured, wide[label] - wide[default], expected, margin=margin))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
