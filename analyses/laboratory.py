"""Judge the primary claims from runs of SFT, RLVR, self-play and its variants on the laboratory, each seed with its own base.

Question: which findings of the paper hold where methods are matched, and how do answers and proposals change on the way?

The claims (``CLAIMS``) are the paper's, with the controls that it does not have, and are data: ``data/primary_claims.json`` has them as
they were fixed, and nothing is judged if they differ. ``--fix`` writes them beside other runs, before these are made. Runs need
``--task lab --model lab``, evaluations at temperatures 1 and 0 (the default of this model), ``--validate-every N`` for what happens during
training, and ``--curriculum-samples`` for self-play.

The figure shows every row of the claims, turned so that the right side is as claimed, in units of half its own interval; what each method
gains over its base, asked in the same manner, on the three test sets; the length of answers and the share of true steps on validation
problems over training; and the share of the proposals of each quarter that the base solves. Intervals are over seeds and programs
together, each for itself; the verdicts hold together (Holm).

    python -m analyses.laboratory runs/lab --fix               # before the runs
    python -m analyses.laboratory runs/lab --out figures       # seconds
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses import claims, statistics, studies
from analyses.claims import Claim, Conjunct, Family, Graded, Scores
from analyses.curriculum import SHOWN
from analyses.presets import METHODS
from analyses.runs import Run, default_optimizer, first_and_last_fifth
from analyses.studies import CURVES, MANNERS, PROMPTS, PROPOSALS, VALIDATION, WEIGHTS, Numbers, Recorded, Study, drawn, point
from analyses.update_sparsity import final_sparsity
from analyses.verdicts import FAILS, HOLDS, OPEN
from dynamics import InputError
from dynamics.descriptions import plural
from dynamics.presentation import methods, style, ticks
from dynamics.train.lab.problems import TEST_SETS

GREEDY = "base, greedy"
#: pass@k at the largest k for which all evaluations have samples
REACH = "pass@16"
#: effects are drawn up to this many half-widths of their intervals
FAR = 2.6
#: margin of "the same", in nats per token
NATS = 0.05
#: the claims as they were fixed
FIXED = Path(__file__).parent / "data" / "primary_claims.json"
FROZEN, TRIANGULAR = "selfplay, frozen proposer", "selfplay, triangular reward"
CLAIMS = Family(
    (
        Claim("self-play beats its base", (Conjunct("pass@1", "selfplay, T=1", "base, T=1", "test", 1),)),
        Claim("self-play beats its base's greedy decoding", (Conjunct("pass@1", "selfplay, greedy", GREEDY, "test", 1),)),
        Claim("the base is ahead at large k", (Conjunct(REACH, "selfplay, T=1", "base, T=1", "test", -1),)),
        Claim("self-play keeps more reach than RLVR", (Conjunct(REACH, "selfplay, T=1", "rlvr, T=1", "test", 1),)),
        Claim("self-play is between SFT and RLVR in sparsity", (Conjunct("sparsity", "selfplay", "sft", WEIGHTS, 1, other="rlvr"),)),
        Claim(
            "both roles lose entropy, the proposer less",
            (
                Conjunct("entropy", "selfplay, proposer, end", "selfplay, proposer, start", PROMPTS, -1),
                Conjunct("entropy lost", "selfplay, solver", "selfplay, proposer", PROMPTS, 1),
            ),
        ),
        Claim(
            "a frozen proposer keeps entropy and loses curriculum and accuracy",
            (
                Conjunct("entropy", f"{FROZEN}, solver, end", "selfplay, solver, end", PROMPTS, 1),
                Conjunct("hardening", FROZEN, "selfplay", PROPOSALS, -1),
                Conjunct("pass@1", f"{FROZEN}, T=1", "selfplay, T=1", "test", -1),
            ),
        ),
        Claim(
            "the reward for p = 1/2 costs accuracy and leaves entropy",
            (
                Conjunct("pass@1", f"{TRIANGULAR}, T=1", "selfplay, T=1", "test", -1),
                Conjunct("entropy", f"{TRIANGULAR}, solver, end", "selfplay, solver, end", PROMPTS, 0, NATS),
            ),
        ),
    )
)
#: what is drawn over training -> title
OVER_TRAINING = {"length": "tokens of an answer", "true/written": "share of true steps"}
#: columns of the table of curves; the last ones are of the rows of claims
COLUMNS = (*CURVES, "measured", "contrast", "verdict", "margin")
#: how a decided row is drawn: filled
MARKS = {HOLDS: "#009E73", FAILS: "#D55E00", OPEN: "#8a8a8a"}
CLAIMED = "claims"


@dataclass(frozen=True)
class Compared:
    """What the runs of the study recorded.

    Attributes
    ----------
    recorded : graded samples and proposals.
    numbers : sparsity of each update, entropy of each role on fixed prompts, and how much harder proposals grew.
    """

    recorded: Recorded
    numbers: Numbers

    @property
    def evaluated(self) -> Graded:
        """Graded samples of evaluations."""
        return self.recorded.evaluated

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model; see ``claims.Source``."""
        source = self.numbers if problems in (PROMPTS, WEIGHTS) or measured == "hardening" else self.recorded
        return source.scores(measured, name, problems)


def read(runs: Sequence[Run]) -> Compared:
    """Read what the claims are about from runs.

    Sparsity is by the rule ``bf16``, of the weights as they were stored. Entropy is that of ``probe/ROLE``: before the first update
    (``start``), and the mean over the last fifth of the probes (``end``), in nats per token. ``hardening`` is the solve rate of the base on
    proposals of the first quarter of training minus that on those of the last. Runs with another learning rate or dtype than the usual ones
    are left out.
    """
    runs = default_optimizer(runs)
    recorded, numbers = studies.read(runs), Numbers()
    for run in runs:
        if run.has_weights or (run.path / "metrics.jsonl").exists():
            weights = int(run.document.get("parameters") or 1)
            numbers.add(("sparsity", run.label, WEIGHTS), run.seed, final_sparsity(run)[0]["bf16"], weights)
        if (run.path / "metrics.jsonl").exists():
            _entropies(run, numbers)
    quarters = recorded.proposals.dropna(subset="solve_rate").groupby(["label", "seed", "quarter"])["solve_rate"].agg(["mean", "size"])
    for (label, seed), own in quarters.groupby(["label", "seed"]):
        means, sizes = (own[column].droplevel(["label", "seed"]) for column in ("mean", "size"))
        if {1, 4} <= set(means.index):
            numbers.add(("hardening", str(label), PROPOSALS), int(seed), float(means[1] - means[4]), int(min(sizes[1], sizes[4])))
    return Compared(recorded, numbers)


def _entropies(run: Run, numbers: Numbers) -> None:
    """Add the entropy of each role on fixed prompts, and what it lost."""
    for role in ("solver", "proposer"):
        metric = f"probe/{role}/entropy"
        if metric in run.metrics and len(values := run.metrics[metric].dropna()) > 1:
            start, end = float(values.iloc[0]), first_and_last_fifth(run.metrics, metric)[1]
            for name, measured, value in (("start", "entropy", start), ("end", "entropy", end), ("", "entropy lost", start - end)):
                model = ", ".join(part for part in (run.label, role, name) if part)
                numbers.add((measured, model, PROMPTS), run.seed, value, len(values))


def curves(pilots: Compared) -> pd.DataFrame:
    """Make the table of what is drawn: ``COLUMNS``.

    Panels: claims (a row each, ``at`` is its number; effect and interval are those of ``claims.table``, with the sign of the claim); a
    test set (gain of a method over the base asked in the same manner; ``at`` is the temperature), the keys of ``OVER_TRAINING``, and
    proposals (by quarter) of self-play and its variants.
    """
    rows = [*_rows(pilots), *_gains(pilots), *_over_training(pilots), *_curriculum(pilots)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(pilots: Compared) -> Iterator[dict[str, Any]]:
    """Yield the rows of the claims that were measured."""
    for number, row in enumerate(claims.table(claims.judge(CLAIMS, pilots)).to_dict("records")):
        about = {"panel": CLAIMED, "label": row["claim"], "at": number, "measured": row["measured"], "contrast": row["contrast"]}
        about |= {"verdict": row["verdict"], "margin": row["margin"], "seeds": row["seeds"], "programs": row["programs"]}
        if row["verdict"] == claims.NOT_MEASURED:
            continue
        sign = row["direction"] or 1
        low, high = sorted([sign * row["low"], sign * row["high"]])
        yield about | {"value": sign * row["effect"], "low": low, "high": high}


def _gains(pilots: Compared) -> Iterator[dict[str, Any]]:
    samples = pilots.evaluated.samples
    for name in samples.loc[~samples["name"].str.startswith("base, "), "name"].unique():
        label, _, manner = str(name).rpartition(", ")
        if label not in METHODS:
            continue
        for problems in TEST_SETS:
            at = MANNERS.get(manner)
            if at is not None:
                yield from point(pilots, Conjunct("pass@1", str(name), f"base, {manner}", problems, 1), label, at)


def _over_training(pilots: Compared) -> Iterator[dict[str, Any]]:
    """Yield the means on validation problems at each step, with intervals for new seeds and programs."""
    samples = pilots.recorded.validated.samples
    names = samples["name"].str.extract(r"^(?P<label>.+), step (?P<step>\d+), T=1$").dropna().drop_duplicates()
    for label, step in sorted((str(label), int(step)) for label, step in names.to_numpy() if label in METHODS):
        for measured in OVER_TRAINING:
            try:
                scores = pilots.scores(measured, f"{label}, step {step}, T=1", VALIDATION)
            except InputError:
                continue
            if np.isfinite(scores.values).all():
                yield drawn(measured, label, step, statistics.effect(scores.values, scores.programs, False), scores)


def _curriculum(pilots: Compared) -> Iterator[dict[str, Any]]:
    for _, own in pilots.recorded.proposals.groupby(["label", "quarter"], sort=False):
        scores = pilots.scores("solve_rate", str(own["name"].iloc[0]), PROPOSALS)
        yield drawn(
            PROPOSALS, str(own["label"].iloc[0]), float(own["quarter"].iloc[0]), statistics.effect_of_seeds(scores.values[:, 0]), scores
        )


def draw(table: pd.DataFrame, ax: Axes, panel: str) -> Axes:
    """Draw what changes over training: a key of ``OVER_TRAINING``, or the proposals."""
    rows = table[table["panel"] == panel]
    for label in dict.fromkeys(rows["label"]):
        color, dashes = SHOWN.get(label, (methods.color(label), "-")) if panel == PROPOSALS else (methods.color(label), "-")
        methods.line(rows[rows["label"] == label], "at", label, ax, color=color, linestyle=dashes, markersize=3)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0.0), high if panel == "length" else min(high, 1.0))  # Student's interval does not know these bounds
    ticks.plain(ax.yaxis, 4)
    if panel == PROPOSALS:
        ax.set(title="base solves", xlabel="quarter's proposals")
        ax.set_xticks([1, 2, 3, 4])
    else:
        ax.set(title=OVER_TRAINING[panel], xlabel="step")
        ticks.whole(ax.xaxis, 3)
    return ax


def forest(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the rows of the claims: as claimed is right; each in units of half its interval, filled in a colour if it is decided."""
    rows = table[table["panel"] == CLAIMED].to_dict("records")
    names = []
    for place, row in enumerate(rows):
        half = (row["high"] - row["low"]) / 2
        known = np.isfinite(half) and half > 0
        at = row["value"] / half if known else 0.0
        color = MARKS[row["verdict"]]
        if known:
            shown = float(np.clip(at, -FAR, FAR))
            ax.plot([max(shown - 1, -FAR - 1), min(shown + 1, FAR + 1)], [place, place], color=color, linewidth=2.2, alpha=0.55)
            decided = row["verdict"] != OPEN
            marker = "o" if shown == at else "<" if at < 0 else ">"
            ax.plot([shown], [place], marker=marker, color=color, markerfacecolor=color if decided else "white", markersize=6, zorder=3)
        if known and row["margin"] > 0:
            ax.plot([-row["margin"] / half, row["margin"] / half], [place, place], color=style.FAINT, linewidth=9, alpha=0.18, zorder=0)
        interval = f" [{row['low']:+.2g}, {row['high']:+.2g}]" if known else ", no interval"
        ax.annotate(f"{row['value']:+.2g}{interval}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7)
        name = "same " if row["margin"] > 0 else ""
        names.append(textwrap.fill(f"{row['label']}: {name}{row['measured']}", 52))
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(rows)), names, fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-FAR - 1, FAR + 1)
    ax.set_xticks([-2, -1, 0, 1, 2])
    ax.grid(axis="x")
    ax.set_xlabel("against the claim     |     as claimed\nhalf-widths of the row's own interval")
    for verdict in dict.fromkeys(row["verdict"] for row in rows):
        face = MARKS[verdict] if verdict != OPEN else "white"
        ax.plot([], [], linestyle="none", marker="o", markersize=6, color=MARKS[verdict], markerfacecolor=face, label=f"row {verdict}")
    return ax


def gains(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the gain of each method over the base, by set: filled if both answer greedily, hollow if both answer at temperature 1."""
    rows = table[table["panel"].isin(TEST_SETS)]
    labels = list(dict.fromkeys(rows["label"]))
    series = [(label, at) for label in labels for at in MANNERS.values()]
    for number, (label, at) in enumerate(series):
        own = rows[(rows["label"] == label) & (rows["at"] == at)].set_index("panel").reindex(list(TEST_SETS))
        heights = np.arange(len(TEST_SETS)) + 0.8 / max(1, len(series)) * (number - (len(series) - 1) / 2)
        errors = [own["value"] - own["low"], own["high"] - own["value"]]
        marker = methods.marker_style(label) | ({"markerfacecolor": "none"} if at else {})
        ax.errorbar(own["value"], heights, xerr=errors, linestyle="none", elinewidth=1.4, label=None if at else label, **marker)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(TEST_SETS)), TEST_SETS)
    ax.set_ylim(len(TEST_SETS) - 0.5, -0.5)
    ax.set(title="pass@1 gain", xlabel="points")
    ticks.plain(ax.xaxis, 3, least=2, signed=True)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was measured only."""
    known = set(table["panel"])
    small = [panel for panel in (TEST_SETS[0], *OVER_TRAINING, PROPOSALS) if panel in known]
    rows = int((table["panel"] == CLAIMED).sum())
    heights = [0.5 + 0.29 * rows] * bool(rows) + [2.0] * bool(small)
    drawing = style.new_figure(style.TWO_COLUMN, 1.0 + sum(heights))
    parts = list(np.atleast_1d(drawing.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]))
    if rows:
        part = parts.pop(0)
        ax = forest(table, part.subplots())
        part.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=7.5)
    if not small:
        return drawing
    axes = parts[0].subplots(1, len(small), squeeze=False)[0]
    for ax, panel in zip(axes, small, strict=True):
        if panel == TEST_SETS[0]:
            gains(table, ax)
        else:
            draw(table, ax, panel)
        ax.set_title(ax.get_title(loc="left"), fontsize=9)
    entries: dict[str, Any] = {}
    for ax in axes:
        entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) | entries
    entries |= {
        "both greedy": Line2D([], [], linestyle="none", marker="o", markersize=5, color=methods.OTHER),
        "both at T=1": Line2D([], [], linestyle="none", marker="o", markersize=5, color=methods.OTHER, markerfacecolor="none"),
    }
    parts[0].legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize=7.5)
    return drawing


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    seeds = plural(int(table["seeds"].max()), "seed") if len(table) else "no seeds"
    return (
        f"{seeds}. Top: the rows of the claims with 95 % intervals (90 % for 'same', whose margin is shaded), filled if the row is decided "
        "with all others (Holm), arrowheads beyond the axis. Below: pass@1 minus that of the base on sets of new programs; filled: both "
        "answer greedily, hollow: both at temperature 1. Answers and steps: validation problems at temperature 1. Base solves: the share "
        "that the base solves of the valid proposals of each quarter. Bars and bands: 95 % over seeds and programs together, for each "
        "point alone; bands are cut at 0 and at 1."
    )


STUDY = Study("laboratory", __doc__, CLAIMS, read, curves, figure, caption, fixed=FIXED)


if __name__ == "__main__":
    sys.exit(STUDY.main())
