"""Is it the method, or the learning rate and the dtype?

The paper compares checkpoints of different origin: SFT, RLVR and self-play differ there in learning rate, number of steps and storage
dtype as well as in method. Here all take the same number of steps, and each method is run on its data with other learning rates and with
bfloat16 masters.

Drawn: sparsity under the four rules against the learning rate, a line for each method and dtype of the masters; above as the run stored
its weights, below with both checkpoints rounded to bfloat16 first, as most are published; on the right against the tolerance of the rule
``atol``, at the lowest learning rate. Where a setting moves a method further than the methods lie apart, a comparison that does not match
that setting says nothing of the method.

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
from analyses.question import Verdict, judge
from analyses.runs import Run, plain, slowest
from dynamics import InputError, sparsity
from dynamics.presentation import methods, style
from dynamics.sparsity.definitions import RULES

TITLE = "The confound: learning rate and dtype"
CLAIM = "the order of the methods' sparsities is a property of the methods"
STORED = ("as trained", "bfloat16")
#: of the rule atol, beside its usual 1e-5: those of the table in arXiv 2505.11711, and one more
TOLERANCES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


def caption(table: pd.DataFrame) -> str:
    told = "; ".join("{rule}: methods {methods:.2f}, settings {settings:.2f}".format(**row) for row in spreads(table))
    grid = table.groupby("label")["seed"].nunique()
    return (
        "Share of weights unchanged since the base; learning rate and dtype of the masters differ, the number of steps does not. "
        f"{grid.min()} to {grid.max()} seeds a point, a dot each, lines through their means. Largest difference between methods at the "
        f"same settings, and between settings of one method - {told}. Rightmost: the rule atol at other tolerances "
        f"({_swept(table)})."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns method, label, seed, rule, learning_rate, masters, stored, tolerance, value; all but variants of reward and proposer.

    ``tolerance`` is that of the rule atol, in the rows where it is swept; elsewhere it is 1e-5.
    """
    chosen = [run for run in runs if run.has_weights and not any(word in run.label for word in (" reward", " proposer"))]
    if not chosen:
        raise InputError("none of the runs has checkpoints of the base and of a result, and the method's own reward and proposer")
    swept = {run.path for run in slowest(chosen) or plain(chosen)}
    rows: list[dict[str, Any]] = []
    for run in chosen:
        base, tuned = run.checkpoints[0], run.checkpoints[-1]
        shared = {
            "method": run.method,
            "label": run.label,
            "seed": run.seed,
            "learning_rate": run.learning_rate,
            "masters": str(run.document.get("master_dtype")),
        }
        with tempfile.TemporaryDirectory() as folder:
            narrow = [rounded(path, Path(folder) / name) for path, name in ((base, "base"), (tuned, "tuned"))]
            for stored, sides in zip(STORED, ((base, tuned), narrow), strict=True):
                found = sparsity.compare(*sides).total.sparsity
                rows += [shared | {"stored": stored, "rule": rule, "value": found[rule]} for rule in RULES]
                for tolerance in TOLERANCES if run.path in swept else ():
                    value = sparsity.compare(*sides, atol=tolerance).total.sparsity["atol"]
                    rows.append(shared | {"stored": stored, "rule": "atol", "tolerance": tolerance, "value": value})
    return pd.DataFrame(rows)


def rounded(checkpoint: Path, target: Path) -> Path:
    """A copy of a checkpoint's weights in bfloat16."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for file in sorted(checkpoint.glob("*.safetensors")):
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, target / file.name)
    return target


def _grid(table: pd.DataFrame, stored: str = "as trained") -> pd.DataFrame:
    part = table[table["stored"] == stored]
    return part[part["tolerance"].isna()] if "tolerance" in part else part


def spreads(table: pd.DataFrame) -> list[dict[str, Any]]:
    """By rule: the largest difference of mean sparsity between methods at one setting, and within one method between settings."""
    mean = _grid(table).groupby(["rule", "method", "learning_rate", "masters"], sort=False)["value"].mean().reset_index()
    rows: list[dict[str, Any]] = []
    for rule, part in mean.groupby("rule", sort=False):
        apart = part.groupby(["learning_rate", "masters"])["value"].agg(lambda values: values.max() - values.min())
        within = part.groupby("method")["value"].agg(lambda values: values.max() - values.min())
        rows.append({"rule": str(rule), "methods": float(apart.max()), "settings": float(within.max())})
    return rows


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16", stored: str = "as trained") -> Axes:
    """Sparsity by one rule against the learning rate."""
    part = _grid(table, stored)
    part = part[part["rule"] == rule]
    for (method, masters), mine in part.groupby(["method", "masters"], sort=False):
        solid = masters == "float32"
        look = methods.look(str(method)) | {"markersize": 4.5}
        look |= {"markerfacecolor": look["color"] if solid else "white"}
        mean = mine.groupby("learning_rate")["value"].mean()
        ax.plot(mean.index, mean, label=f"{method}, {masters} masters", linestyle="-" if solid else "--", **look)
        ax.plot(mine["learning_rate"], mine["value"], linestyle="none", **look | {"markersize": 2.5})
    rates = sorted(part["learning_rate"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [style.exponent(rate) for rate in rates])
    ax.minorticks_off()
    ax.margins(x=0.15)
    ax.set_ylim(-0.03, 1.03)
    return ax


def tolerances(table: pd.DataFrame, ax: Axes, stored: str = "as trained") -> Axes:
    """Sparsity by the rule atol against its tolerance, at the learning rate for which that was measured."""
    part = table[(table["stored"] == stored) & table["tolerance"].notna()]
    for method, mine in part.groupby("method", sort=False):
        mean = mine.groupby("tolerance")["value"].mean()
        ax.plot(mean.index, mean, label=str(method), **methods.look(str(method)) | {"markersize": 4.5})
    ax.set_xscale("log")
    shown = [TOLERANCES[0], TOLERANCES[2], TOLERANCES[4]]
    ax.set_xticks(shown, [style.exponent(one) for one in shown])
    ax.minorticks_off()
    return ax


def _swept(table: pd.DataFrame) -> str:
    rates = table.loc[table["tolerance"].notna(), "learning_rate"]
    return f"atol at {style.exponent(rates.max())}" if len(rates) else "atol"


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(style.TWO_COLUMN, 4.4)
    axes = made.subplots(2, len(RULES) + 1, sharey=True, sharex="col")
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
    made.legend(handles, labels, loc="outside lower center", ncols=3)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Whether methods lie further apart than settings, seed by seed, over the settings that every seed was run at.

    If there is but one such setting, over all settings and the seeds that were run at all of them.
    """
    part = _grid(table)
    part = part[part["rule"] == "bf16"]
    wide = part.pivot_table(index="seed", columns=["method", "learning_rate", "masters"], values="value")
    shared = wide.dropna(axis=1)
    wide = shared if len(shared.columns.droplevel("method").unique()) > 1 else wide.dropna(axis=0)
    by_method, by_setting = (wide.T.groupby(level=level) for level in ("method", ["learning_rate", "masters"]))
    if wide.empty or len(by_method) < 2 or len(by_setting) < 2:
        return []
    between = (by_setting.max() - by_setting.min()).max()
    within = (by_method.max() - by_method.min()).max()
    settings = ", ".join(f"{style.exponent(rate)} with {masters} masters" for rate, masters in by_setting.groups)
    what = (
        f"sparsity by bf16: largest difference between methods at one of the settings {settings} (mean {between.mean():.2f}), "
        f"minus largest between these settings of one method (mean {within.mean():.2f})"
    )
    return [judge("sparsity tells methods apart rather than settings of the optimizer", what, (between - within).to_numpy(), 1)]


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
