"""Judge the primary claims from runs of SFT, RLVR, self-play and its variants on the laboratory, each seed with its own base.

Question: which findings of the paper hold where methods are matched, and how do answers and proposals change on the way?

The claims (``CLAIMS``) are the paper's, with the controls that it does not have, and are data: ``data/primary_claims.json`` has them as
they were fixed, and nothing is judged if they differ. ``--fix`` writes them beside other runs, before these are made. Runs need
``--task lab --model lab``, evaluations at temperatures 1 and 0 (the default of this model), ``--validate-every N`` for what happens during
training, and ``--curriculum-samples`` for self-play.

The figure shows what each method gains over its base, asked in the same manner, on the three test sets; the length of answers
and the share of true steps on validation problems over training; and the share of the proposals of each quarter that the base solves.
Intervals are over seeds and programs together, each for itself; the verdicts of the table hold together (Holm).

    python -m analyses.laboratory runs/lab --fix               # before the runs
    python -m analyses.laboratory runs/lab --out figures       # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import statistics, studies
from analyses.claims import Claim, Conjunct, Family, Graded, Scores
from analyses.runs import Run, default_optimizer, first_and_last_fifth
from analyses.studies import CURVES, MANNERS, PROMPTS, PROPOSALS, VALIDATION, WEIGHTS, Numbers, Recorded, Study, drawn, point
from analyses.update_sparsity import final_sparsity
from dynamics import InputError
from dynamics.descriptions import plural
from dynamics.presentation import methods, style, ticks
from dynamics.train.lab.problems import TEST_SETS

GREEDY = "base, greedy"
#: pass@k at the largest k for which all evaluations have samples
REACH = "pass@16"
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
    """Make the table of what is drawn: ``CURVES``.

    Panels: a test set (gain over the base asked in the same manner; ``at`` is the temperature), the keys of ``OVER_TRAINING``, and
    proposals (by quarter).
    """
    return pd.DataFrame([*_gains(pilots), *_over_training(pilots), *_curriculum(pilots)], columns=list(CURVES))


def _gains(pilots: Compared) -> Iterator[dict[str, Any]]:
    samples = pilots.evaluated.samples
    for name in samples.loc[~samples["name"].str.startswith("base, "), "name"].unique():
        label, _, manner = str(name).rpartition(", ")
        for problems in TEST_SETS:
            at = MANNERS.get(manner)
            if at is not None:
                yield from point(pilots, Conjunct("pass@1", str(name), f"base, {manner}", problems, 1), label, at)


def _over_training(pilots: Compared) -> Iterator[dict[str, Any]]:
    """Yield the means on validation problems at each step, with intervals for new seeds and programs."""
    samples = pilots.recorded.validated.samples
    names = samples["name"].str.extract(r"^(?P<label>.+), step (?P<step>\d+), T=1$").dropna().drop_duplicates()
    for label, step in sorted((str(label), int(step)) for label, step in names.to_numpy()):
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
        f"{seeds}. Top left: pass@1 minus that of the base on sets of new programs; filled: both answer "
        "greedily, hollow: both at temperature 1. Answers and steps: validation problems at temperature 1. Proposals: the share that the "
        "base solves, of the valid proposals of "
        "each quarter. Bars and bands: 95 % over seeds and programs together, for each point alone; bands are cut at 0 and at 1."
    )


STUDY = Study("laboratory", __doc__, CLAIMS, read, curves, figure, caption, fixed=FIXED)


if __name__ == "__main__":
    sys.exit(STUDY.main())
