"""How does entropy move while a model trains, and whose?

The paper: entropy of both roles collapses, and the proposer's stays above the solver's throughout. It writes entropy as the mean of the
sampled tokens' -log p; here both that and the entropy over the whole vocabulary are drawn.

Drawn: the whole model by method; the roles of self-play on what they sample and on fixed prompts (so that a change of tasks can be told
from a change of the policy); entropy against reward with the fit R = b - a exp(H). SFT's line is over the given answers, not over samples.

    python -m analyses.entropy_dynamics runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict, blocks, over_seeds, seeds_of
from analyses.runs import Run, plain
from dynamics.plots import methods, style

TITLE = "Entropy over training"
CLAIM = "both roles lose entropy, and the proposer keeps more than the solver"
QUANTITIES = (
    "entropy",
    "nll_sampled",
    "reward",
    "proposer/entropy",
    "solver/entropy",
    "proposer/nll_sampled",
    "solver/nll_sampled",
    "fixed/proposer/entropy",
    "fixed/solver/entropy",
)
#: steps of the running mean that is drawn
WINDOW = 9


def caption(table: pd.DataFrame) -> str:
    return (
        f"Nats a token at temperature 1, {seeds_of(table)} seeds (thin) and their mean (thick), running mean of {WINDOW} steps. "
        "Dotted: mean -log p of the sampled tokens, the paper's form. SFT: over the given answers. "
        "Fixed prompts are the same all along. Right: a dot is a mean over ten steps."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, seed, step, quantity, value, first, last (means over the first and the last fifth of the run)."""
    rows = []
    for run in plain(runs):
        for name in QUANTITIES:
            if name in run.metrics:
                first, last = blocks(run.metrics, name)
                part = run.metrics[["step", name]].dropna().rename(columns={name: "value"})
                rows.append(part.assign(label=run.label, seed=run.seed, quantity=name, first=first, last=last))
    return pd.concat(rows)[["label", "seed", "quantity", "step", "value", "first", "last"]]


def draw(table: pd.DataFrame, ax: Axes) -> Axes:
    """The whole model, a line a method."""
    for label in dict.fromkeys(table["label"]):
        mine = table[table["label"] == label]
        methods.seeds(mine[mine["quantity"] == "entropy"], "step", label, ax, WINDOW)
        if label != "sft" and len(paper := mine[mine["quantity"] == "nll_sampled"]):
            mean = paper.groupby("step")["value"].mean().rolling(WINDOW, center=True, min_periods=1).mean()
            ax.plot(mean.index, mean, color=methods.color(label), linestyle=":", linewidth=1.2)
    ax.set(xlabel="step", ylabel="nats a token", title="whole model")
    ax.legend()
    return ax


def roles(table: pd.DataFrame, ax: Axes) -> Axes:
    """Proposer and solver of self-play, on sampled tasks and on fixed prompts."""
    for role, color in methods.ROLES.items():
        for prefix, look, window in (("", "-", WINDOW), ("fixed/", "--", 1)):
            part = table[(table["label"] == "selfplay") & (table["quantity"] == f"{prefix}{role}/entropy")]
            if len(part):
                name = f"{role}, fixed prompts" if prefix else role
                methods.seeds(part, "step", name, ax, window, color=color, linestyle=look)
    ax.set(xlabel="step", title="self-play, by role")
    ax.set_ylim(bottom=0)
    if ax.lines:
        ax.legend(fontsize=7.5)
    return ax


def fit(entropy: Any, reward: Any) -> tuple[float, float, float]:
    """Least squares of reward = b - a exp(entropy): a, b and the share of the variance it explains."""
    design = np.column_stack([-np.exp(entropy), np.ones(len(entropy))])
    (a, b), *_ = np.linalg.lstsq(design, np.asarray(reward, float), rcond=None)
    left = float(((design @ [a, b] - reward) ** 2).sum())
    whole = float(((reward - np.mean(reward)) ** 2).sum())
    return float(a), float(b), 1 - left / whole if whole else float("nan")


def against_reward(table: pd.DataFrame, ax: Axes) -> Axes:
    """Reward over entropy with the exponential fit, for the methods that have a reward."""
    for label in dict.fromkeys(table["label"]):
        mine = table[table["label"] == label].pivot_table(index=["seed", "step"], columns="quantity", values="value").reset_index()
        if "reward" not in mine or len(mine) < 3:
            continue
        tens = mine.groupby(["seed", (mine["step"] - 1) // 10])[["entropy", "reward"]].mean().dropna()
        x, y = tens["entropy"].to_numpy(), tens["reward"].to_numpy()
        ax.plot(x, y, linestyle="none", marker=methods.MARKERS.get(label, "o"), markersize=4, color=methods.color(label))
        if len(x) > 2:
            a, b, share = fit(x, y)
            line = np.linspace(x.min(), x.max(), 50)
            ax.plot(line, b - a * np.exp(line), color=methods.color(label), label=f"{label}: {b:.2f} - {a:.2f} exp H, R² {share:.2f}")
    ax.set(xlabel="entropy, nats", ylabel="reward on training tasks", title="entropy against reward")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7.5)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(10, 3.6)
    left, middle, right = made.subplots(1, 3)
    draw(table, left)
    roles(table, middle)
    against_reward(table, right)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    game = table[table["label"] == "selfplay"].drop_duplicates(["seed", "quantity"])
    last, first = (game.pivot_table(index="seed", columns="quantity", values=name) for name in ("last", "first"))
    found = []
    for role in ("proposer", "solver"):
        name = f"{role}/entropy"
        if name in last:
            text, what = f"the {role}'s entropy falls", f"entropy of the {role}, last minus first fifth, nats"
            found.append(Verdict(text, what, *over_seeds((last[name] - first[name]).to_numpy()), len(last), "Student over seeds", -1))
    if {"proposer/entropy", "solver/entropy"} <= set(last):
        apart = (last["proposer/entropy"] - last["solver/entropy"]).to_numpy()
        what = "entropy, proposer minus solver, last fifth, nats"
        found.append(
            Verdict("the proposer keeps more entropy than the solver", what, *over_seeds(apart), len(last), "Student over seeds", 1)
        )
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
