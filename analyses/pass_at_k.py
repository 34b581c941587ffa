"""Compare pass@k of the tuned models with that of their base.

Question: do the tuned models solve more problems than the base within k samples?

The paper: self-play is ahead of its base at small k, and the base matches or exceeds it at large k. So training sharpens the distribution
and adds no ability. Self-play keeps more of the base's coverage than RLVR does.

The figure shows pass@k of base, SFT, RLVR and self-play on held-out problems: programs of the pre-training set with other inputs (seen),
new programs (unseen) and deeper programs (ood). The control is the base sampled at lower temperatures and greedily. The lower panels show
the paired difference from the base at T=1; a circle marks where a curve crosses the base (k*). Bands are bootstrap intervals over the
problems of all seeds together. They do not cover the variation between seeds; the intervals of the verdicts do.

    python -m analyses.pass_at_k runs/comparison --out figures        # half a minute
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses import analysis
from analyses.runs import Run, default_settings
from analyses.verdicts import Verdict, check_claim_on_rows
from dynamics import InputError, passk
from dynamics.presentation import methods, style

TITLE = "pass@k on held-out programs"
CLAIM = "self-play is ahead of its base at small k; the base matches or exceeds it at large k"
BASE = "base, T=1"
#: the control of gains at k = 1, fixed in advance: a lower temperature gains too, and the best of several would be chosen by its result
CONTROL = "base, greedy"
SPLITS = ("seen", "unseen", "ood")
NAMES = {"seen": "seen in pre-training", "unseen": "unseen", "ood": "deeper (ood)"}
#: order of the methods in the figure; others come last
ORDER = {BASE: 0, "sft": 1, "rlvr": 2, "selfplay": 3}
#: kind of the interval for all seeds together
WITHIN = "bootstrap over problems"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    crossings = table[(table["kind"] == "crossing") & np.isfinite(table["value"])]
    listed = [
        f"{row['name']} on {row['split']} programs at k* = {_k(row['value'])} [{_k(row['low'])}, {_k(row['high'])}]"
        for row in crossings.to_dict("records")
    ]
    return (
        f"Unbiased pass@k from {int(table['k'].max())} samples per problem at temperature 1; up to {int(table['problems'].max())} problems "
        f"per split over all seeds, {int(table['seeds'].max())} seeds. Bands: 95 % bootstrap over problems, all seeds together. Below: "
        "paired difference from the base at T=1. "
        "Grey: the control, the base at lower temperatures; greedy decoding gives a single sample. Open circles: where a curve "
        f"crosses the base at T=1: {'; '.join(listed) if listed else 'none'}."
    )


def _k(value: float) -> str:
    return "beyond" if np.isnan(value) else f"{value:g}"


def graded(runs: Sequence[Run]) -> pd.DataFrame:
    """Collect the graded samples of all runs: columns of ``Run.evals``, and seed.

    Every run samples the base; its samples are kept once per seed.

    Raises
    ------
    InputError : two runs have the same label and seed, or sampled the base on different problems.
    """
    kept: dict[tuple[str, int], tuple[Run, pd.DataFrame]] = {}
    for run in runs:
        for name, samples in run.evals.groupby("name", sort=False):
            key = (str(name), run.seed)
            if key not in kept:
                kept[key] = run, samples.assign(seed=run.seed)
                continue
            other, known = kept[key]
            if not samples["of_base"].all():
                raise InputError(
                    f"{run.path}: has the same label and seed as {other.path} ({key[0]}, {key[1]}); compare one of them at a time"
                )
            if not known["problem"].value_counts().equals(samples["problem"].value_counts()):
                raise InputError(f"{run.path / 'evals'}: sampled the base on other problems, or other numbers of times, than {other.path}")
    if not kept:
        raise InputError("none of the runs has evals/: pass@k needs graded samples of the base and of the trained model")
    return pd.concat([samples for _, samples in kept.values()])


def paired_difference(samples: pd.DataFrame, reference: str, name: str, ks: Sequence[int] | None = None) -> passk.Comparison | None:
    """Compare pass@k of ``name`` with that of ``reference``, paired by problem; None if one of them has no samples."""
    sides = [samples[samples["name"] == side] for side in (reference, name)]
    if any(side.empty for side in sides):
        return None
    a, b = (passk.curve(side, name=label) for side, label in zip(sides, (reference, name), strict=True))
    return passk.compare(a, b, ks)


def mean_difference(samples: pd.DataFrame, reference: str, name: str, k: int) -> float:
    """Average over shared problems of pass@k of ``name`` minus that of ``reference``."""
    counts = samples[samples["name"].isin([reference, name])].groupby(["name", "problem"])["correct"].agg(["size", "sum"])
    pass_at_k = passk.pass_at_k(counts["size"].to_numpy(), counts["sum"].to_numpy(), k)
    by_problem = pd.Series(pass_at_k, counts.index).unstack("name")
    return float((by_problem[name] - by_problem[reference]).mean())


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns split, kind, name, against, seed, k, value, low, high, problems, seeds.

    Kinds: pass@k; difference (from the base at T=1, all seeds together); crossing (``k`` is the largest measured, ``value`` is k*);
    against (difference from the base at one temperature, or from RLVR, at the smallest and the largest k; ``seed`` is NaN in the rows for
    all seeds together, which have a bootstrap interval).
    """
    samples = graded(default_settings(runs))
    recorded = list(samples["split"].unique())
    splits = [*(split for split in SPLITS if split in recorded), *(split for split in recorded if split not in SPLITS)]
    return pd.DataFrame([row for split in splits for row in _split_rows(samples[samples["split"] == split], split)])


def _split_rows(samples: pd.DataFrame, split: str) -> Iterator[dict[str, Any]]:
    """Make the rows of one split."""
    of_base = samples[samples["of_base"]].drop_duplicates("name")
    temperatures = dict(zip(of_base["name"].astype(str), of_base["temperature"], strict=True))
    for name in [str(name) for name in samples["name"].unique()]:
        own = samples[samples["name"] == name]
        shared: dict[str, Any] = {"split": split, "name": name, "seeds": own["seed"].nunique()}
        curve = passk.curve(own, name=name).points.rename(columns={"pass_at_k": "value"})
        yield from _rows(shared | {"kind": "pass@k"}, curve)
        if name == BASE or (compared := paired_difference(samples, BASE, name, [int(k) for k in curve["k"]])) is None:
            continue
        yield from _rows(shared | {"kind": "difference", "against": BASE}, compared.points.rename(columns={"difference": "value"}))
        if name in temperatures:
            continue
        if (crossing := compared.crossing) is not None:
            ends = {key: np.nan if k is None else k for key, k in (("value", crossing.k), ("low", crossing.low), ("high", crossing.high))}
            yield shared | {"kind": "crossing", "against": BASE, "k": crossing.largest, "problems": compared.paired} | ends
        for reference in (BASE, *(control for control in temperatures if control != BASE), *(("rlvr",) if name == "selfplay" else ())):
            ks = [1] if temperatures.get(reference) == 0 else sorted({1, int(curve["k"].max())})
            yield from _against(samples, shared | {"kind": "against", "against": reference}, ks)


def _against(samples: pd.DataFrame, shared: dict[str, Any], ks: list[int]) -> Iterator[dict[str, Any]]:
    """Make the rows of one difference: for all seeds together, and for each seed."""
    name, reference = shared["name"], shared["against"]
    if (together := paired_difference(samples, reference, name, ks)) is None:
        return
    yield from _rows(shared, together.points.rename(columns={"difference": "value"}))
    for seed, own in samples.groupby("seed"):
        if {reference, name} <= set(own["name"]):
            yield from (shared | {"seed": seed, "k": k, "value": mean_difference(own, reference, name, k)} for k in ks)


def _rows(shared: dict[str, Any], points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for point in points.to_dict("records"):
        yield shared | {"k": int(point["k"])} | {key: point[key] for key in ("value", "low", "high", "problems")}


def _temperature_controls(table: pd.DataFrame, split: str) -> list[str]:
    """Name the controls of a split: the base at other temperatures. Only tuned models have rows against them."""
    against = table[(table["split"] == split) & (table["kind"] == "against")]
    return [str(name) for name in against["against"].unique() if name != BASE and name not in set(against["name"])]


def draw(table: pd.DataFrame, ax: Axes, split: str = "seen", kind: str = "pass@k") -> Axes:
    """Draw one split; ``kind`` is pass@k or difference."""
    shown = table[(table["split"] == split) & (table["kind"] == kind)]
    names = list(shown["name"].unique())
    controls = [name for name in names if name in _temperature_controls(table, split)]
    for position, name in enumerate(controls):
        line_style: dict[str, Any] = {
            "color": methods.OTHER,
            "linestyle": (":", (0, (4, 2)), "-.")[position % 3],
            "marker": "xv+1"[position % 4],
            "band": False,
        }
        methods.line(shown[shown["name"] == name], "k", name, ax, linewidth=1.1, **line_style)
    for name in sorted((name for name in names if name not in controls), key=lambda name: ORDER.get(name, len(ORDER))):
        methods.line(shown[shown["name"] == name], "k", name, ax)
    if kind == "difference":
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
        crossings = table[(table["split"] == split) & (table["kind"] == "crossing") & np.isfinite(table["value"])]
        for row in crossings.to_dict("records"):
            ring: dict[str, Any] = {
                "marker": "o",
                "markersize": 9,
                "markerfacecolor": "none",
                "markeredgecolor": methods.color(row["name"]),
            }
            ax.plot([row["value"]], [0], linestyle="none", zorder=5, **ring)
    ks = sorted(shown["k"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("k")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    splits = list(dict.fromkeys(table["split"]))
    drawing = style.new_figure(max(style.ONE_COLUMN, style.TWO_COLUMN * min(1.0, len(splits) / 3)), 4.6)
    axes = drawing.subplots(2, len(splits), squeeze=False, height_ratios=[1.4, 1])
    for column, split in enumerate(splits):
        draw(table, axes[0, column], split)
        draw(table, axes[1, column], split, "difference")
        axes[0, column].set_title(NAMES.get(split, split))
        axes[0, column].set_ylim(bottom=0)
        axes[0, column].set_xlabel("")
    axes[0, 0].set_ylabel("pass@k")
    axes[1, 0].set_ylabel("minus base, T=1")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if np.isfinite(table.loc[table["kind"] == "crossing", "value"]).any():
        ring = Line2D([], [], linestyle="none", marker="o", markersize=8, markerfacecolor="none", markeredgecolor=methods.OTHER)
        handles, labels = [*handles, ring], [*labels, "k*, crossing"]
    of_base = {BASE, *_temperature_controls(table, splits[0])}
    entries = sorted(zip(labels, handles, strict=True), key=lambda entry: (entry[0] != BASE, entry[0] not in of_base))
    legend = {"handles": [handle for _, handle in entries], "labels": [label for label, _ in entries]}
    drawing.legend(**legend, loc="outside lower center", ncols=min(4, len(splits) + 1))
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check the gains at k = 1, also against greedy decoding of the base, and the differences at the largest k."""
    checked = []
    against = table[table["kind"] == "against"]
    for split in dict.fromkeys(against["split"]):
        large = int(against[against["split"] == split]["k"].max())
        claims = [
            ("selfplay", BASE, 1, 1, "self-play beats its base at k = 1"),
            ("selfplay", CONTROL, 1, 1, "control: self-play gains more than greedy decoding of its base"),
            ("rlvr", BASE, 1, 1, "RLVR beats its base at k = 1"),
            ("rlvr", CONTROL, 1, 1, "control: RLVR gains more than greedy decoding of its base"),
            ("selfplay", BASE, large, -1, "the base is ahead of self-play at large k"),
            ("selfplay", "rlvr", large, 1, "self-play keeps more of the base's coverage than RLVR"),
        ]
        for name, reference, k, expected, finding in claims:
            rows = against[
                (against["split"] == split) & (against["name"] == name) & (against["against"] == reference) & (against["k"] == k)
            ]
            if len(rows) and not (k == 1 and expected < 0):
                measured = f"pass@{k}, {name} minus {reference}, {split} programs"
                checked.append(check_claim_on_rows(finding, measured, rows, expected, WITHIN))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
