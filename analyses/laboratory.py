"""Judge the claims about the laboratory from runs of SFT, RLVR and self-play, each seed with its own base.

Question: does training add anything on new programs that greedy decoding of the base has not, does it transfer, and how do answers and
proposals change on the way?

The claims (``CLAIMS``) are data. ``--fix`` writes them beside the runs, before these are made; later they are compared with what is judged.
Runs need ``--task lab --model lab``, evaluations at temperatures 1 and 0 (the default of this model), ``--validate-every N`` for what
happens during training, and ``--curriculum`` for self-play.

The figure shows what each method gains over its base, asked in the same manner, on the three test sets; the length of answers
and the share of true steps on validation problems over training; and the share of the proposals of each quarter that the base solves.
Intervals are over seeds and programs together, each for itself; the verdicts of the table hold together (Holm).

    python -m analyses.laboratory runs/lab --fix               # before the runs
    python -m analyses.laboratory runs/lab --out figures       # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import statistics
from analyses.claims import Claim, Conjunct, Family
from analyses.studies import CURVES, FIRST, LAST, MANNERS, PROPOSALS, VALIDATION, Recorded, Study, drawn, point, read
from dynamics import InputError
from dynamics.descriptions import plural
from dynamics.presentation import methods, style, ticks
from dynamics.train.lab.problems import TEST_SETS

GREEDY = "base, greedy"
#: margin of "the same", in points of pass@1
MARGIN = 0.05
CLAIMS = Family(
    (
        Claim("RLVR beats its greedy base on unseen programs", (Conjunct("pass@1", "rlvr, greedy", GREEDY, "test", 1),)),
        Claim("self-play beats its greedy base on unseen programs", (Conjunct("pass@1", "selfplay, greedy", GREEDY, "test", 1),)),
        Claim("RLVR's gain transfers", (Conjunct("pass@1", "rlvr, greedy", GREEDY, "transfer", 1),)),
        Claim("self-play's gain transfers", (Conjunct("pass@1", "selfplay, greedy", GREEDY, "transfer", 1),)),
        Claim("they transfer alike", (Conjunct("pass@1", "selfplay, greedy", "rlvr, greedy", "transfer", 0, MARGIN),)),
        Claim("RLVR's answers grow longer", (Conjunct("length", "rlvr, last step, T=1", "rlvr, step 0, T=1", VALIDATION, 1),)),
        Claim("RLVR's steps become truer", (Conjunct("true/written", "rlvr, last step, T=1", "rlvr, step 0, T=1", VALIDATION, 1),)),
        Claim("self-play's proposals grow harder", (Conjunct("solve_rate", f"selfplay, {LAST}", f"selfplay, {FIRST}", PROPOSALS, -1),)),
    )
)
#: what is drawn over training -> title
OVER_TRAINING = {"length": "tokens of an answer", "true/written": "share of true steps"}


def curves(pilots: Recorded) -> pd.DataFrame:
    """Make the table of what is drawn: ``CURVES``.

    Panels: a test set (gain over the base asked in the same manner; ``at`` is the temperature), the keys of ``OVER_TRAINING``, and
    proposals (by quarter).
    """
    return pd.DataFrame([*_gains(pilots), *_over_training(pilots), *_curriculum(pilots)], columns=list(CURVES))


def _gains(pilots: Recorded) -> Iterator[dict[str, Any]]:
    samples = pilots.evaluated.samples
    for name in samples.loc[~samples["name"].str.startswith("base, "), "name"].unique():
        label, _, manner = str(name).rpartition(", ")
        for problems in TEST_SETS:
            at = MANNERS.get(manner)
            if at is not None:
                yield from point(pilots, Conjunct("pass@1", str(name), f"base, {manner}", problems, 1), label, at)


def _over_training(pilots: Recorded) -> Iterator[dict[str, Any]]:
    """Yield the means on validation problems at each step, with intervals for new seeds and programs."""
    samples = pilots.validated.samples
    names = samples["name"].str.extract(r"^(?P<label>.+), step (?P<step>\d+), T=1$").dropna().drop_duplicates()
    for label, step in sorted((str(label), int(step)) for label, step in names.to_numpy()):
        for measured in OVER_TRAINING:
            try:
                scores = pilots.scores(measured, f"{label}, step {step}, T=1", VALIDATION)
            except InputError:
                continue
            if np.isfinite(scores.values).all():
                yield drawn(measured, label, step, statistics.effect(scores.values, scores.programs, False), scores)


def _curriculum(pilots: Recorded) -> Iterator[dict[str, Any]]:
    for _, own in pilots.proposals.groupby(["label", "quarter"], sort=False):
        scores = pilots.scores("solve_rate", str(own["name"].iloc[0]), PROPOSALS)
        yield drawn(
            PROPOSALS, str(own["label"].iloc[0]), float(own["quarter"].iloc[0]), statistics.effect_of_seeds(scores.values[:, 0]), scores
        )


def draw(table: pd.DataFrame, ax: Axes, panel: str) -> Axes:
    """Draw what changes over training: a key of ``OVER_TRAINING``, or the proposals."""
    rows = table[table["panel"] == panel]
    for label in dict.fromkeys(rows["label"]):
        methods.line(rows[rows["label"] == label], "at", label, ax)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0.0), high if panel == "length" else min(high, 1.0))  # Student's interval does not know these bounds
    ticks.plain(ax.yaxis, 4)
    if panel == PROPOSALS:
        ax.set(title="proposals that the base solves", xlabel="quarter of training")
        ax.set_xticks([1, 2, 3, 4])
    else:
        ax.set(title=OVER_TRAINING[panel], xlabel="step")
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
    ax.set(title="pass@1 minus the base", xlabel="points")
    ticks.plain(ax.xaxis, 4, least=2)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 4.6)
    axes = drawing.subplots(2, 2)
    gains(table, axes[0, 0])
    for ax, panel in zip((axes[0, 1], axes[1, 0], axes[1, 1]), (*OVER_TRAINING, PROPOSALS), strict=True):
        draw(table, ax, panel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, len(labels))), fontsize=8)
    return drawing


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    seeds = plural(int(table["seeds"].max()), "seed") if len(table) else "no seeds"
    return (
        f"{seeds}, each with its own base. Top left: pass@1 minus that of the base on sets of new programs; filled: both answer "
        "greedily, hollow: both at temperature 1. Answers and steps: validation problems at temperature 1. Proposals: the share that the "
        "base solves, of the valid proposals of "
        "each quarter. Bars and bands: 95 % over seeds and programs together, for each point alone; bands are cut at 0 and at 1."
    )


STUDY = Study("laboratory", __doc__, CLAIMS, read, curves, figure, caption)


if __name__ == "__main__":
    sys.exit(STUDY.main())
