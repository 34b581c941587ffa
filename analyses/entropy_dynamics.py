"""How does entropy move while a model trains, and whose?

The paper: entropy of both roles collapses, and the proposer's stays above the solver's throughout. It writes entropy as the mean of the
sampled tokens' -log p; here both that and the entropy over the whole vocabulary are drawn.

Drawn: the whole model by method, on what it trains on and on held-out problems that stay the same (so that a change of the policy can be
told from a change of the tasks, and runs of one task compare); the roles of self-play likewise; entropy against reward with the fit
R = b - a exp(H). On its own data SFT's line is over the given answers, not over samples.

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
from matplotlib.lines import Line2D

from analyses import question
from analyses.question import Verdict, blocks, judge, seeds_of
from analyses.runs import Run, plain
from dynamics import InputError
from dynamics.presentation import methods, style

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
    "probe/proposer/entropy",
    "probe/solver/entropy",
    "probe/proposer/nll_sampled",
    "probe/solver/nll_sampled",
)
#: steps of the running mean that is drawn
WINDOW = 9
#: dots below which no curve is fitted to them
FITTED = 10


def caption(table: pd.DataFrame) -> str:
    return (
        f"Nats a token at temperature 1, {seeds_of(table)} seeds (thin) and their mean (thick); over steps a running mean of {WINDOW}. "
        "Solid: entropy over the whole vocabulary; dotted: mean -log p of the sampled tokens, the paper's form. On its own data SFT is "
        "over the given answers. Fixed prompts are held-out ones of the run's task, the same all along, sampled with the same random "
        "numbers for all methods of a seed: so few samples that their -log p lies off the entropy, by the same for all. Reward by "
        "entropy: a dot is a mean over ten steps, the line R = b - a exp(H) by least squares, of ten dots or more."
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
    if not rows:
        raise InputError("none of the runs recorded entropy in its metrics.jsonl")
    return pd.concat(rows)[["label", "seed", "quantity", "step", "value", "first", "last"]]


def draw(table: pd.DataFrame, ax: Axes, fixed: bool = False) -> Axes:
    """The whole model, a line a method: on what it trains on, or answering the fixed prompts."""
    for label in dict.fromkeys(table["label"]):
        mine = table[table["label"] == label]
        prefix = "probe/solver/" if fixed else ""
        part = mine[mine["quantity"] == f"{prefix}entropy"]
        if len(part):
            methods.seeds(part, "step", label, ax, 1 if fixed else WINDOW)
        if fixed or methods.method(str(label)) != "sft":
            _paper(mine[mine["quantity"] == f"{prefix}nll_sampled"], ax, methods.color(label), 1 if fixed else WINDOW)
    ax.set(xlabel="step", title="fixed problems" if fixed else "own data")
    ax.set_ylim(bottom=0)
    return ax


def _paper(part: pd.DataFrame, ax: Axes, color: str, window: int) -> None:
    """The paper's form, a dotted line: the mean of the seeds."""
    if len(part):
        mean = part.groupby("step")["value"].mean().rolling(window, center=True, min_periods=1).mean()
        ax.plot(mean.index, mean, color=color, linestyle=":", linewidth=1.3)


def roles(table: pd.DataFrame, ax: Axes, fixed: bool = False) -> Axes:
    """Proposer and solver of self-play, on the tasks they sample or on fixed prompts."""
    prefix, window = ("probe/", 1) if fixed else ("", WINDOW)
    game = table[table["label"] == "selfplay"]
    for role, color in methods.ROLES.items():
        part = game[game["quantity"] == f"{prefix}{role}/entropy"]
        if len(part):
            methods.seeds(part, "step", role, ax, window, color=color)
        _paper(game[game["quantity"] == f"{prefix}{role}/nll_sampled"], ax, color, window)
    ax.set(xlabel="step", title=f"self-play, {'fixed prompts' if fixed else 'own tasks'}")
    ax.set_ylim(bottom=0)
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
        if not {"reward", "entropy"} <= set(mine) or len(mine) < 3:
            continue
        tens = mine.groupby(["seed", (mine["step"] - 1) // 10])[["entropy", "reward"]].mean().dropna()
        x, y = tens["entropy"].to_numpy(), tens["reward"].to_numpy()
        ax.plot(x, y, linestyle="none", markersize=3, **methods.look(label))
        if len(x) >= FITTED:
            a, b, share = fit(x, y)
            line = np.linspace(x.min(), x.max(), 50)
            ax.plot(
                line,
                b - a * np.exp(line),
                color=methods.color(label),
                label=f"{b:.2f} {'-' if a > 0 else '+'} {abs(a):.2f} exp H, R² {share:.2f}",
            )
    ax.set(xlabel="entropy, nats a token", ylabel="reward", title="reward by entropy")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=6.5, handlelength=1.2)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(style.TWO_COLUMN, 4.6)
    axes: Any = made.subplot_mosaic([["own", "fixed", "reward"], ["roles", "roles fixed", "legend"]])
    draw(table, axes["own"])
    draw(table, axes["fixed"], fixed=True)
    roles(table, axes["roles"])
    roles(table, axes["roles fixed"], fixed=True)
    for one, other in (("own", "fixed"), ("roles", "roles fixed")):
        axes[other].sharey(axes[one])
        top = max(axes[name].dataLim.y1 for name in (one, other))
        for name in (one, other):
            axes[name].set_visible(axes[name].has_data())
        if np.isfinite(top):
            axes[one].set_ylim(0, 1.05 * top)
        axes[one].set_ylabel("entropy, nats a token")
    against_reward(table, axes["reward"])
    axes["legend"].axis("off")
    found = {label: handle for ax in (axes["own"], axes["roles"]) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    found["-log p of samples"] = Line2D([], [], color=methods.OTHER, linestyle=":")
    axes["legend"].legend(found.values(), found.keys(), loc="center left")
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    game = table[table["label"] == "selfplay"].drop_duplicates(["seed", "quantity"])
    last, first = (game.pivot_table(index="seed", columns="quantity", values=name) for name in ("last", "first"))
    found = []
    for role in ("proposer", "solver"):
        for prefix, where in (("", "its own tasks"), ("probe/", "fixed prompts")):
            name = f"{prefix}{role}/entropy"
            if name in last and name in first:
                what = f"entropy of the {role} on {where}, last minus first fifth, nats"
                found.append(judge(f"the {role}'s entropy falls", what, last[name] - first[name], -1))
    if {"proposer/entropy", "solver/entropy"} <= set(last):
        begin, end = (part["proposer/entropy"] - part["solver/entropy"] for part in (first, last))
        what = "entropy, proposer minus solver, nats"
        found.append(judge("the proposer keeps more entropy than the solver", f"{what}, last fifth", end, 1))
        found.append(judge("and that is training's doing", f"{what}, last minus first fifth", end - begin, 1))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
