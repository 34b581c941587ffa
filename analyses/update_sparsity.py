"""How many weights does each method leave unchanged?

The paper: self-play lies between dense SFT and sparse RLVR. Its figures, known from notes only, are 45.7 % for self-play (AZR-Coder-7B),
94-98 % for SFT and 3-7 % for RLVR; read as sparsity they contradict the text, read as density (share changed) they agree with it.

Drawn: sparsity against the base under the four rules, a dot a seed, at the usual learning rate and at the lowest at which all methods
were run; the ``bf16`` rule over training; layer x module maps at the lower rate. Within a rate the methods share steps, dtype and
optimizer, which the paper's checkpoints do not: ``analyses.confound`` varies them.

    python -m analyses.update_sparsity runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict, judge, seeds_of
from analyses.runs import Run, plain, slowest
from dynamics import InputError, sparsity
from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.parameter_names import module_order
from dynamics.presentation import methods, style
from dynamics.sparsity import plot_rules
from dynamics.sparsity.definitions import RULES

TITLE = "Update sparsity by method"
CLAIM = "self-play updates are denser than RLVR's and sparser than SFT's"
#: of lines, by learning rate from the highest
LINES = ("solid", "dashed", "dotted", "dashdot")


def caption(table: pd.DataFrame) -> str:
    total = table[table["part"] == "total"]
    dtypes = ", ".join(sorted(set(total["dtype"].dropna())))
    named = _named(table)
    return (
        f"Share of weights unchanged since the base, by method and learning rate, {seeds_of(total)} seeds, a dot each; "
        f"bars: Student's 95 % interval over seeds. Stored as {dtypes}. "
        f"Maps: mean over seeds, of {', '.join(named[label] for label in _mapped(table)['label'].unique())}. "
        f"Rules: {'; '.join(plot_rules.RULE_LABELS.values())}."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part (total, step, cell), label, method, learning_rate, seed, rule, value, low, high, relative_update, dtype, ..."""
    rows: list[dict[str, Any]] = []
    for run in {run.path: run for run in [*plain(runs), *slowest(runs)]}.values():
        final, moved, grid = _final(run)
        shared: dict[str, Any] = {"label": run.label, "method": run.method, "learning_rate": run.learning_rate, "seed": run.seed}
        more = {"relative_update": moved, "dtype": str(run.document.get("master_dtype") or "an unknown dtype")}
        for rule in RULES:
            rows.append({"part": "total", **shared, "rule": rule, "value": final[rule], **more})
            if f"sparsity/{rule}" in run.metrics:
                there = run.metrics.dropna(subset=[f"sparsity/{rule}"])
                steps = zip(there["step"], there[f"sparsity/{rule}"], strict=True)
                rows += [{"part": "step", **shared, "rule": rule, "step": step, "value": value} for step, value in steps]
        if grid is not None:
            cells = grid.assign(part="cell", rule="bf16", value=lambda cells: cells["sparsity_bf16"], **shared)
            rows += cells[["part", *shared, "rule", "layer", "module", "value", "numel"]].to_dict("records")
    table = pd.DataFrame(rows)
    whole = table["part"] == "total"
    return pd.concat([question.with_intervals(table[whole], ["label", "rule"]), table[~whole]], ignore_index=True)


def _final(run: Run) -> tuple[dict[str, float], float, pd.DataFrame | None]:
    """Sparsity by rule, relative update, and the cells of layer x module: of the last checkpoint, else of the last metrics."""
    recorded = [f"sparsity/{rule}" for rule in RULES]
    try:
        found = sparsity.compare(run.checkpoints[0], run.checkpoints[-1])
    except InputError:
        if not set(recorded) <= set(run.metrics):  # as another trainer's recorder writes them, without checkpoints
            raise
        last = run.metrics.dropna(subset=recorded).iloc[-1]
        return {rule: float(last[name]) for rule, name in zip(RULES, recorded, strict=True)}, float("nan"), None
    return dict(found.total.sparsity), found.total.relative_update, found.grid


def _mapped(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of the maps: those at the lowest learning rate that has any, or at none if the runs do not say theirs."""
    cells = table[table["part"] == "cell"]
    said = cells["learning_rate"].notna()
    return cells[cells["learning_rate"] == cells["learning_rate"].min()] if said.any() else cells


def _named(table: pd.DataFrame) -> dict[str, str]:
    """Label -> what an axis calls it: the method and the learning rate."""
    first = table.drop_duplicates("label")
    told = not first.duplicated(["method", "learning_rate"]).any() and first["learning_rate"].notna().all()
    short = [f"{row['method']}, {style.exponent(row['learning_rate'])}" for row in first.to_dict("records")] if told else first["label"]
    return dict(zip(first["label"], short, strict=True))


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Sparsity by one rule, a row a label."""
    part = table[(table["part"] == "total") & (table["rule"] == rule)]
    labels = list(dict.fromkeys(part["label"]))
    methods.dots(part, labels, ax)
    for place, label in enumerate(labels):
        mine = part[part["label"] == label]["value"]
        right = mine.mean() < 0.5
        ax.annotate(
            f"{100 * mine.mean():.2f} %",
            (mine.max() if right else mine.min(), place),
            (7 if right else -7, 0),
            textcoords="offset points",
            va="center",
            ha="left" if right else "right",
            fontsize=7,
        )
    ax.set_yticks(range(len(labels)), [_named(part)[label] for label in labels])
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.5, 1])
    ax.set_title(f"rule {rule}")
    ax.set_xlabel("sparsity")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    named = _named(table)
    made = style.new_figure(style.TWO_COLUMN, 2.9 + 0.22 * len(named))
    parts: Any = made.subfigures(2, 1, height_ratios=[0.7 + 0.22 * len(named), 2.2])
    top, bottom = parts
    axes = top.subplots(1, len(RULES), sharey=True)
    for ax, rule in zip(axes, RULES, strict=True):
        draw(table, ax, rule)
    axes[0].set_ylabel("method, learning rate")
    cells = _mapped(table)
    mapped = list(dict.fromkeys(cells["label"]))[:3]
    under = bottom.subplots(1, 1 + len(mapped), squeeze=False, width_ratios=[1.3] + [1] * len(mapped))[0]
    steps = table[(table["part"] == "step") & (table["rule"] == "bf16")]
    rates = [] if steps["learning_rate"].isna().any() else sorted(steps["learning_rate"].unique(), reverse=True)
    dashes = dict(zip(rates, cycle(LINES), strict=False))
    for label, name in named.items():
        part = steps[steps["label"] == label]
        if len(part):
            dash = dashes.get(part["learning_rate"].iloc[0], "solid")
            methods.seeds(part, "step", name, under[0], color=methods.color(label), linestyle=dash)
    told = ", ".join(f"{dash} {style.exponent(rate)}" for rate, dash in dashes.items()) if len(dashes) > 1 else ""
    under[0].set(xlabel=f"step\n{told}".strip(), ylabel="sparsity, rule bf16", title="over training", ylim=(0, 1))  # colours as above
    if not mapped:
        return made
    ends = float(cells["value"].min()), float(cells["value"].max())
    ends = (ends[0] if ends[0] > ends[1] / 2 else 0.0, ends[1])  # where all are sparse, how they differ is seen only close up
    images = [cell_map(cells[cells["label"] == label], ax, ends) for label, ax in zip(mapped, under[1:], strict=True)]
    bottom.colorbar(images[-1], ax=under[-1]).set_label("sparsity, bf16")
    for ax in under[2:]:
        ax.set_yticklabels([])
    return made


def cell_map(cells: pd.DataFrame, ax: Axes, ends: tuple[float, float] = (0.0, 1.0)) -> Any:
    """Sparsity of every cell of layer x module, the mean over seeds, on a scale with these ``ends``.

    ``cells``: label, method, layer, module, value.
    """
    modules = sorted(cells["module"].unique(), key=module_order)
    layers = sorted(cells["layer"].unique(), key=lambda name: parameter_names.layer_order(name or ""))
    wide = cells.pivot_table(index="layer", columns="module", values="value").reindex(index=layers, columns=modules)
    image = ax.imshow(wide.to_numpy(float), vmin=ends[0], vmax=ends[1], cmap=style.SEQUENTIAL, aspect="auto")
    ax.set_xticks(range(len(modules)), modules, rotation=90, fontsize=7.5)
    shown = range(0, len(layers), -(-len(layers) // 8))
    ax.set_yticks(shown, [str(layers[place]).rpartition(".")[2] or "none" for place in shown])
    ax.grid(False)
    ax.set_title(_named(cells)[cells["label"].iloc[0]])
    return image


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    part = table[(table["part"] == "total") & (table["rule"] == "bf16")]
    rates = sorted(part["learning_rate"].dropna().unique(), reverse=True)
    return [one for rate in rates for one in order_of(part[part["learning_rate"] == rate], f"learning rate {style.exponent(rate)}")]


def order_of(part: pd.DataFrame, setting: str) -> list[Verdict]:
    """The paper's order of the methods, by sparsity under the rule bf16: of rows with method, seed, value, all at one setting.

    Its figures - self-play 45.7 %, SFT 94-98 %, RLVR 3-7 % - put self-play between under both readings, and SFT at one end or the other.
    """
    wide = part.pivot_table(index="seed", columns="method", values="value").reindex(columns=["sft", "rlvr", "selfplay"]).dropna()
    if wide.empty:
        return []
    ends = wide[["sft", "rlvr"]]
    inside = np.minimum(wide["selfplay"] - ends.min(axis=1), ends.max(axis=1) - wide["selfplay"])
    apart = wide["rlvr"] - wide["sft"]
    same = f"sparsity by bf16, {setting}"
    return [
        judge("self-play lies between SFT and RLVR (45.7 %; 54.3 % if that is density)", f"{same}: distance to the nearer end", inside, 1),
        judge("RLVR is sparser than SFT (the paper's text; its figures, read as density: 93-97 %, 2-6 %)", f"{same}: RLVR - SFT", apart, 1),
        judge("SFT is sparser than RLVR (the paper's figures, read as sparsity: 94-98 %, 3-7 %)", f"{same}: RLVR - SFT", apart, -1),
    ]


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
