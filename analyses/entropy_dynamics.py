"""Measure the entropy of the model, and of the roles of self-play, over training.

Question: how does entropy change during training, and in which role?

The paper: the entropy of both roles collapses, and the proposer's stays above the solver's throughout. The paper defines entropy as the
mean -log p of the sampled tokens; the figure shows both that and the entropy over the whole vocabulary.

The figure shows the entropy of the model by method, on its training data and on fixed held-out problems; the fixed problems separate
a change of the policy from a change of the tasks, and make runs of the same task comparable. It shows the same for the roles of self-play,
and reward against entropy with the fit R = b - a exp(H). On its own data, the entropy of SFT is over the given answers, not over samples.

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

from analyses import analysis
from analyses.runs import Run, default_settings, first_and_last_fifth
from analyses.verdicts import Verdict, check_claim, seed_count
from dynamics import InputError, entropy
from dynamics.presentation import methods, style, ticks

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
#: length in steps of the running mean in the figure
WINDOW = 9
#: smallest number of points to which a curve is fitted
FITTED = 10


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    return (
        f"Nats per token at temperature 1, {seed_count(table)} seeds (thin) and their mean (thick); running mean over {WINDOW} steps on "
        "own data. Solid: entropy over the whole vocabulary; dotted: mean -log p of the sampled tokens, the paper's definition. On its own "
        "data, SFT is measured on the given answers. Fixed prompts are held-out prompts of the run's task that do not change; all methods "
        "of a seed use the same random numbers to sample from them. They are few, so their mean -log p deviates from the entropy, alike "
        "for all methods. Reward by "
        f"entropy: each dot is a mean over ten steps; the line is the least-squares fit R = b - a exp(H) to at least {FITTED} dots."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns label, seed, step, quantity, value, first, last (means over the first and the last fifth of the run)."""
    parts = []
    for run in default_settings(runs):
        for name in QUANTITIES:
            if name in run.metrics:
                first, last = first_and_last_fifth(run.metrics, name)
                values = run.metrics[["step", name]].dropna().rename(columns={name: "value"})
                parts.append(values.assign(label=run.label, seed=run.seed, quantity=name, first=first, last=last))
    if not parts:
        raise InputError("none of the runs recorded entropy in its metrics.jsonl")
    return pd.concat(parts)[["label", "seed", "quantity", "step", "value", "first", "last"]]


def draw(table: pd.DataFrame, ax: Axes, fixed: bool = False) -> Axes:
    """Draw the entropy of the model, a line per method: on its training data, or on the fixed problems."""
    prefix, window = ("probe/solver/", 1) if fixed else ("", WINDOW)
    for label in dict.fromkeys(table["label"]):
        own = table[table["label"] == label]
        rows = own[own["quantity"] == f"{prefix}entropy"]
        if len(rows):
            methods.seeds(rows, "step", label, ax, window)
        if fixed or label != "sft":  # SFT's training data is not sampled
            _mean_surprisal(own[own["quantity"] == f"{prefix}nll_sampled"], ax, methods.color(label), window)
    ax.set(xlabel="step", title="fixed problems" if fixed else "own data")
    ticks.whole(ax.xaxis, 4)
    ax.set_ylim(bottom=0)
    return ax


def _mean_surprisal(rows: pd.DataFrame, ax: Axes, color: str, window: int) -> None:
    """Draw the paper's definition of entropy as a dotted line: the mean over seeds."""
    if len(rows):
        mean = rows.groupby("step")["value"].mean().rolling(window, center=True, min_periods=1).mean()
        ax.plot(mean.index, mean, color=color, linestyle=":", linewidth=1.3)


def roles(table: pd.DataFrame, ax: Axes, fixed: bool = False) -> Axes:
    """Draw the entropy of proposer and solver in self-play, on their own tasks or on fixed prompts."""
    prefix, window = ("probe/", 1) if fixed else ("", WINDOW)
    selfplay = table[table["label"] == "selfplay"]
    for role, color in methods.ROLES.items():
        rows = selfplay[selfplay["quantity"] == f"{prefix}{role}/entropy"]
        if len(rows):
            methods.seeds(rows, "step", role, ax, window, color=color)
        _mean_surprisal(selfplay[selfplay["quantity"] == f"{prefix}{role}/nll_sampled"], ax, color, window)
    ax.set(xlabel="step", title=f"self-play, {'fixed prompts' if fixed else 'own tasks'}")
    ticks.whole(ax.xaxis, 4)
    ax.set_ylim(bottom=0)
    return ax


def explained_variance(fitted: entropy.Fit, reward: np.ndarray[Any, Any]) -> float:
    """Compute R², the share of the variance of the rewards that the fit explains; NaN if the rewards are constant."""
    total = float(((reward - np.mean(reward)) ** 2).sum())
    return 1 - fitted.residual**2 * (len(reward) - 2) / total if total else float("nan")


def against_reward(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw reward against entropy with the exponential fit, for the methods with a reward."""
    for label in dict.fromkeys(table["label"]):
        wide = table[table["label"] == label].pivot_table(index=["seed", "step"], columns="quantity", values="value").reset_index()
        if not {"reward", "entropy"} <= set(wide) or len(wide) < 3:
            continue
        means = wide.groupby(["seed", (wide["step"] - 1) // 10])[["entropy", "reward"]].mean().dropna()
        x, y = means["entropy"].to_numpy(), means["reward"].to_numpy()
        ax.plot(x, y, linestyle="none", markersize=3, **methods.marker_style(label))
        if len(x) >= FITTED and np.ptp(x) > 0:
            fitted = entropy.fit(x, y)
            line = np.linspace(x.min(), x.max(), 50)
            sign, r_squared = "-" if fitted.a > 0 else "+", explained_variance(fitted, y)
            name = f"{fitted.b:.2f} {sign} {abs(fitted.a):.2f} exp H, R² {r_squared:.2f}"
            ax.plot(line, fitted.b - fitted.a * np.exp(line), color=methods.color(label), label=name)
    ax.set(xlabel="entropy, nats per token", ylabel="reward", title="reward by entropy")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=6.5, handlelength=1.2)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 4.6)
    axes: Any = drawing.subplot_mosaic([["own", "fixed", "reward"], ["roles", "roles fixed", "legend"]])
    draw(table, axes["own"])
    draw(table, axes["fixed"], fixed=True)
    roles(table, axes["roles"])
    roles(table, axes["roles fixed"], fixed=True)
    for left, right in (("own", "fixed"), ("roles", "roles fixed")):
        axes[right].sharey(axes[left])
        top = max(axes[name].dataLim.y1 for name in (left, right))
        for name in (left, right):
            axes[name].set_visible(axes[name].has_data())
        if np.isfinite(top):
            axes[left].set_ylim(0, 1.05 * top)
        axes[left].set_ylabel("entropy, nats per token")
    against_reward(table, axes["reward"])
    axes["legend"].axis("off")
    entries = {label: handle for ax in (axes["own"], axes["roles"]) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    entries["-log p of samples"] = Line2D([], [], color=methods.OTHER, linestyle=":")
    axes["legend"].legend(entries.values(), entries.keys(), loc="center left")
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check whether both roles of self-play lose entropy, and whether the proposer keeps more."""
    selfplay = table[table["label"] == "selfplay"].drop_duplicates(["seed", "quantity"])
    last, first = (selfplay.pivot_table(index="seed", columns="quantity", values=name) for name in ("last", "first"))
    checked = []
    for role in ("proposer", "solver"):
        for prefix, prompts in (("", "its own tasks"), ("probe/", "fixed prompts")):
            name = f"{prefix}{role}/entropy"
            if name in last and name in first:
                measured = f"entropy of the {role} on {prompts}, last minus first fifth, nats"
                checked.append(check_claim(f"the {role}'s entropy falls", measured, last[name] - first[name], -1))
    if {"proposer/entropy", "solver/entropy"} <= set(last):
        before, after = (part["proposer/entropy"] - part["solver/entropy"] for part in (first, last))
        measured = "entropy, proposer minus solver, nats"
        checked.append(check_claim("the proposer's entropy is higher than the solver's", f"{measured}, last fifth", after, 1))
        checked.append(
            check_claim(
                "control: the difference in entropy grows during training", f"{measured}, last minus first fifth", after - before, 1
            )
        )
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
