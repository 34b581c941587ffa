"""Is it the method, or the learning rate and the dtype?

The paper compares checkpoints of different origin: SFT, RLVR and self-play differ there in learning rate, number of steps and storage
dtype as well as in method. Here the same data and steps are run with another learning rate and with bfloat16 masters.

Drawn: sparsity under the four rules against the learning rate, a line for each method and dtype of the masters; above as the run stored
its weights, below with both checkpoints rounded to bfloat16 first, as most are published. Where a setting moves a method further than the
methods lie apart, a comparison that does not match that setting says nothing of the method.

    python -m analyses.confound runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict
from analyses.runs import Run
from dynamics import sparsity
from dynamics.plots import methods, style
from dynamics.rules import RULES

TITLE = "The confound: learning rate and dtype"
CLAIM = "the order of the methods' sparsities is a property of the methods"


def caption(table: pd.DataFrame) -> str:
    spread = spreads(table)
    told = "; ".join("{rule}: methods {methods:.2f}, settings {settings:.2f}".format(**row) for row in spread)
    return (
        "Share of weights unchanged since the base; steps are the same, learning rate and dtype of the masters are not. Largest difference "
        f"between methods at the same settings, and between settings of one method - {told}."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns method, label, seed, rule, learning_rate, masters, stored, value; all runs but those that differ in reward or proposer."""
    chosen = [run for run in runs if not any(word in run.label for word in (" reward", " proposer"))]
    rows: list[dict[str, Any]] = []
    for run in chosen:
        config = run.document.get("config") or {}
        base, tuned = run.checkpoints[0], run.checkpoints[-1]
        shared = {
            "method": run.method,
            "label": run.label,
            "seed": run.seed,
            "learning_rate": config.get("learning_rate"),
            "masters": run.document.get("master_dtype"),
        }
        with tempfile.TemporaryDirectory() as folder:
            narrow = [rounded(path, Path(folder) / name) for path, name in ((base, "base"), (tuned, "tuned"))]
            for stored, sides in (("as trained", (base, tuned)), ("bfloat16", narrow)):
                found = sparsity.compare(*sides).total.sparsity
                rows += [shared | {"stored": stored, "rule": rule, "value": found[rule]} for rule in RULES]
    return pd.DataFrame(rows)


def rounded(checkpoint: Path, target: Path) -> Path:
    """A copy of a checkpoint's weights in bfloat16."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for file in sorted(checkpoint.glob("*.safetensors")):
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, target / file.name)
    return target


def spreads(table: pd.DataFrame) -> list[dict[str, Any]]:
    """By rule: the largest difference of mean sparsity between methods at their usual settings, and within a method between settings."""
    mean = table[table["stored"] == "as trained"].groupby(["rule", "method", "label"], sort=False)["value"].mean().reset_index()
    rows: list[dict[str, Any]] = []
    for rule, part in mean.groupby("rule", sort=False):
        usual = part[part["label"] == part["method"]]["value"]
        within = part.groupby("method")["value"].agg(lambda values: values.max() - values.min()).max()
        rows.append({"rule": str(rule), "methods": float(usual.max() - usual.min()), "settings": float(within)})
    return rows


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16", stored: str = "as trained") -> Axes:
    """Sparsity by one rule against the learning rate."""
    part = table[(table["rule"] == rule) & (table["stored"] == stored)]
    for (method, masters), mine in part.groupby(["method", "masters"], sort=False):
        mean = mine.groupby("learning_rate")["value"].mean()
        solid = masters == "float32"
        look: dict[str, Any] = {"color": methods.color(str(method)), "marker": methods.MARKERS.get(str(method), "o"), "markersize": 5}
        look |= {"linestyle": "-" if solid else "--", "markerfacecolor": look["color"] if solid else "white"}
        ax.plot(mean.index, mean, label=f"{method}, {masters} masters", **look)
    ax.set_xscale("log")
    rates = sorted(part["learning_rate"].unique())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.margins(x=0.15)
    ax.set_ylim(-0.03, 1.03)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(10, 5.2)
    axes = made.subplots(2, len(RULES), sharey=True, sharex=True)
    for row, stored in enumerate(("as trained", "bfloat16")):
        for ax, rule in zip(axes[row], RULES, strict=True):
            draw(table, ax, rule, stored)
            if row == 0:
                ax.set_title(f"rule {rule}")
            else:
                ax.set_xlabel("learning rate")
        axes[row, 0].set_ylabel(f"sparsity, stored {stored}" if row == 0 else "sparsity, stored in bfloat16")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for row in spreads(table):
        if row["rule"] == "bf16":
            text = "sparsity tells methods apart rather than learning rates and dtypes"
            what = "rule bf16: spread between methods minus spread between settings of one method"
            nan = float("nan")
            found.append(
                Verdict(text, what, row["methods"] - row["settings"], nan, nan, question.seeds_of(table), "none: one seed a setting", 1)
            )
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
