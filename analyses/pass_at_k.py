"""Can the tuned models solve more than the base, in k tries?

The paper: self-play is ahead of its base at small k, the base matches or exceeds it at large k, so training sharpens and adds no ability;
and self-play keeps more of the base's reach than RLVR does.

Drawn: pass@k of base, SFT, RLVR and self-play on held-out problems - programs of pre-training on other inputs (seen), programs met nowhere
(unseen), deeper ones (ood) - with the
untouched base at lower temperatures and greedy as the control, and below it the paired difference from the base at T=1, with a mark where a
curve crosses it (k*). Bands are bootstrap intervals over problems, those of all seeds together; they do not cover the variation between
seeds, which the verdicts do.

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

from analyses import question
from analyses.question import Verdict, judge_rows
from analyses.runs import Run, plain
from dynamics import InputError, passk
from dynamics.presentation import methods, style

TITLE = "pass@k on held-out programs"
CLAIM = "self-play is ahead of its base at small k; the base matches or exceeds it at large k"
BASE = "base, T=1"
SPLITS = ("seen", "unseen", "ood")
NAMES = {"seen": "seen in pre-training", "unseen": "unseen", "ood": "deeper (ood)"}
#: the interval of all seeds together
WITHIN = "bootstrap over problems"


def caption(table: pd.DataFrame) -> str:
    found = table[table["kind"] == "crossing"]
    told = [
        f"{row['name']} on {row['split']} programs at k* = {_k(row['value'])} [{_k(row['low'])}, {_k(row['high'])}]"
        for row in found[np.isfinite(found["value"])].to_dict("records")
    ]
    return (
        f"Unbiased pass@k of {int(table['k'].max())} samples a problem at temperature 1, {int(table['problems'].max())} problems a set "
        f"in all, {seeds(table)} seeds. Bands: 95 % bootstrap over problems, all seeds together. Below: paired difference from the base at "
        "T=1. "
        "Grey: the untouched base at lower temperatures, the control; its greedy answer is one sample. Open circles: where a curve "
        f"crosses the base at T=1{' - ' if told else ', of which there is none'}{'; '.join(told)}."
    )


def _k(value: float) -> str:
    return "beyond" if np.isnan(value) else f"{value:g}"


def seeds(table: pd.DataFrame) -> int:
    return int(table["seeds"].max())


def graded(runs: Sequence[Run]) -> pd.DataFrame:
    """The graded samples of all runs: name, seed, problem, split, task, correct. Every run asks the base; once a seed is enough."""
    kept: dict[tuple[str, int], tuple[Run, pd.DataFrame]] = {}
    for run in runs:
        for name, part in run.evals.groupby("name", sort=False):
            key = (str(name), run.seed)
            if key not in kept:
                kept[key] = run, part.assign(seed=run.seed)
                continue
            other, there = kept[key]
            if not key[0].startswith("base"):
                raise InputError(f"{run.path}: has the label and seed of {other.path} ({key[0]}, {key[1]}); compare one of them at a time")
            if not there["problem"].value_counts().equals(part["problem"].value_counts()):
                raise InputError(f"{run.path / 'evals'}: asked the base other problems, or for other counts of samples, than {other.path}")
    if not kept:
        raise InputError("none of the runs has evals/: pass@k needs graded samples of the base and of the trained model")
    return pd.concat([part for _, part in kept.values()])


def apart(part: pd.DataFrame, first: str, second: str, ks: Sequence[int] | None = None) -> passk.Comparison | None:
    """``second`` against ``first``, paired by problem; None where one of them is not there."""
    sides = [part[part["name"] == name] for name in (first, second)]
    if any(side.empty for side in sides):
        return None
    a, b = (passk.curve(side, name=name) for side, name in zip(sides, (first, second), strict=True))
    return passk.compare(a, b, ks)


def gap(part: pd.DataFrame, first: str, second: str, k: int) -> float:
    """Mean over shared problems of pass@k of ``second`` minus that of ``first``."""
    counts = part[part["name"].isin([first, second])].groupby(["name", "problem"])["correct"].agg(["size", "sum"])
    each = pd.Series(passk.pass_at_k(counts["size"].to_numpy(), counts["sum"].to_numpy(), k), counts.index).unstack("name")
    return float((each[second] - each[first]).mean())


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns split, kind, name, against, seed, k, value, low, high, problems, seeds.

    Kinds: pass@k; difference (from the base at T=1, seeds together); crossing (``k`` is the largest looked at, ``value`` is k*);
    against (difference from the base at one temperature, or from RLVR, at the smallest and at the largest k; ``seed`` is NaN for all seeds
    together, whose interval is by bootstrap).
    """
    every = graded(plain(runs))
    there = list(every["split"].unique())
    splits = [*(split for split in SPLITS if split in there), *(split for split in there if split not in SPLITS)]
    return pd.DataFrame([row for split in splits for row in _of_split(every[every["split"] == split], split)])


def _of_split(mine: pd.DataFrame, split: str) -> Iterator[dict[str, Any]]:
    names = [str(name) for name in mine["name"].unique()]
    controls = [name for name in names if name.startswith("base") and name != BASE]
    for name in names:
        part = mine[mine["name"] == name]
        shared: dict[str, Any] = {"split": split, "name": name, "seeds": part["seed"].nunique()}
        found = passk.curve(part, name=name).points.rename(columns={"pass_at_k": "value"})
        yield from _rows(shared | {"kind": "pass@k"}, found)
        if name == BASE or (whole := apart(mine, BASE, name, [int(k) for k in found["k"]])) is None:
            continue
        yield from _rows(shared | {"kind": "difference", "against": BASE}, whole.points.rename(columns={"difference": "value"}))
        if name in controls:
            continue
        if (met := whole.crossing) is not None:
            ends = {key: np.nan if one is None else one for key, one in (("value", met.k), ("low", met.low), ("high", met.high))}
            yield shared | {"kind": "crossing", "against": BASE, "k": met.largest, "problems": whole.paired} | ends
        for against in (BASE, *controls, *(("rlvr",) if name == "selfplay" else ())):
            ks = [1] if against == "base, greedy" else sorted({1, int(found["k"].max())})
            if (pair := apart(mine, against, name, ks)) is None:
                continue
            told = shared | {"kind": "against", "against": against}
            yield from _rows(told, pair.points.rename(columns={"difference": "value"}))
            for seed, one in mine.groupby("seed"):
                if {against, name} <= set(one["name"]):
                    yield from (told | {"seed": seed, "k": k, "value": gap(one, against, name, k)} for k in ks)


def _rows(shared: dict[str, Any], points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for one in points.to_dict("records"):
        yield shared | {"k": int(one["k"])} | {key: one[key] for key in ("value", "low", "high", "problems")}


def draw(table: pd.DataFrame, ax: Axes, split: str = "seen", kind: str = "pass@k") -> Axes:
    """One split; ``kind`` pass@k or difference."""
    mine = table[(table["split"] == split) & (table["kind"] == kind)]
    controls = [name for name in mine["name"].unique() if name.startswith("base") and name != BASE]
    for place, name in enumerate(controls):
        look: dict[str, Any] = {
            "color": methods.OTHER,
            "linestyle": (":", (0, (4, 2)), "-.")[place % 3],
            "marker": "xv+1"[place % 4],
            "band": False,
        }
        methods.line(mine[mine["name"] == name], "k", name, ax, linewidth=1.1, **look)
    order = {BASE: 0, "sft": 1, "rlvr": 2, "selfplay": 3}
    for name in sorted((one for one in mine["name"].unique() if one not in controls), key=lambda one: order.get(one, 9)):
        methods.line(mine[mine["name"] == name], "k", name, ax)
    if kind == "difference":
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
        met = table[(table["split"] == split) & (table["kind"] == "crossing")]
        for row in met[np.isfinite(met["value"])].to_dict("records"):
            ring: dict[str, Any] = {
                "marker": "o",
                "markersize": 9,
                "markerfacecolor": "none",
                "markeredgecolor": methods.color(row["name"]),
            }
            ax.plot([row["value"]], [0], linestyle="none", zorder=5, **ring)
    ks = sorted(mine["k"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("k")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    splits = list(dict.fromkeys(table["split"]))
    made = style.new_figure(max(style.ONE_COLUMN, style.TWO_COLUMN * min(1.0, len(splits) / 3)), 4.6)
    axes = made.subplots(2, len(splits), squeeze=False, height_ratios=[1.4, 1])
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
        handles, labels = [*handles, ring], [*labels, "k*, level again"]
    first = sorted(zip(labels, handles, strict=True), key=lambda pair: (pair[0] != BASE, not pair[0].startswith("base")))
    shown = {"handles": [handle for _, handle in first], "labels": [label for label, _ in first]}
    made.legend(**shown, loc="outside lower center", ncols=min(4, len(splits) + 1))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Gains of self-play and of RLVR in one try, each held against the base at its best temperature too; their reach in many."""
    found = []
    of = table[table["kind"] == "against"]
    for split in dict.fromkeys(of["split"]):
        large, best = int(of[of["split"] == split]["k"].max()), _best_control(table, split)
        asked = [
            ("selfplay", BASE, 1, 1, "self-play beats its base at k = 1"),
            ("selfplay", best, 1, 1, "and by more than a lower temperature does"),
            ("rlvr", BASE, 1, 1, "RLVR beats its base at k = 1"),
            ("rlvr", best, 1, 1, "and by more than a lower temperature does"),
            ("selfplay", BASE, large, -1, "the base is ahead of self-play at large k"),
            ("selfplay", "rlvr", large, 1, "self-play keeps more of the base's reach than RLVR"),
        ]
        for name, against, k, side, text in asked:
            part = of[(of["split"] == split) & (of["name"] == name) & (of["against"] == against) & (of["k"] == k)]
            if len(part) and not (k == 1 and side < 0):
                found.append(judge_rows(text, f"pass@{k}, {name} minus {against}, {split} programs", part, side, WITHIN))
    return found


def _best_control(table: pd.DataFrame, split: str) -> str | None:
    """The temperature at which the base does best in one try: chosen by its result, which favours the control."""
    part = table[(table["split"] == split) & (table["kind"] == "pass@k") & (table["k"] == 1)]
    part = part[part["name"].str.startswith("base") & (part["name"] != BASE)]
    return str(part.loc[part["value"].idxmax(), "name"]) if len(part) else None


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
