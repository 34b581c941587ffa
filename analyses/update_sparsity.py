"""Compare the update sparsity of the methods.

Question: how many weights does each method leave unchanged?

The paper: self-play lies between dense SFT and sparse RLVR. Its numbers, known from notes only, are 45.7 % for self-play (AZR-Coder-7B),
94-98 % for SFT and 3-7 % for RLVR. Read as sparsity, they contradict the text; read as density (share changed), they agree with it.

The figure shows sparsity by rule ``bf16`` against the base, and under each of the four rules how much more a method leaves unchanged than
SFT does, paired by seed, at the default learning rate and at the lowest at which all methods were run. Below: that difference over
training, and layer x module maps of it at the lower rate. At each rate the methods share the number of steps, the dtype and the
optimizer. The paper's checkpoints do not: ``analyses.confound`` varies these settings. Without SFT the first method takes its place; with
one method alone there are no differences.

    python -m analyses.update_sparsity runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.runs import Run, default_settings, lowest_lr, reasons
from analyses.verdicts import Verdict, check_claim, over_seeds, seed_count, with_intervals
from dynamics import InputError, sparsity
from dynamics.checkpoints.parameter_names import layer_order, module_order
from dynamics.presentation import methods, style, ticks
from dynamics.sparsity import plot_rules
from dynamics.sparsity.definitions import RULES

TITLE = "Update sparsity by method"
CLAIM = "self-play updates are denser than RLVR's and sparser than SFT's"
#: line styles by learning rate, from the highest
LINES = ("solid", "dashed", "dotted", "dashdot")
#: in percentage points
POINTS = 100


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    total = table[table["part"] == "total"]
    dtypes = ", ".join(sorted(set(total["dtype"].dropna())))
    names, reference = _axis_names(table), _reference(table)
    compared = (
        f" The others: the same minus {reference}, paired by seed, in percentage points. Maps: mean over seeds of that difference, of "
        f"{', '.join(names[label] for label in _mapped(table)['label'].unique() if not _is_of(table, label, reference))}."
        if (table["part"] == "difference").any()
        else ""
    )
    return (
        f"Left: share of weights unchanged since the base, rule bf16, by method and learning rate; {seed_count(total)} seeds, a dot each; "
        f"bars: 95 % t interval over seeds. Stored as {dtypes}.{compared} "
        f"Rules: {'; '.join(plot_rules.RULE_LABELS.values())}."
    )


def headline(table: pd.DataFrame) -> str:
    """Say which methods are told from the reference at the first learning rate, by the rule bf16."""
    rows = table[(table["part"] == "difference") & (table["rule"] == "bf16")]
    if not len(rows):
        return "Share of weights that training left unchanged"
    names, parts = _axis_names(table), []
    for label, own in rows.groupby("label", sort=False):
        value, low, high = own["value"].mean(), own["low"].iloc[0], own["high"].iloc[0]
        told = not np.isfinite(low) or low * high > 0
        parts.append(f"{names[str(label)]} {POINTS * value:+.1f} points" if told else f"{names[str(label)]} not told apart")
    return f"Weights left unchanged, against {_reference(table)}: {'; '.join(parts)}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns part, label, method, learning_rate, seed, rule, value, low, high.

    Parts: total, difference, step, step difference, cell. Further columns: relative_update and dtype of part total, step of the parts of
    steps, layer, module and numel of part cell. Differences are from SFT, or else the first method, at the same learning rate and of the
    same seed.
    """
    columns = {f"sparsity/{rule}" for rule in RULES}
    known = [run for run in runs if run.has_weights or columns <= set(run.metrics)]
    if not known:
        raise InputError(f"none of the runs has weights of its base and of a later checkpoint, or recorded sparsity: {reasons(runs)}")
    selected = {run.path: run for run in [*default_settings(known), *lowest_lr(known)]}.values()
    table = pd.DataFrame([row for run in selected for row in _run_rows(run)])
    reference = _reference(table)
    parts = [with_intervals(table[table["part"] == "total"], ["label", "rule"]), table[table["part"] != "total"]]
    for part, keys, name in (("total", ["rule"], "difference"), ("step", ["rule", "step"], "step difference")):
        own = table[table["part"] == part]
        on = ["learning_rate", "seed", *keys]
        if len(own):
            base = own[own["method"] == reference].drop_duplicates(on).set_index(on)["value"]
            others = own[own["method"] != reference].join(base.rename("reference"), on=on)
            others = others.assign(part=name, value=others["value"] - others["reference"]).dropna(subset="value").drop(columns="reference")
            if len(others):
                parts.append(with_intervals(others, ["label", *keys]))
    return pd.concat(parts, ignore_index=True)


def _reference(table: pd.DataFrame) -> str:
    """Name the method that the others are compared with."""
    methods_ = list(dict.fromkeys(table["method"]))
    return "sft" if "sft" in methods_ else str(methods_[0])


def _is_of(table: pd.DataFrame, label: str, method: str) -> bool:
    return bool((table.loc[table["label"] == label, "method"] == method).any())


def _run_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Make the rows of one run."""
    final, relative_update, grid = final_sparsity(run)
    shared: dict[str, Any] = {"label": run.label, "method": run.method, "learning_rate": run.learning_rate, "seed": run.seed}
    dtype = str(run.document.get("master_dtype") or "an unknown dtype")
    for rule in RULES:
        yield {"part": "total", **shared, "rule": rule, "value": final[rule], "relative_update": relative_update, "dtype": dtype}
        if f"sparsity/{rule}" in run.metrics:
            recorded = run.metrics.dropna(subset=[f"sparsity/{rule}"])
            for step, value in zip(recorded["step"], recorded[f"sparsity/{rule}"], strict=True):
                yield {"part": "step", **shared, "rule": rule, "step": step, "value": value}
    if grid is not None:
        cells = grid.assign(part="cell", rule="bf16", value=grid["sparsity_bf16"], **shared)
        yield from cells[["part", *shared, "rule", "layer", "module", "value", "numel"]].to_dict("records")


def final_sparsity(run: Run) -> tuple[dict[str, float], float, pd.DataFrame | None]:
    """Return sparsity by rule, relative update and the layer x module cells: from the last checkpoint, else from the last metrics."""
    columns = [f"sparsity/{rule}" for rule in RULES]
    try:
        comparison = sparsity.compare(run.checkpoints[0], run.checkpoints[-1])
    except InputError:
        if not set(columns) <= set(run.metrics):  # the recorder of another trainer writes metrics without checkpoints
            raise
        last = run.metrics.dropna(subset=columns).iloc[-1]
        return {rule: float(last[name]) for rule, name in zip(RULES, columns, strict=True)}, float("nan"), None
    return dict(comparison.total.sparsity), comparison.total.relative_update, comparison.grid


def _mapped(table: pd.DataFrame) -> pd.DataFrame:
    """Select the cells of the maps: those at the lowest learning rate with cells; all if no learning rate was recorded."""
    cells = table[table["part"] == "cell"]
    if not cells["learning_rate"].notna().any():
        return cells
    return cells[cells["learning_rate"] == cells["learning_rate"].min()]


def _axis_names(table: pd.DataFrame) -> dict[str, str]:
    """Name each label on an axis by method and learning rate if these are distinct; else by the label."""
    first = table.drop_duplicates("label")
    distinct = not first.duplicated(["method", "learning_rate"]).any() and first["learning_rate"].notna().all()
    names = [f"{row['method']}, {style.exponent(row['learning_rate'])}" for row in first.to_dict("records")] if distinct else first["label"]
    return dict(zip(first["label"], names, strict=True))


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Draw sparsity by one rule: a row per label."""
    rows = table[(table["part"] == "total") & (table["rule"] == rule)]
    names = _axis_names(rows)
    labels = list(names)
    methods.dots(rows, labels, ax)
    for position, label in enumerate(labels):
        values = rows[rows["label"] == label]["value"]
        right = values.mean() < 0.5
        ax.annotate(
            f"{100 * values.mean():.1f} %",
            (values.max() if right else values.min(), position),
            (7 if right else -7, 0),
            textcoords="offset points",
            va="center",
            ha="left" if right else "right",
            fontsize=7,
        )
    ax.set_yticks(range(len(labels)), list(names.values()))
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.set_title(f"unchanged, {rule}")
    return ax


def differences(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    """Draw how much more is left unchanged than by the reference: a row per label, in the order of ``draw``."""
    rows = table[(table["part"] == "difference") & (table["rule"] == rule)]
    scaled = rows.assign(**{name: POINTS * rows[name] for name in ("value", "low", "high")})
    methods.dots(scaled, list(_axis_names(table)), ax)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ticks.plain(ax.xaxis, 3, least=2, signed=True)
    ax.set_title(rule)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was measured only."""
    names = _axis_names(table)
    compared = bool((table["part"] == "difference").any())
    reference = _reference(table)
    cells = _mapped(table)
    mapped = [label for label in dict.fromkeys(cells["label"]) if not (compared and _is_of(table, label, reference))][:3]
    steps = bool((table["part"] == ("step difference" if compared else "step")).any())
    below = bool(mapped) or steps
    drawing = style.new_figure(style.TWO_COLUMN, 1.1 + 0.22 * len(names) + 2.3 * below)
    if below:
        halves: Any = drawing.subfigures(2, 1, height_ratios=[0.8 + 0.22 * len(names), 2.2])
        top, bottom = halves
    else:
        top = drawing
    axes = np.atleast_1d(top.subplots(1, 1 + len(RULES) * compared, sharey=True, width_ratios=[1.5, *[1] * len(RULES) * compared]))
    draw(table, axes[0])
    for ax, rule in zip(axes[1:], RULES, strict=False):
        differences(table, ax, rule)
    if compared:
        axes[1 + len(RULES) // 2].set_xlabel(f"percentage points more than {reference}, by rule")
    if below:
        panels = list(bottom.subplots(1, steps + len(mapped), squeeze=False, width_ratios=[1.3] * steps + [1] * len(mapped))[0])
        if steps:
            over_training(table, panels.pop(0))
        _maps(table, mapped, panels, bottom)
    return drawing


def _maps(table: pd.DataFrame, mapped: Sequence[str], panels: Sequence[Axes], part: Any) -> None:
    """Draw a map for each label, of the difference from the reference if there is one."""
    if not mapped:
        return
    cells, reference = _mapped(table), _reference(table)
    of_reference = cells[cells["method"] == reference].groupby(["layer", "module"], dropna=False)["value"].mean()
    values = {label: cells[cells["label"] == label] for label in mapped}
    signed = (table["part"] == "difference").any() and len(of_reference)
    if signed:
        keys = ["layer", "module"]
        for label, own in values.items():
            before = own.join(of_reference.rename("before"), on=keys)["before"]
            values[label] = own.assign(value=POINTS * (own["value"] - before))
    everything = pd.concat([own.groupby(["layer", "module"], dropna=False)["value"].mean() for own in values.values()])
    largest = float(everything.abs().max()) or 1.0
    ends = (
        (-largest, largest)
        if signed
        else (float(everything.min()) if everything.min() > everything.max() / 2 else 0.0, float(everything.max()))
    )
    images = [cell_map(own, ax, ends, signed=bool(signed)) for own, ax in zip(values.values(), panels, strict=True)]
    part.colorbar(images[-1], ax=panels[-1]).set_label(f"minus {reference}, points" if signed else "sparsity, bf16")
    for ax in panels[1:]:
        ax.set_yticklabels([])


def over_training(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the difference from the reference by rule bf16 over training, with its interval; without a reference, sparsity itself."""
    compared = (table["part"] == "step difference").any()
    steps = table[(table["part"] == ("step difference" if compared else "step")) & (table["rule"] == "bf16")]
    scale = POINTS if compared else 1
    rates = [] if steps["learning_rate"].isna().any() else sorted(steps["learning_rate"].unique(), reverse=True)
    dashes = dict(zip(rates, cycle(LINES), strict=False))
    for label, name in _axis_names(table).items():
        rows = steps[steps["label"] == label]
        if len(rows):
            mean = scale * rows.reindex(columns=["step", "value", "low", "high"]).groupby("step").mean()
            dash = dashes.get(rows["learning_rate"].iloc[0], "solid")
            methods.line(mean.reset_index(), "step", name, ax, linestyle=dash, markersize=3, **methods.marker_style(rows["method"].iloc[0]))
    if compared:
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
        ticks.plain(ax.yaxis, 4, signed=True)
        ax.set(title=f"minus {_reference(table)} over training", ylabel="percentage points, bf16")
    else:
        ax.set(title="over training", ylabel="sparsity, rule bf16", ylim=(0, 1))
    ax.set_xlabel("step")
    ticks.whole(ax.xaxis, 4)
    ax.legend(fontsize=6.5, labelspacing=0.2, handlelength=1.6)
    return ax


def cell_map(cells: pd.DataFrame, ax: Axes, ends: tuple[float, float] = (0.0, 1.0), signed: bool = False) -> Any:
    """Draw a layer x module map of sparsity or of its difference, the mean over seeds.

    Parameters
    ----------
    cells : label, method, learning_rate, layer, module, value.
    ax : axes to draw on.
    ends : limits of the colour scale.
    signed : whether the values are differences.
    """
    modules = sorted(cells["module"].unique(), key=module_order)
    layers = sorted(cells["layer"].unique(), key=lambda layer: layer_order(layer or ""))
    wide = cells.pivot_table(index="layer", columns="module", values="value").reindex(index=layers, columns=modules)
    image = ax.imshow(wide.to_numpy(float), vmin=ends[0], vmax=ends[1], cmap="RdBu" if signed else style.SEQUENTIAL, aspect="auto")
    ax.set_xticks(range(len(modules)), modules, rotation=90, fontsize=7.5)
    ticks = range(0, len(layers), -(-len(layers) // 8))
    ax.set_yticks(ticks, [str(layers[tick]).rpartition(".")[2] or "none" for tick in ticks])
    ax.grid(False)
    ax.set_title(_axis_names(cells)[cells["label"].iloc[0]])
    return image


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check the paper's order of the methods at every learning rate."""
    rows = table[(table["part"] == "total") & (table["rule"] == "bf16")]
    rates = sorted(rows["learning_rate"].dropna().unique(), reverse=True)
    return [
        verdict for rate in rates for verdict in check_order(rows[rows["learning_rate"] == rate], f"learning rate {style.exponent(rate)}")
    ]


def check_order(rows: pd.DataFrame, setting: str) -> list[Verdict]:
    """Check the paper's order of the methods, by sparsity under the rule bf16.

    Read as sparsity or as density, the paper's numbers - self-play 45.7 %, SFT 94-98 %, RLVR 3-7 % - put self-play in the middle. The two
    readings differ in the order of SFT and RLVR. Whether self-play lies between them is judged only where they are told apart: between two
    ends that coincide there is no room.

    Parameters
    ----------
    rows : method, seed, value, all at one setting.
    setting : name of that setting.
    """
    wide = rows.pivot_table(index="seed", columns="method", values="value").reindex(columns=["sft", "rlvr", "selfplay"]).dropna()
    if wide.empty:
        return []
    ends = wide[["sft", "rlvr"]]
    inside = np.minimum(wide["selfplay"] - ends.min(axis=1), ends.max(axis=1) - wide["selfplay"])
    difference = wide["rlvr"] - wide["sft"]
    measured = f"sparsity by bf16, {setting}"
    between = "self-play lies between SFT and RLVR (45.7 %; 54.3 % if that is density)"
    as_density = "RLVR is sparser than SFT (the paper's text; its figures, read as density: 93-97 %, 2-6 %)"
    as_sparsity = "SFT is sparser than RLVR (the paper's figures, read as sparsity: 94-98 %, 3-7 %)"
    apart = np.prod(over_seeds(difference.to_numpy())[1:]) > 0
    middle = check_claim(between, f"{measured}: distance to the nearer end", inside, 1)
    if not apart:
        middle = replace(middle, low=np.nan, high=np.nan, interval="none: SFT and RLVR are not told apart")
    return [
        middle,
        check_claim(as_density, f"{measured}: RLVR - SFT", difference, 1),
        check_claim(as_sparsity, f"{measured}: RLVR - SFT", difference, -1),
    ]


if __name__ == "__main__":
    sys.exit(analysis.run_script())
