"""How many weights does each method leave unchanged?

The paper: self-play lies between dense SFT and sparse RLVR. Its figures, known from notes only, are 45.7 % for self-play (AZR-Coder-7B),
94-98 % for SFT and 3-7 % for RLVR; read as sparsity they contradict the text, read as density (share changed) they agree with it.

Drawn: sparsity against the base under the four rules, a dot a seed; the ``bf16`` rule over training; layer x module maps. The methods
share learning rate, steps, dtype and optimizer here, which the paper's checkpoints do not: ``analyses.confound`` varies them.

    python -m analyses.update_sparsity runs/comparison --out figures        # seconds
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
from analyses.question import Verdict, over_seeds, seeds_of
from analyses.runs import Run, plain
from dynamics import names, sparsity
from dynamics.plots import methods, style
from dynamics.rules import RULES

TITLE = "Update sparsity by method"
CLAIM = "self-play updates are denser than RLVR's and sparser than SFT's"


def caption(table: pd.DataFrame) -> str:
    total = table[table["part"] == "total"]
    dtypes = ", ".join(sorted(set(total["dtype"].dropna())))
    return (
        f"Share of weights unchanged since the base, {seeds_of(total)} seeds, a dot each; "
        f"bars: Student's 95 % interval over seeds. Stored as {dtypes}. "
        f"Rules: {'; '.join(style.RULE_LABELS.values())}."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part (total, step, cell), label, seed, rule, step, layer, module, value, low, high, relative_update, dtype, learning_rate."""
    rows: list[dict[str, Any]] = []
    for run in plain(runs):
        found = sparsity.compare(run.checkpoints[0], run.checkpoints[-1])
        shared: dict[str, Any] = {"label": run.label, "seed": run.seed}
        more = {
            "relative_update": found.total.relative_update,
            "dtype": run.document.get("master_dtype"),
            "learning_rate": (run.document.get("config") or {}).get("learning_rate"),
        }
        for rule in RULES:
            rows.append({"part": "total", **shared, "rule": rule, "value": found.total.sparsity[rule], **more})
            if f"sparsity/{rule}" in run.metrics:
                there = run.metrics.dropna(subset=[f"sparsity/{rule}"])
                steps = zip(there["step"], there[f"sparsity/{rule}"], strict=True)
                rows += [{"part": "step", **shared, "rule": rule, "step": step, "value": value} for step, value in steps]
        cells = found.grid.assign(part="cell", rule="bf16", value=lambda grid: grid["sparsity_bf16"], **shared)
        rows += cells[["part", "label", "seed", "rule", "layer", "module", "value", "numel"]].to_dict("records")
    table = pd.DataFrame(rows)
    for (_, _), part in table[table["part"] == "total"].groupby(["label", "rule"]):
        table.loc[part.index, ["low", "high"]] = over_seeds(part["value"].to_numpy())[1:]
    return table


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Sparsity by one rule, a row a label."""
    part = table[(table["part"] == "total") & (table["rule"] == rule)]
    methods.dots(part, list(dict.fromkeys(part["label"])), ax)
    for place, (_, mine) in enumerate(part.groupby("label", sort=False)):
        ax.annotate(
            f"{100 * mine['value'].mean():.2f} %",
            (mine["value"].max(), place),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    ax.set_xlim(-0.03, 1.03)
    ax.set_title(f"rule {rule}")
    ax.set_xlabel("sparsity")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    labels = list(dict.fromkeys(table["label"]))
    made = style.new_figure(9.5, 5.4)
    parts: Any = made.subfigures(2, 1, height_ratios=[1, 1.5])
    top, bottom = parts
    axes = top.subplots(1, len(RULES), sharey=True)
    for ax, rule in zip(axes, RULES, strict=True):
        draw(table, ax, rule)
    under = bottom.subplots(1, 1 + min(3, len(labels)), width_ratios=[1.3] + [1] * min(3, len(labels)))
    steps = table[(table["part"] == "step") & (table["rule"] == "bf16")]
    for label in labels:
        part = steps[steps["label"] == label]
        if len(part):
            methods.seeds(part, "step", label, under[0])
    under[0].set(xlabel="step", ylabel="sparsity, rule bf16", title="over training", ylim=(0, 1))
    under[0].legend()
    cells = table[table["part"] == "cell"]
    shown = list(under[1:])
    images = [cell_map(cells[cells["label"] == label], ax) for ax, label in zip(shown, labels, strict=False)]
    bottom.colorbar(images[-1], ax=shown[-1]).set_label("sparsity, rule bf16")
    for ax in shown[1:]:
        ax.set_yticklabels([])
    return made


def cell_map(cells: pd.DataFrame, ax: Axes) -> Any:
    """Sparsity of every cell of layer x module, the mean over seeds, on a scale from 0 to 1. ``cells``: label, layer, module, value."""
    modules = sorted(cells["module"].unique(), key=sparsity.module_order)
    layers = sorted(cells["layer"].unique(), key=lambda name: names.layer_order(name or ""))
    wide = cells.pivot_table(index="layer", columns="module", values="value").reindex(index=layers, columns=modules)
    image = ax.imshow(wide.to_numpy(float), vmin=0, vmax=1, cmap=style.SEQUENTIAL, aspect="auto")
    ax.set_xticks(range(len(modules)), modules, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(layers)), [str(name).rpartition(".")[2] or "none" for name in layers])
    ax.grid(False)
    ax.set_title(str(cells["label"].iloc[0]))
    return image


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for rule in ("bf16", "rtol"):
        part = table[(table["part"] == "total") & (table["rule"] == rule)].pivot_table(index="seed", columns="label", values="value")
        for other, side, text in (("sft", 1, "self-play is sparser than SFT"), ("rlvr", -1, "self-play is denser than RLVR")):
            if {"selfplay", other} <= set(part.columns):
                apart = (part["selfplay"] - part[other]).dropna().to_numpy()
                name = f"sparsity by {rule}, self-play minus {other.upper()}, matched learning rate, steps and dtype"
                found.append(Verdict(text, name, *over_seeds(apart), len(apart), "Student over seeds", side))
    return found if np.any([one.seeds for one in found]) else []


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
