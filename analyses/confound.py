"""Vary learning rate and dtype, and compare their effect on sparsity with that of the method.

Question: does sparsity depend on the method, or on learning rate and dtype?

The paper compares checkpoints of different origin: SFT, RLVR and self-play differ there in learning rate, number of steps and storage
dtype as well as in method. Here all runs take the same number of steps, and each method is also run with other learning rates and with
bfloat16 masters.

The figure shows sparsity under the four rules against the learning rate, a line for each method and dtype of the masters. The upper row
uses the weights as the run stored them; the lower row rounds both checkpoints to bfloat16 first, the dtype of most published checkpoints.
The rightmost panels show sparsity against the tolerance of the rule ``atol``, at the lowest learning rate. If a setting changes the
sparsity of a method by more than the methods differ, a comparison that does not control for that setting says nothing about the method.

    python -m analyses.confound runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.runs import Run, default_game, default_settings, lowest_lr
from analyses.verdicts import Verdict
from dynamics import InputError, sparsity
from dynamics.io.folders import save_folder
from dynamics.presentation import methods, style
from dynamics.sparsity.definitions import RULES

TITLE = "The confound: learning rate and dtype"
CLAIM = "the order of the methods' sparsities is a property of the methods"
STORED = ("as trained", "bfloat16")
#: tolerances of the rule atol: those of the table in arXiv 2505.11711, and one more
TOLERANCES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    by_rule = "; ".join("{rule}: methods {methods:.2f}, settings {settings:.2f}".format(**row) for row in spreads(table))
    seeds = table.groupby("label")["seed"].nunique()
    return (
        "Share of weights unchanged since the base; learning rate and dtype of the masters differ, the number of steps does not. "
        f"{seeds.min()} to {seeds.max()} seeds per setting, a dot each; lines join the means. Largest difference between methods at the "
        f"same settings, and between settings of one method, which depends on their range: {by_rule}. Rightmost: the rule atol at other "
        f"tolerances ({_swept(table)})."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns method, label, seed, rule, learning_rate, masters, stored, tolerance, value.

    Variants of self-play are left out. ``tolerance`` is set in the rows that vary the tolerance of rule atol; in the others it is NaN, and
    atol uses 1e-5.
    """
    selected = [run for run in default_game(runs) if run.has_weights]
    if not selected:
        raise InputError("none of the runs has checkpoints of the base and of a result, and the method's own reward and proposer")
    swept = {run.path for run in lowest_lr(selected) or default_settings(selected)}
    return pd.DataFrame([row for run in selected for row in _run_rows(run, TOLERANCES if run.path in swept else ())])


def _run_rows(run: Run, tolerances: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Compare a result with its base, as stored and in bfloat16, by all rules and by the rule atol at other ``tolerances``."""
    base, tuned = run.checkpoints[0], run.checkpoints[-1]
    shared = {
        "method": run.method,
        "label": run.label,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "masters": str(run.document.get("master_dtype")),
    }
    with tempfile.TemporaryDirectory() as folder:
        in_bfloat16 = [rounded(checkpoint, Path(folder) / name) for checkpoint, name in ((base, "base"), (tuned, "tuned"))]
        for stored, pair in zip(STORED, ((base, tuned), in_bfloat16), strict=True):
            by_rule = sparsity.compare(*pair).total.sparsity
            yield from (shared | {"stored": stored, "rule": rule, "value": by_rule[rule]} for rule in RULES)
            for tolerance in tolerances:
                value = sparsity.compare(*pair, atol=tolerance).total.sparsity["atol"]
                yield shared | {"stored": stored, "rule": "atol", "tolerance": tolerance, "value": value}


def rounded(checkpoint: Path, target: Path) -> Path:
    """Write a copy of a checkpoint's weights, rounded to bfloat16; return its folder."""
    from safetensors.torch import load_file, save_file

    def fill(folder: Path) -> None:
        for file in sorted(checkpoint.glob("*.safetensors")):
            save_file({name: value.bfloat16() for name, value in load_file(file).items()}, folder / file.name)

    save_folder(target, fill, "TMPDIR names the folder of temporary files")
    return target


def _usual_tolerance(table: pd.DataFrame, stored: str = "as trained") -> pd.DataFrame:
    rows = table[table["stored"] == stored]
    return rows[rows["tolerance"].isna()] if "tolerance" in rows else rows


def spreads(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute for each rule the largest difference in mean sparsity between methods at one setting, and between settings of one method."""
    columns = ["rule", "method", "learning_rate", "masters"]
    mean = _usual_tolerance(table).groupby(columns, sort=False)["value"].mean().reset_index()
    rows: list[dict[str, Any]] = []
    for rule, of_rule in mean.groupby("rule", sort=False):
        between = of_rule.groupby(["learning_rate", "masters"])["value"].agg(lambda values: values.max() - values.min())
        within = of_rule.groupby("method")["value"].agg(lambda values: values.max() - values.min())
        rows.append({"rule": str(rule), "methods": float(between.max()), "settings": float(within.max())})
    return rows


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16", stored: str = "as trained") -> Axes:
    """Draw sparsity by one rule against the learning rate."""
    rows = _usual_tolerance(table, stored)
    rows = rows[rows["rule"] == rule]
    for (method, masters), own in rows.groupby(["method", "masters"], sort=False):
        solid = masters == "float32"
        marker = methods.marker_style(str(method)) | {"markersize": 4.5}
        marker |= {"markerfacecolor": marker["color"] if solid else "white"}
        mean = own.groupby("learning_rate")["value"].mean()
        ax.plot(mean.index, mean, label=f"{method}, {masters} masters", linestyle="-" if solid else "--", **marker)
        ax.plot(own["learning_rate"], own["value"], linestyle="none", **marker | {"markersize": 2.5})
    rates = sorted(rows["learning_rate"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [style.exponent(rate) for rate in rates])
    ax.minorticks_off()
    ax.margins(x=0.15)
    ax.set_ylim(-0.03, 1.03)
    return ax


def tolerances(table: pd.DataFrame, ax: Axes, stored: str = "as trained") -> Axes:
    """Draw sparsity by the rule atol against its tolerance, at the learning rate at which the tolerance was varied."""
    rows = table[(table["stored"] == stored) & table["tolerance"].notna()]
    for method, own in rows.groupby("method", sort=False):
        mean = own.groupby("tolerance")["value"].mean()
        ax.plot(mean.index, mean, label=str(method), **methods.marker_style(str(method)) | {"markersize": 4.5})
    ax.set_xscale("log")
    ticks = [TOLERANCES[0], TOLERANCES[2], TOLERANCES[4]]
    ax.set_xticks(ticks, [style.exponent(tick) for tick in ticks])
    ax.minorticks_off()
    return ax


def _swept(table: pd.DataFrame) -> str:
    """Name the learning rate at which the tolerance was varied."""
    rates = table.loc[table["tolerance"].notna(), "learning_rate"]
    return f"atol at {style.exponent(rates.max())}" if len(rates) else "atol"


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 4.4)
    axes = drawing.subplots(2, len(RULES) + 1, sharey=True, sharex="col")
    for row, stored in enumerate(STORED):
        for ax, rule in zip(axes[row], RULES, strict=False):
            draw(table, ax, rule, stored)
            ax.tick_params("x", labelsize=7.5)
            if row == 0:
                ax.set_title(f"rule {rule}")
            else:
                ax.set_xlabel("learning rate")
        tolerances(table, axes[row, -1], stored)
        axes[row, -1].tick_params("x", labelsize=7.5)
        axes[row, 0].set_ylabel(f"sparsity, stored {stored}" if row == 0 else "stored in bfloat16")
    axes[0, -1].set_title(_swept(table))
    axes[1, -1].set_xlabel("tolerance of atol")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=3)
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: whether methods or settings differ more is decided by how wide the grid of settings is."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
