"""Measure the entropy of the model, and of the roles of self-play, over training.

Question: how does entropy change during training, and in which role?

The paper: the entropy of both roles collapses, and the proposer's stays above the solver's throughout. The paper defines entropy as the
mean -log p of the sampled tokens; the figure shows both that and the entropy over the whole vocabulary.

The figure shows the entropy of the model by method, on its training data and on fixed held-out problems; the fixed problems separate
a change of the policy from a change of the tasks, and make runs of the same task comparable. It shows the same for the roles of self-play,
the change of each by the end, and reward against entropy with the fit R = b - a exp(H). On its own data, the entropy of SFT is over the
given answers, not over samples. What was not recorded is left out.

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
from analyses.verdicts import Verdict, check_claim, seed_count, with_intervals
from dynamics import InputError, entropy
from dynamics.descriptions import plural
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
#: panel -> why it is left out
MISSING = {
    "own": "entropy on own data, which no run recorded",
    "fixed": "fixed problems, on which no run was probed during training",
    "reward": "reward by entropy, as no run recorded both",
    "roles": "roles of self-play, as no run of it recorded them",
    "roles fixed": "roles on fixed prompts, as no run of self-play was probed",
    "change": "change by the end, which needs probes at two steps",
}
#: length in steps of the running mean in the figure
WINDOW = 9
#: smallest number of points to which a curve is fitted
FITTED = 10


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    shown = panels(table)
    missing = [why for name, why in MISSING.items() if not shown[name]]
    parts = [
        f"Nats per token at temperature 1, {plural(seed_count(table), 'seed')} (thin) and their mean (thick); running mean over {WINDOW} "
        "steps on own data. Solid: entropy over the whole vocabulary; dotted, or hollow if it is one point: mean -log p of the sampled "
        "tokens, the paper's definition. On its own data, SFT is measured on the given answers."
    ]
    if trainers := sorted(set(table["trainer"].dropna()) - {""}) if "trainer" in table else []:
        parts.append(f"Entropy of {', '.join(trainers)} is what the trainer logged, at its own temperature.")
    if shown["fixed"] or shown["roles fixed"]:
        parts.append(
            "Fixed prompts are held-out prompts of the run's task that do not change; all methods of a seed use the same random numbers to "
            "sample from them. They are few, so their mean -log p deviates from the entropy, alike for all methods."
        )
    if shown["change"]:
        parts.append(
            "Change: the last fifth of the run minus the first, on fixed prompts; a dot per seed, bars: 95 % t interval over seeds."
        )
    if shown["reward"]:
        parts.append(
            "Reward by entropy: each dot is a mean over ten steps of one run, so dots of a run are not independent; the line is the "
            f"least-squares fit R = b - a exp(H) to at least {FITTED} dots."
        )
    if missing:
        parts.append(f"Left out: {'; '.join(missing)}.")
    return " ".join(parts)


def headline(table: pd.DataFrame) -> str:
    """Say by how much the entropy of each role, or of each method, changes on fixed prompts; on own data without these."""
    rows = changes(table)
    if not len(rows):
        return "Entropy over training"
    parts = []
    for name, own in rows.groupby("label", sort=False):
        low, high = own["low"].iloc[0], own["high"].iloc[0]
        told = np.isfinite(low) and low * high > 0
        parts.append(f"{name} {own['value'].mean():+.2f}{'' if told else ' (not told from 0)' if np.isfinite(low) else ''}")
    return f"Change of entropy on fixed prompts, nats: {', '.join(parts)}"


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Make a table of columns label, seed, value, low, high: the change on fixed prompts by method, and by role of self-play."""
    rows = []
    for role in ("solver", "proposer"):
        own = table[table["quantity"] == f"probe/{role}/entropy"].drop_duplicates(["label", "seed"])
        name = own["label"].where((own["label"] != "selfplay") | (role == "solver"), "selfplay, proposer")
        rows.append(pd.DataFrame({"label": name, "seed": own["seed"], "value": own["last"] - own["first"]}))
    found = pd.concat(rows).dropna(subset="value")
    found = found[(found["label"] != "selfplay, proposer") | (table["label"] == "selfplay").any()]
    return with_intervals(found, ["label"]) if len(found) else found.assign(low=[], high=[])


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns label, seed, step, quantity, value, first, last (means over the first and the last fifth of the run)."""
    parts = []
    for run in default_settings(runs):
        for name in QUANTITIES:
            if name in run.metrics:
                first, last = first_and_last_fifth(run.metrics, name)
                values = run.metrics[["step", name]].dropna().rename(columns={name: "value"})
                trainer = run.view.trainer if run.view else ""
                about = {"label": run.label, "seed": run.seed, "trainer": trainer}
                parts.append(values.assign(**about, quantity=name, first=first, last=last))
    if not parts:
        raise InputError("none of the runs recorded entropy in its metrics.jsonl")
    return pd.concat(parts)[["label", "seed", "quantity", "step", "value", "first", "last", "trainer"]]


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
        lone = methods.lone_marker(mean, "")
        ax.plot(mean.index, mean, color=color, linestyle=":", linewidth=1.3, markerfacecolor="white", **lone)


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


def by_the_end(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the change of entropy on fixed prompts: a row per method, and one for the proposer of self-play."""
    rows = changes(table)
    labels = list(dict.fromkeys(rows["label"]))
    methods.dots(rows, labels, ax)
    ax.set_yticks(range(len(labels)), [label.replace("selfplay, proposer", "its proposer") for label in labels])
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set(title="change by the end", xlabel="nats per token")
    ticks.plain(ax.xaxis, 3, least=2, signed=True)
    return ax


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
            ax.plot(line, fitted.b - fitted.a * np.exp(line), color=methods.color(label))
    ax.set(xlabel="entropy, nats per token", ylabel="reward", title="reward by entropy")
    ticks.plain(ax.xaxis, 3)
    ticks.plain(ax.yaxis)
    return ax


def panels(table: pd.DataFrame) -> dict[str, bool]:
    """Tell of each panel whether there is something to draw."""
    quantities = set(table["quantity"])
    paired = table[table["quantity"].isin(["reward", "entropy"])].groupby("label")["quantity"].nunique()
    selfplay = set(table.loc[table["label"] == "selfplay", "quantity"])
    return {
        "own": "entropy" in quantities,
        "fixed": "probe/solver/entropy" in quantities,
        "reward": bool((paired == 2).any()),
        "roles": "proposer/entropy" in selfplay,
        "roles fixed": "probe/proposer/entropy" in selfplay,
        "change": len(changes(table)) > 0,
    }


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was recorded only."""
    shown = [name for name, known in panels(table).items() if known]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawing = style.new_figure(style.TWO_COLUMN * max(columns, 2) / 3, 0.6 + 2.1 * rows)
    grid: list[Any] = [[*shown[start : start + columns]] for start in range(0, len(shown), columns)]
    grid[-1] += [grid[-1][-1]] * (columns - len(grid[-1]))  # the last panel fills its row
    axes: Any = drawing.subplot_mosaic(grid)
    drawn = {
        "own": draw,
        "fixed": lambda table, ax: draw(table, ax, fixed=True),
        "reward": against_reward,
        "roles": roles,
        "roles fixed": lambda table, ax: roles(table, ax, fixed=True),
        "change": by_the_end,
    }
    for name in shown:
        drawn[name](table, axes[name])
    for pair in (("own", "fixed"), ("roles", "roles fixed")):
        both = [axes[name] for name in pair if name in axes]
        top = max((ax.dataLim.y1 for ax in both), default=0.0)
        for ax in both:
            ax.set_ylim(0, 1.05 * top)
        if both:
            both[0].set_ylabel("nats per token")
    entries = {
        label: handle
        for name in ("own", "fixed", "roles", "roles fixed")
        if name in axes
        for handle, label in zip(*axes[name].get_legend_handles_labels(), strict=True)
    }
    if set(table["quantity"]) & {"nll_sampled", "probe/solver/nll_sampled"}:
        entries["-log p of samples"] = Line2D([], [], color=methods.OTHER, linestyle=":")
    drawing.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(6, len(entries)), fontsize=8)
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
