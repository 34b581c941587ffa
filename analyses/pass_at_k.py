"""Can the tuned models solve more than the base, in k tries?

The paper: self-play is ahead of its base at small k, the base matches or exceeds it at large k, so training sharpens and adds no ability.

Drawn: pass@k of base, SFT, RLVR and self-play on held-out programs - of forms seen in pre-training, unseen, and deeper (ood) - with the
untouched base at lower temperatures as the control, and below it the paired difference from the base at T=1. Bands are bootstrap intervals
over problems, those of all seeds together; they do not cover the variation between seeds.

    python -m analyses.pass_at_k runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question
from analyses.question import Verdict
from analyses.runs import Run, plain
from dynamics import InputError, passk
from dynamics.plots import methods, style

TITLE = "pass@k on held-out programs"
CLAIM = "self-play is ahead of its base at small k; the base matches or exceeds it at large k"
BASE = "base, T=1"
OVER = "bootstrap over problems"
SPLITS = ("seen", "unseen", "ood")


def caption(table: pd.DataFrame) -> str:
    n = int(table["k"].max())
    return (
        f"Unbiased pass@k of {n} samples a problem, {seeds(table)} seeds. Bands: 95 % bootstrap over problems, all seeds together. "
        "Below: paired difference from the base at T=1. Grey: the untouched base at lower temperatures, the control; "
        "its greedy answer is one sample."
    )


def seeds(table: pd.DataFrame) -> int:
    return int(table["seeds"].max())


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns split, kind (pass@k; difference, from the base at T=1; beyond ..., from a cooler base), name, k, value, low, high, ..."""
    chosen = plain(runs)
    parts = []
    for run in chosen:
        part = run.evals.assign(seed=run.seed)
        base = part["name"].str.startswith("base")
        parts.append(part[~base])
        parts += [found for _, found in part[base].groupby("name")]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise InputError("none of the runs has evals/: pass@k needs graded samples of the base and of the trained model")
    kept: dict[tuple[str, int], pd.DataFrame] = {}
    for part in parts:  # every run asks the base; once a seed is enough
        kept.setdefault((str(part["name"].iloc[0]), int(part["seed"].iloc[0])), part)
    every = pd.concat(kept.values())
    splits = [split for split in SPLITS if (every["split"] == split).any()] or list(every["split"].unique())
    rows: list[dict[str, Any]] = []
    for split in splits:
        mine = every[every["split"] == split]
        curves = {str(name): passk.curve(part, name=str(name)) for name, part in mine.groupby("name", sort=False)}
        for name, found in curves.items():
            count = int(mine.loc[mine["name"] == name, "seed"].nunique())
            shared: dict[str, Any] = {"split": split, "name": name, "seeds": count}
            rows += [
                shared
                | {"kind": "pass@k", "k": int(one["k"]), "value": one["pass_at_k"]}
                | {key: one[key] for key in ("low", "high", "problems")}
                for one in found.points.to_dict("records")
            ]
            if name != BASE and BASE in curves:
                apart = passk.compare(curves[BASE], found, [int(k) for k in found.points["k"]])
                rows += [
                    shared
                    | {"kind": "difference", "k": int(one["k"]), "value": one["difference"]}
                    | {key: one[key] for key in ("low", "high", "problems")}
                    for one in apart.points.to_dict("records")
                ]
        control = next((name for name in curves if name.startswith(BASE.partition("=")[0] + "=") and name != BASE), None)
        for name in [name for name in curves if control and not name.startswith("base")]:
            apart = passk.compare(curves[str(control)], curves[name], [1])
            one = apart.points.to_dict("records")[0]
            count = int(mine.loc[mine["name"] == name, "seed"].nunique())
            shared = {"split": split, "name": name, "seeds": count, "kind": f"beyond {control}", "k": 1, "value": one["difference"]}
            rows.append(shared | {key: one[key] for key in ("low", "high", "problems")})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, ax: Axes, split: str = "seen", kind: str = "pass@k") -> Axes:
    """One split; ``kind`` pass@k or difference."""
    mine = table[(table["split"] == split) & (table["kind"] == kind)]
    controls = [name for name in mine["name"].unique() if name.startswith("base") and name != BASE]
    for place, name in enumerate(controls):
        look = {"color": methods.OTHER, "linestyle": (0, (4, 2)) if place % 2 else ":", "marker": "x"}
        methods.line(mine[mine["name"] == name], "k", name, ax, **look)
    order = {BASE: 0, "sft": 1, "rlvr": 2, "selfplay": 3}
    for name in sorted((one for one in mine["name"].unique() if one not in controls), key=lambda one: order.get(one, 9)):
        methods.line(mine[mine["name"] == name], "k", name, ax)
    if kind == "difference":
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ks = sorted(mine["k"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("k")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    splits = list(dict.fromkeys(table["split"]))
    made = style.new_figure(3.1 * len(splits) + 1.0, 5.2)
    axes = made.subplots(2, len(splits), squeeze=False, height_ratios=[1.5, 1])
    names = {"seen": "seen in pre-training", "unseen": "unseen", "ood": "deeper (ood)"}
    for column, split in enumerate(splits):
        draw(table, axes[0, column], split)
        draw(table, axes[1, column], split, "difference")
        axes[0, column].set_title(names.get(split, split))
        axes[0, column].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("pass@k")
    axes[1, 0].set_ylabel("minus base, T=1")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    first = sorted(zip(labels, handles, strict=True), key=lambda pair: (pair[0] != BASE, not pair[0].startswith("base")))
    made.legend([handle for _, handle in first], [label for label, _ in first], loc="outside lower center", ncols=min(6, len(labels)))
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    splits = [split for split in SPLITS if (table["split"] == split).any()]
    for split in splits:
        mine = table[(table["split"] == split) & (table["kind"] == "difference") & (table["name"] == "selfplay")]
        if mine.empty:
            continue
        for k, side, text in (
            (1, 1, "self-play beats its base at k = 1"),
            (int(mine["k"].max()), -1, "the base overtakes self-play at large k"),
        ):
            row = mine[mine["k"] == k].iloc[0]
            what = f"pass@{k}, self-play minus base, {split} programs"
            found.append(Verdict(text, what, row["value"], row["low"], row["high"], int(row["seeds"]), OVER, side))
        cooler = table[(table["split"] == split) & table["kind"].str.startswith("beyond") & (table["name"] == "selfplay")]
        for row in cooler.to_dict("records"):
            what = f"pass@1, self-play minus {row['kind'].removeprefix('beyond ')}, {split} programs"
            found.append(
                Verdict(
                    "and by more than a lower temperature does", what, row["value"], row["low"], row["high"], int(row["seeds"]), OVER, 1
                )
            )
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
