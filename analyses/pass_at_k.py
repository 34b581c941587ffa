"""Compare pass@k of the tuned models with that of their base.

Question: do the tuned models solve more problems than the base within k samples?

The paper: self-play is ahead of its base at small k, and the base matches or exceeds it at large k. So training sharpens the distribution
and adds no ability. Self-play keeps more of the base's coverage than RLVR does.

The figure shows pass@k of base, SFT, RLVR and self-play on the sets of held-out problems, and below it the paired difference from the
base at T=1. The controls are the base at lower temperatures and greedily; hollow marks compare greedy decoding of both models. A ring marks
where a curve crosses the base (k*), if its lead at k = 1 can be told. If all seeds were asked the same problems, bands and bars are 95 %
intervals over seeds and programs together, as in ``analyses.claims``; with one seed they are bootstrap intervals over problems, which say
nothing of other seeds; otherwise the hull of that and of Student's interval over seeds.

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

from analyses import analysis, statistics
from analyses.claims import solved
from analyses.runs import Run, default_settings
from analyses.verdicts import Verdict, check_claim_on_rows, over_seeds
from dynamics import InputError, passk
from dynamics.presentation import methods, style, ticks

TITLE = "pass@k on held-out programs"
CLAIM = "self-play is ahead of its base at small k; the base matches or exceeds it at large k"
BASE = "base, T=1"
#: the control of gains at k = 1, fixed in advance: a lower temperature gains too, and the best of several would be chosen by its result
CONTROL = "base, greedy"
SPLITS = ("seen", "unseen", "ood", "test", "deeper", "transfer")
NAMES = {"seen": "seen in pre-training", "unseen": "unseen", "ood": "deeper (ood)"}
NAMES |= {"test": "unseen programs", "deeper": "deeper programs", "transfer": "another notation"}
#: names in titles
WORDS = {"selfplay": "Self-play", "rlvr": "RLVR", "sft": "SFT"}
#: how the trained model is decoded greedily, in its name
GREEDILY = ", greedy"
#: order of the methods in the figure; others come last
ORDER = {BASE: 0, "sft": 1, "rlvr": 2, "selfplay": 3}
#: kinds of the interval for all seeds together
WITHIN, CROSSED = "bootstrap over problems", "over seeds and programs together"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    crossings = _crossings(table)
    listed = [f"{row['name']} on {row['split']} problems at k* = {_k(row['value'])}" for row in crossings.to_dict("records")]
    curves = table[table["kind"] == "pass@k"]
    kinds = " or ".join(sorted(set(curves["interval"])))
    return (
        f"Unbiased pass@k from {int(table['k'].max())} samples per problem at temperature 1; up to {int(table['problems'].max())} problems "
        f"per set and seed, {int(table['seeds'].max())} seeds. Bands: 95 %, {kinds}. Below: paired difference from the base at T=1; "
        "hollow: both models greedily, against the greedy base. Grey: the control, the base at lower temperatures; greedy decoding gives a "
        f"single sample. Rings: where a curve whose lead at k = 1 is told crosses the base: {'; '.join(listed) if listed else 'none'}."
    )


def told(value: float, low: float, high: float, unit: str = "", digits: int = 2) -> str:
    """Say whether a difference is told from 0 by its interval: ``ahead by 0.05``, ``behind by 0.05`` or ``not told apart``."""
    if np.isfinite([low, high]).all() and low * high > 0:
        return f"{'ahead' if value > 0 else 'behind'} by {abs(value):.{digits}f}{unit}"
    return "not told apart"


def headline(table: pd.DataFrame) -> str:
    """Say what the figure shows of self-play, or of the first method that there is, on the first set of new problems."""
    found = table[table["kind"] == "difference"]
    tuned = [name for name in ("selfplay", "rlvr", "sft") if name in set(found["name"])] or [name for name in found["name"] if name != BASE]
    splits = [split for split in ("test", "unseen") if split in set(found["split"])] or list(found["split"])
    if not tuned or not splits:
        return "pass@k on held-out problems"
    own = found[(found["name"] == tuned[0]) & (found["split"] == splits[0])].sort_values("k")
    parts = [f"{told(row['value'], row['low'], row['high'])} at k = {int(row['k'])}" for row in own.iloc[[0, -1]].to_dict("records")]
    return f"{WORDS.get(tuned[0], tuned[0])} against its base on {NAMES.get(splits[0], splits[0])}: {' and '.join(dict.fromkeys(parts))}"


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
    """Make a table of columns split, kind, name, against, seed, k, value, low, high, problems, seeds, interval.

    Kinds: pass@k; difference (from the base at T=1, all seeds together; of greedy decoding, from the greedy base); crossing (``k`` is the
    largest measured, ``value`` is k*); against (difference from the base at one temperature, or from RLVR, at the smallest and the largest
    k; ``seed`` is NaN in the rows for all seeds together). ``problems`` are those of a seed, ``interval`` is its kind.
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
        shared: dict[str, Any] = {"split": split, "name": name}
        if name not in temperatures and name.endswith(GREEDILY):
            if CONTROL in temperatures:
                yield from (shared | {"kind": "difference", "against": CONTROL} | point for point in points(samples, name, CONTROL))
                yield from _against(samples, shared | {"kind": "against", "against": CONTROL}, [1])
            continue
        curve = list(points(samples, name))
        yield from (shared | {"kind": "pass@k"} | point for point in curve)
        ks = [int(point["k"]) for point in curve]
        if name == BASE or BASE not in temperatures:
            continue
        yield from (shared | {"kind": "difference", "against": BASE} | point for point in points(samples, name, BASE))
        if name in temperatures:
            continue
        compared = paired_difference(samples, BASE, name, ks)
        if compared is not None and compared.crossing is not None:
            at = np.nan if compared.crossing.k is None else compared.crossing.k
            yield shared | {"kind": "crossing", "against": BASE, "k": compared.crossing.largest, "value": at}
        for reference in (BASE, *(control for control in temperatures if control != BASE), *(("rlvr",) if name == "selfplay" else ())):
            own = [1] if temperatures.get(reference) == 0 else sorted({1, max(ks)})
            yield from _against(samples, shared | {"kind": "against", "against": reference}, own)


def _against(samples: pd.DataFrame, shared: dict[str, Any], ks: list[int]) -> Iterator[dict[str, Any]]:
    """Make the rows of one difference: for all seeds together, and for each seed."""
    name, reference = shared["name"], shared["against"]
    yield from (shared | point for point in points(samples, name, reference) if point["k"] in ks)
    for seed, own in samples.groupby("seed"):
        if {reference, name} <= set(own["name"]):
            yield from (shared | {"seed": seed, "k": k, "value": mean_difference(own, reference, name, k)} for k in ks)


def points(samples: pd.DataFrame, name: str, reference: str = "") -> Iterator[dict[str, Any]]:
    """Yield pass@k of a model, or its paired difference from another one, with its interval at each k that both have samples for.

    Parameters
    ----------
    samples : graded samples of one split or task: name, seed, problem, asked, program, correct.
    name : the model.
    reference : the other model; empty for none.

    Yields
    ------
    k, value, low, high, problems, seeds, interval.
    """
    sides = [side for side in (name, reference) if side]
    own = samples[samples["name"].isin(sides)]
    seeds = sorted(set.intersection(*(set(own.loc[own["name"] == side, "seed"]) for side in sides)))
    own = own[own["seed"].isin(seeds)]
    if not seeds:
        return
    if len(seeds) > 1 and (crossed := _crossed(own, sides)) is not None:
        yield from crossed
        return
    whole = passk.curve(own, name=name).points.rename(columns={"pass_at_k": "value"})
    if reference:
        compared = paired_difference(own, reference, name)
        whole = compared.points.rename(columns={"difference": "value"}) if compared is not None else whole.iloc[:0]
    for row in whole.dropna(subset="value").to_dict("records"):
        k, low, high = int(row["k"]), row["low"], row["high"]
        if len(seeds) > 1:
            values = [
                _mean(own[own["seed"] == seed], name, k) - (_mean(own[own["seed"] == seed], reference, k) if reference else 0)
                for seed in seeds
            ]
            _, first, last = over_seeds(values)
            low, high = float(np.fmin(low, first)), float(np.fmax(high, last))
        kind = WITHIN if len(seeds) == 1 else f"hull of {WITHIN} and t over seeds"
        yield {"k": k, "value": row["value"], "low": low, "high": high, "problems": row["problems"], "seeds": len(seeds), "interval": kind}


def _mean(samples: pd.DataFrame, name: str, k: int) -> float:
    """Average pass@k of a model over its problems."""
    counts = samples[samples["name"] == name].groupby("problem")["correct"].agg(["size", "sum"])
    return float(passk.pass_at_k(counts["size"].to_numpy(), counts["sum"].to_numpy(), k).mean())


def _crossed(samples: pd.DataFrame, sides: Sequence[str]) -> list[dict[str, Any]] | None:
    """Estimate over seeds and programs together; None if seeds were not asked the same problems, or a problem names no program."""
    if samples["program"].isna().any():
        return None
    counts = samples.groupby(["name", "seed", "asked"])["correct"].agg(["size", "sum"]).unstack("asked")
    if counts.isna().to_numpy().any():
        return None
    problems = counts["size"].columns
    programs = pd.factorize(samples.drop_duplicates("asked").set_index("asked")["program"].reindex(problems))[0]
    most, rows = int(counts["size"].to_numpy().min()), []
    for k in (2**power for power in range(most.bit_length())):
        values = [solved(f"pass@{k}", *(counts[part].loc[side].to_numpy(int) for part in ("size", "sum"))) for side in sides]
        found = statistics.effect(values[0] - values[1] if len(sides) > 1 else values[0], programs)
        low, high = found.interval()
        about = {"problems": len(problems), "seeds": found.seeds, "interval": CROSSED}
        rows.append({"k": k, "value": float(found.value), "low": float(low), "high": float(high)} | about)
    return rows


def _crossings(table: pd.DataFrame) -> pd.DataFrame:
    """Select the crossings of curves whose lead at k = 1 is told."""
    lead = table[(table["kind"] == "difference") & (table["k"] == 1) & (table["low"] > 0)]
    known = table[(table["kind"] == "crossing") & np.isfinite(table["value"])]
    keys = set(zip(lead["split"], lead["name"], strict=True))
    return known[np.array([key in keys for key in zip(known["split"], known["name"], strict=True)], bool)]


def _temperature_controls(table: pd.DataFrame, split: str) -> list[str]:
    """Name the controls of a split: the base at other temperatures. Only tuned models have rows against them."""
    against = table[(table["split"] == split) & (table["kind"] == "against")]
    return [str(name) for name in against["against"].unique() if name != BASE and name not in set(against["name"])]


def draw(table: pd.DataFrame, ax: Axes, split: str = "seen", kind: str = "pass@k") -> Axes:
    """Draw one split; ``kind`` is pass@k or difference."""
    shown = table[(table["split"] == split) & (table["kind"] == kind)]
    names = [name for name in shown["name"].unique() if not _is_tuned_greedily(table, name)]
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
        _greedily(shown, ax)
        crossings = _crossings(table)
        for row in crossings[crossings["split"] == split].to_dict("records"):
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


def _is_tuned_greedily(table: pd.DataFrame, name: str) -> bool:
    return name != CONTROL and name.endswith(GREEDILY) and not ((table["name"] == name) & (table["kind"] == "pass@k")).any()


def _greedily(shown: pd.DataFrame, ax: Axes) -> None:
    """Draw the differences of greedy decoding beside k = 1, hollow."""
    rows = shown[(shown["against"] == CONTROL) & (shown["name"] != CONTROL)]
    for number, row in enumerate(
        sorted(rows.to_dict("records"), key=lambda row: ORDER.get(row["name"].removesuffix(GREEDILY), len(ORDER)))
    ):
        marker = methods.marker_style(row["name"]) | {"markerfacecolor": "white", "markersize": 4.5}
        errors = [[row["value"] - row["low"]], [row["high"] - row["value"]]] if np.isfinite(row["low"]) else None
        ax.errorbar([0.72 - 0.09 * (number % 3)], [row["value"]], yerr=errors, elinewidth=1.1, zorder=4, **marker)


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    splits = list(dict.fromkeys(table["split"]))
    drawing = style.new_figure(max(style.ONE_COLUMN, style.TWO_COLUMN * min(1.0, len(splits) / 3)), 4.6)
    axes = drawing.subplots(2, len(splits), squeeze=False, height_ratios=[1.4, 1], sharex="col", sharey="row")
    for column, split in enumerate(splits):
        draw(table, axes[0, column], split)
        draw(table, axes[1, column], split, "difference")
        axes[0, column].set_title(NAMES.get(split, split))
        axes[0, column].set_xlabel("")
    axes[0, 0].set_ylim(bottom=0)  # of all: they share their scale
    axes[0, 0].set_ylabel("pass@k")
    axes[1, 0].set_ylabel("minus base, T=1")
    ticks.plain(axes[1, 0].yaxis, 5, signed=True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if any(_is_tuned_greedily(table, name) for name in table["name"].unique()):
        handles = [*handles, Line2D([], [], linestyle="none", marker="o", markersize=5, markerfacecolor="white", color=methods.OTHER)]
        labels = [*labels, "both greedy"]
    if len(_crossings(table)):
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
            (f"selfplay{GREEDILY}", CONTROL, 1, 1, "control: self-play beats its base, both greedily"),
            ("rlvr", BASE, 1, 1, "RLVR beats its base at k = 1"),
            ("rlvr", CONTROL, 1, 1, "control: RLVR gains more than greedy decoding of its base"),
            (f"rlvr{GREEDILY}", CONTROL, 1, 1, "control: RLVR beats its base, both greedily"),
            ("selfplay", BASE, large, -1, "the base is ahead of self-play at large k"),
            ("selfplay", "rlvr", large, 1, "self-play keeps more of the base's coverage than RLVR"),
        ]
        for name, reference, k, expected, finding in claims:
            rows = against[
                (against["split"] == split) & (against["name"] == name) & (against["against"] == reference) & (against["k"] == k)
            ]
            if len(rows) and not (k == 1 and expected < 0):
                measured = f"pass@{k}, {name} minus {reference}, {split} programs"
                kind = str(rows["interval"].dropna().iloc[0]) if "interval" in rows else WITHIN
                checked.append(check_claim_on_rows(finding, measured, rows, expected, kind))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
