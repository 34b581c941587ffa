"""Compare what settings and methods do to sparsity, entropy and pass@k: which of them explains how much of the variance between runs.

Question: if two checkpoints differ in sparsity, entropy or pass@k, which difference between their runs is the likeliest reason?

Comparisons of published checkpoints differ at once in learning rate, dtype of the masters, dtype of storage, counting rule, estimator, data
and method. Here runs are arranged in cells that differ in one of these at a time. For each factor, a family is a set of cells that
differ in this factor alone; the standard deviation between its levels, for each seed on its own, is what the factor does at that setting of
the others.

The figure shows a dot for each family, a tick for their root mean square, from which what seeds alone would give is subtracted, and a grey
bar for what that is. Where learning rate, dtypes, rule and method are crossed completely, a percentage says which share of the variance
over that grid would remain if all else were known (the total-effect index of Sobol'); with interactions these sum to more than 1.

How it can mislead: a share depends on the levels that were chosen, and a wider range of learning rates explains more. The method includes
its own estimator, pool and proposals. Entropy and pass@k are changes from each run's own base. Estimator, pool, order, proposer and reward
were varied at one setting only, so their families are few.

    python -m analyses.variance runs/comparison-full --out figures        # a second or two a run
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.confound import by_rule
from analyses.pass_at_k import BASE, points
from analyses.runs import Run, first_and_last_fifth
from analyses.verdicts import Verdict, seed_count
from dynamics import InputError
from dynamics.presentation import methods, style, ticks

TITLE = "What explains the variance between runs"
CLAIM = "no claim about this"
#: factor -> its name in the figure; first those that are crossed in a grid
FACTORS = {
    "learning_rate": "learning rate",
    "masters": "master dtype",
    "stored": "storage dtype",
    "rule": "counting rule",
    "method": "method",
    "pool": "data pool",
    "order": "data order",
    "estimator": "estimator",
    "proposer": "proposer",
    "reward": "proposer reward",
}
CROSSED = ("learning_rate", "masters", "stored", "rule", "method")
#: what is explained -> its name and unit
OUTCOMES = {
    "sparsity": ("sparsity", "share of weights"),
    "entropy": ("change of entropy", "nats per token"),
    "pass@1": ("gain in pass@1", "points"),
    "pass@k": ("gain, largest k", "points"),
}
#: setting of a run -> factor, for settings in which a run differs from its method's usual ones
VARIED = {"pool": "pool", "data_order": "order", "advantage": "estimator", "advantage_cells": "estimator", "proposer": "proposer"}
VARIED |= {"proposer_reward": "reward"}
USUAL = "usual"
#: columns of the table
COLUMNS = ("part", "outcome", "factor", "setting", "levels", "families", "seeds", "value", "expected", "share", "main", *FACTORS, "seed")


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    rows = table[table["part"] == "factor"]
    known = rows[rows["share"].notna()]
    shares = (
        f" Percentages: of the variance over the complete grid of {', '.join(FACTORS[name] for name in dict.fromkeys(known['factor']))}; "
        "interactions count for each factor that takes part."
        if len(known)
        else " No percentages: learning rate, dtypes and method are not crossed completely in these runs."
    )
    without = [name for factor, name in FACTORS.items() if factor not in set(rows["factor"])]
    left_out = f" Not varied by itself, and left out: {', '.join(without)}." if without else ""
    seeds = seed_count(table[table["part"] == "run"])
    return (
        f"Standard deviation between the levels of a factor, all else equal, within each of {seeds} seeds; "
        "a dot for each setting of the other factors, ticks: their root mean square without what seeds alone give, which is the grey bar."
        f"{shares} Entropy: of the solver on fixed prompts, last fifth minus first; pass@k: minus the base at T=1, all test sets.{left_out}"
    )


def headline(table: pd.DataFrame) -> str:
    """Name for each outcome the factor that moves it most."""
    rows = table[table["part"] == "factor"]
    parts = []
    for outcome, (name, _) in OUTCOMES.items():
        own = rows[rows["outcome"] == outcome].sort_values("value", ascending=False)
        own = own[~(own["value"] <= own["expected"])]  # what seeds alone give is no effect
        if len(own):
            parts.append(f"{name}: {FACTORS[own['factor'].iloc[0]]} (sd {own['value'].iloc[0]:.2g})")
    return f"What moves it most, all else equal - {'; '.join(parts) or 'nothing more than seeds do'}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of runs, of families of cells and of factors.

    Returns
    -------
    Columns part, outcome, the keys of ``FACTORS``, seed, value. Part ``run``: an outcome of a run in its cell. Part ``family``: ``factor``,
    ``setting`` (of the others), ``levels``, ``seeds`` and the standard deviation between levels. Part ``factor``: ``factor``, ``families``,
    ``levels`` (the most), the root mean square without noise, ``expected`` (what noise alone gives; NaN if no family has two seeds),
    ``share`` (total-effect index over the grid) and ``main`` (first-order index); NaN without a complete grid.
    """
    rows = [row for run in runs for row in _outcomes(run)]
    measured = pd.DataFrame(rows, columns=["outcome", *FACTORS, "seed", "value"]).dropna(subset="value")
    parts = [measured.assign(part="run")]
    for outcome, own in measured.groupby("outcome", sort=False):
        parts.append(pd.DataFrame(explain(own)).assign(outcome=outcome))
    table = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    if not (table["part"] == "factor").any():
        raise InputError("needs runs that differ in one of method, learning rate, dtype, estimator, pool or proposer, all else equal")
    return table


def _outcomes(run: Run) -> Iterator[dict[str, Any]]:
    """Make the rows of one run: sparsity by storage and rule, change of entropy, gains in pass@k."""
    cell = dict.fromkeys(FACTORS, USUAL) | {"method": run.method}
    cell |= {"learning_rate": f"{run.learning_rate:g}", "masters": str(run.document.get("master_dtype"))}
    for name, value in run.varied.items():
        if name in VARIED:
            cell[VARIED[name]] = str(value)
        elif name not in ("learning_rate", "master_dtype"):
            return  # of a setting that is no factor here
    shared = cell | {"seed": run.seed}
    if run.has_weights:
        for stored, values in by_rule(run).items():
            yield from (shared | {"outcome": "sparsity", "stored": stored, "rule": rule, "value": value} for rule, value in values.items())
    first, last = first_and_last_fifth(run.metrics, "probe/solver/entropy")
    yield shared | {"outcome": "entropy", "value": last - first}
    samples = run.evals.assign(seed=run.seed)
    if {run.label, BASE} <= set(samples["name"]):
        gains = list(points(samples, run.label, BASE))
        yield from (shared | {"outcome": "pass@1", "value": point["value"]} for point in gains if point["k"] == 1)
        if gains[-1]["k"] > 1:
            yield shared | {"outcome": "pass@k", "value": gains[-1]["value"]}


def explain(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Decompose the variance of one outcome.

    Parameters
    ----------
    measured : the keys of ``FACTORS``, seed and value: a row for each run.

    Returns
    -------
    Rows of the parts ``family`` and ``factor`` of ``measure``.
    """
    families = [family for factor in FACTORS for family in _families(measured, factor)]
    noise = _noise(families)
    indices = _indices(measured)
    rows: list[dict[str, Any]] = []
    for factor in FACTORS:
        own = [family for family in families if family["factor"] == factor]
        if not own:
            continue
        kept = ("factor", "setting", "levels", "seeds")
        rows += [{"part": "family", "value": math.sqrt(family["variance"]), **{name: family[name] for name in kept}} for family in own]
        variance = float(np.mean([family["variance"] for family in own]))
        chance = float(np.mean([noise * (1 - 1 / family["levels"]) for family in own]))
        value = math.sqrt(max(variance - chance, 0.0) if math.isfinite(chance) else variance)
        about = {"families": len(own), "levels": max(family["levels"] for family in own), "expected": math.sqrt(chance)}
        rows.append({"part": "factor", "factor": factor, "value": value, **about, **indices.get(factor, {})})
    return rows


def _families(measured: pd.DataFrame, factor: str) -> Iterator[dict[str, Any]]:
    """Yield the sets of cells that differ in one factor alone, with the variance between its levels, of each seed that has all of them."""
    others = [name for name in FACTORS if name != factor]
    for setting, own in measured.groupby(others, sort=False):
        wide = own.pivot_table(index="seed", columns=factor, values="value")
        whole = wide.dropna()
        if len(wide.columns) < 2 or whole.empty:
            continue
        values = whole.to_numpy(float)
        said = ", ".join(str(value) for value in setting if value != USUAL)
        about = {"factor": factor, "setting": said, "levels": values.shape[1], "seeds": len(values), "residual": math.nan}
        if len(values) > 1:
            rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
            about["residual"] = float((rest**2).sum() / ((values.shape[0] - 1) * (values.shape[1] - 1)))
        yield about | {"variance": float(values.var(axis=1).mean())}


def _noise(families: Sequence[Mapping[str, Any]]) -> float:
    """Return the variance of a run that neither its cell nor its seed explains, of the families with several seeds; NaN without any."""
    known = [(family["residual"], (family["seeds"] - 1) * (family["levels"] - 1)) for family in families if family["seeds"] > 1]
    return float(np.average([residual for residual, _ in known], weights=[freedom for _, freedom in known])) if known else math.nan


def _indices(measured: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Compute first-order and total-effect indices over the complete grid of the crossed factors that were varied; nothing without one."""
    usual = [name for name in FACTORS if name not in CROSSED]
    grid = measured[(measured[usual] == USUAL).all(axis=1)]
    axes = [name for name in CROSSED if grid[name].nunique() > 1]
    if len(axes) < 2:
        return {}
    means = grid.groupby(axes)["value"].mean()
    whole = pd.MultiIndex.from_product([sorted(grid[name].unique()) for name in axes], names=axes)
    if len(means) < len(whole):
        return {}
    values = means.reindex(whole).to_numpy(float).reshape([grid[name].nunique() for name in axes])
    total = float(values.var())
    if not total:
        return {}
    found = {}
    for axis, name in enumerate(axes):
        rest = tuple(other for other in range(len(axes)) if other != axis)
        found[name] = {"share": float(values.var(axis=axis).mean()) / total, "main": float(values.mean(axis=rest).var()) / total}
    return found


def draw(table: pd.DataFrame, ax: Axes, outcome: str = "sparsity") -> Axes:
    """Draw one outcome: a row per factor, in the order of the table."""
    own = table[table["outcome"] == outcome]
    factors = [name for name in FACTORS if name in set(table.loc[table["part"] == "factor", "factor"])]
    most = float(own.loc[own["part"] == "family", "value"].max())
    for row, factor in enumerate(factors):
        (dots, summary) = (own[(own["part"] == part) & (own["factor"] == factor)] for part in ("family", "factor"))
        if not len(summary):
            ax.text(0.02 * most, row, "not varied", va="center", fontsize=6.5, color=methods.OTHER)
            continue
        expected, share = summary["expected"].iloc[0], summary["share"].iloc[0]
        if math.isfinite(expected):
            ax.barh(row, expected, height=0.7, color=style.GRID, zorder=0)
        color = methods.COLORS["rlvr"] if factor == "method" else methods.OTHER
        ax.plot(
            dots["value"], np.full(len(dots), row), linestyle="none", marker="o", markersize=3, color=color, alpha=0.45, markeredgewidth=0
        )
        ax.plot(summary["value"], [row], linestyle="none", marker="|", markersize=13, markeredgewidth=2, color=color)
        if math.isfinite(share):
            ax.annotate(f"{share:.0%}", (1, row), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=7)
    ax.set_yticks(range(len(factors)), [FACTORS[name] for name in factors])
    ax.set_ylim(len(factors) - 0.5, -0.5)
    ax.set_xlim(0, 1.08 * most or 1.0)
    ticks.plain(ax.xaxis, 3, least=2)
    ax.grid(axis="x")
    ax.set(title=OUTCOMES[outcome][0], xlabel=OUTCOMES[outcome][1])
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: the outcomes that were measured."""
    known = set(table.loc[table["part"] == "factor", "outcome"])
    outcomes = [name for name in OUTCOMES if name in known]
    factors = table.loc[table["part"] == "factor", "factor"].nunique()
    drawing = style.new_figure(style.TWO_COLUMN, 1.5 + 0.24 * factors)
    for ax, outcome in zip(drawing.subplots(1, len(outcomes), sharey=True, squeeze=False)[0], outcomes, strict=True):
        draw(table, ax, outcome).set_title(OUTCOMES[outcome][0], fontsize=9)
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: how much a factor explains is decided by how far apart its levels are."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
