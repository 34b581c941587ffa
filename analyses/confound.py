"""Vary learning rate and dtype, and compare their effect on sparsity with that of the method.

Question: does sparsity depend on the method, or on learning rate and dtype?

The paper compares checkpoints of different origin: SFT, RLVR and self-play differ there in learning rate, number of steps and storage
dtype as well as in method. Here all runs take the same number of steps, and each method is also run with other learning rates and with
bfloat16 masters.

The figure shows in its upper row what the settings do: the sparsity of SFT (or else of the first method) under the four rules against the
learning rate, with float32 masters, with these rounded to bfloat16 for storage, the dtype of most published checkpoints, and with bfloat16
masters. The lower row shows what the method does: how much more each other method leaves unchanged than SFT at the same setting, paired by
seed. The rightmost panels show the same against the tolerance of the rule ``atol``, at the lowest learning rate. If a setting changes the
sparsity of a method by more than the methods differ, a comparison that does not control for that setting says nothing about the method.

    python -m analyses.confound runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.runs import OPTIMIZER_SETTINGS, Run, default_settings, lowest_lr, with_weights
from analyses.verdicts import Verdict
from dynamics import InputError, sparsity
from dynamics.io.folders import save_folder
from dynamics.presentation import methods, style, ticks
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
    reference = reference_of(table)
    return (
        f"Top: share of weights of {reference} unchanged since the base, by setting. Below: the share of other methods minus that of "
        f"{reference} at the same setting. The number of steps is the same; {seeds.min()} to {seeds.max()} seeds per setting, a dot each; "
        "lines join the means. Largest difference between methods at the "
        f"same settings, and between settings of one method, which depends on their range: {by_rule}. Rightmost: the rule atol at other "
        f"tolerances ({_swept(table)})."
    )


def headline(table: pd.DataFrame) -> str:
    """Say how far settings and methods move sparsity, by the rule bf16."""
    (row,) = [row for row in spreads(table) if row["rule"] == "bf16"]
    return (
        f"Learning rate and dtype move the sparsity of one method by up to {row['settings']:.2f}; at one setting the methods differ by up "
        f"to {row['methods']:.2f}"
    )


def reference_of(table: pd.DataFrame) -> str:
    """Name the method that the others are compared with."""
    return "sft" if (table["method"] == "sft").any() else str(table["method"].iloc[0])


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns method, label, seed, rule, learning_rate, masters, stored, tolerance, value.

    Runs that differ from the usual ones of their method in more than the optimizer are left out. ``tolerance`` is set in the rows that vary
    the tolerance of rule atol; in the others it is NaN, and atol uses 1e-5.
    """
    selected = [run for run in runs if run.has_weights and set(run.varied) <= set(OPTIMIZER_SETTINGS)]
    if not selected:
        weights = with_weights(runs)  # says what each run lacks
        raise InputError(f"none of the {len(weights)} runs with weights differs from the usual ones of its method in the optimizer only")
    swept = {run.path for run in lowest_lr(selected) or default_settings(selected)}
    return pd.DataFrame([row for run in selected for row in _run_rows(run, TOLERANCES if run.path in swept else ())])


def _run_rows(run: Run, tolerances: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Compare a result with its base, as stored and in bfloat16, by all rules and by the rule atol at other ``tolerances``."""
    shared = {
        "method": run.method,
        "label": run.label,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "masters": str(run.document.get("master_dtype")),
    }
    with _stored(run) as pairs:
        for stored, pair in pairs.items():
            total = sparsity.compare(*pair).total.sparsity
            yield from (shared | {"stored": stored, "rule": rule, "value": total[rule]} for rule in RULES)
            for tolerance in tolerances:
                value = sparsity.compare(*pair, atol=tolerance).total.sparsity["atol"]
                yield shared | {"stored": stored, "rule": "atol", "tolerance": tolerance, "value": value}


def by_rule(run: Run) -> dict[str, dict[str, float]]:
    """Compute the sparsity of a run by each rule, as stored and in bfloat16."""
    with _stored(run) as pairs:
        return {stored: dict(sparsity.compare(*pair).total.sparsity) for stored, pair in pairs.items()}


@contextmanager
def _stored(run: Run) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Give base and result of a run as they were stored, and rounded to bfloat16."""
    base, tuned = run.checkpoints[0], run.checkpoints[-1]
    with tempfile.TemporaryDirectory() as folder:
        in_bfloat16 = rounded(base, Path(folder) / "base"), rounded(tuned, Path(folder) / "tuned")
        yield dict(zip(STORED, ((base, tuned), in_bfloat16), strict=True))


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


#: a line of the upper row: (masters, stored) -> dashes, marker, name
SETTINGS = {
    ("float32", "as trained"): ("-", "o", "float32 masters"),
    ("float32", "bfloat16"): ("--", "D", "float32 masters, stored in bfloat16"),
    ("bfloat16", "as trained"): (":", "s", "bfloat16 masters"),
}


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Draw the sparsity of the reference by one rule against the learning rate, a line for each master and storage dtype."""
    own = table[(table["method"] == reference_of(table)) & (table["rule"] == rule) & _usual(table)]
    for (masters, stored), (dashes, marker, name) in SETTINGS.items():
        rows = own[(own["masters"] == masters) & (own["stored"] == stored)]
        if len(rows):
            _line(rows, "learning_rate", name, ax, color=methods.color(reference_of(table)), linestyle=dashes, marker=marker)
    _rates(own, ax)
    ax.set_ylim(-0.03, 1.03)
    return ax


def differences(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Draw the sparsity of the other methods minus that of the reference against the learning rate, hollow for bfloat16 masters."""
    rows = table[(table["rule"] == rule) & _usual(table) & (table["stored"] == "as trained")]
    paired = _minus(rows, ["learning_rate", "masters"])
    for (method, masters), own in paired.groupby(["method", "masters"], sort=False):
        solid = masters == "float32"
        marker = methods.marker_style(str(method))
        marker |= {"markerfacecolor": marker["color"] if solid else "white", "linestyle": "-" if solid else ":"}
        _line(own, "learning_rate", f"{method}, {masters} masters", ax, **marker)
    ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    _rates(rows, ax)
    return ax


def _usual(table: pd.DataFrame) -> pd.Series[bool]:
    return table["tolerance"].isna() if "tolerance" in table else pd.Series(True, table.index)


def _minus(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Subtract the reference's value of the same seed and the same ``keys``."""
    on, reference = [*keys, "seed"], reference_of(rows)
    known = rows[rows["method"] == reference].drop_duplicates(on).set_index(on)["value"]
    others = rows[rows["method"] != reference].join(known.rename("known"), on=on)
    return others.assign(value=others["value"] - others["known"]).dropna(subset="value")


def _line(rows: pd.DataFrame, x: str, name: str, ax: Axes, **options: Any) -> None:
    mean = rows.groupby(x)["value"].mean()
    ax.plot(mean.index, mean, label=name, markersize=4.5, **options)
    ax.plot(rows[x], rows["value"], **options | {"linestyle": "none", "markersize": 2.5})


def _rates(rows: pd.DataFrame, ax: Axes) -> None:
    rates = sorted(rows["learning_rate"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [style.exponent(rate) for rate in rates])
    ax.minorticks_off()
    ax.margins(x=0.15)


def tolerances(table: pd.DataFrame, ax: Axes, compared: bool = False) -> Axes:
    """Draw the reference's sparsity by the rule atol against its tolerance; or the other methods minus that."""
    rows = table[(table["stored"] == "as trained") & table["tolerance"].notna()]
    rows = rows[rows["masters"] == rows["masters"].iloc[0]]
    shown = _minus(rows, ["tolerance"]) if compared else rows[rows["method"] == reference_of(table)]
    for method, own in shown.groupby("method", sort=False):
        _line(own, "tolerance", str(method), ax, **methods.marker_style(str(method)))
    ax.set_xscale("log")
    at = [TOLERANCES[0], TOLERANCES[2], TOLERANCES[4]]
    ax.set_xticks(at, [style.exponent(tick) for tick in at])
    ax.minorticks_off()
    if compared:
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    return ax


def _swept(table: pd.DataFrame) -> str:
    """Name the learning rate at which the tolerance was varied."""
    rates = table.loc[table["tolerance"].notna(), "learning_rate"]
    return f"atol at {style.exponent(rates.max())}" if len(rates) else "atol"


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was measured only."""
    reference = reference_of(table)
    compared = table["method"].nunique() > 1
    swept = "tolerance" in table and bool(table["tolerance"].notna().any())
    drawing = style.new_figure(style.TWO_COLUMN, 4.4 if compared else 2.6)
    axes = drawing.subplots(1 + compared, len(RULES) + swept, sharey="row", sharex="col", squeeze=False)
    for column, rule in enumerate(RULES):
        draw(table, axes[0, column], rule).set_title(f"rule {rule}")
        if compared:
            differences(table, axes[1, column], rule)
        axes[-1, column].set_xlabel("learning rate")
    if swept:
        tolerances(table, axes[0, -1]).set_title(_swept(table))
        if compared:
            tolerances(table, axes[1, -1], compared=True)
        axes[-1, -1].set_xlabel("tolerance of atol")
    for ax in axes.flat:
        ax.tick_params("x", labelsize=7.5)
    axes[0, 0].set_ylabel(f"sparsity of {reference}")
    entries = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    if compared:
        axes[1, 0].set_ylabel(f"minus {reference}")
        ticks.plain(axes[1, 0].yaxis, 4, signed=True)
        entries |= dict(zip(*reversed(axes[1, 0].get_legend_handles_labels()), strict=True))
    drawing.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: whether methods or settings differ more is decided by how wide the grid of settings is."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
