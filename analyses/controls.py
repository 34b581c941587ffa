"""Go from SFT to self-play and its variants one change at a time, by controls that differ in one thing.

Question: which part of the difference between SFT, RLVR and self-play is the data, which the estimator, and which the rest?

The paper compares the methods as they are, which differ in all of these at once. The figure shows, for each change, the difference that it
makes in pass@1 and in pass@16 on unseen programs, in the entropy of the solver on fixed prompts at the end, and in the share of unchanged
weights: the run with the change minus the run without it, of the same seed. What else two runs differ in by definition is in
``matching.csv``.

How it can mislead: a change can do something else where other things are changed too, so the steps need not add up for other orders. The
intervals are for each point alone, and there are many.

    python -m analyses.controls runs/comparison-full --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis, laboratory
from analyses.claims import contrast
from analyses.runs import Run
from analyses.studies import PROMPTS, WEIGHTS
from analyses.verdicts import Verdict
from dynamics import InputError
from dynamics.presentation import methods, style, ticks

TITLE = "One change at a time"
CLAIM = "no claim about this; it compares methods that differ in several things at once"


class Change(NamedTuple):
    """A change, and the labels of the runs with it and without it."""

    name: str
    changed: str
    control: str


_CORRECT, _PROPOSED = "sft, on correct samples", "rlvr, on proposed programs"
_RECORDED = "rlvr, recorded order, on proposed programs"
CHANGES = (
    Change("own correct answers, not given ones", _CORRECT, "sft"),
    Change("sampled and rewarded: RLVR", "rlvr", _CORRECT),
    Change("self-play's estimator", "rlvr, reinforce++-sequence advantage, role-task cells", "rlvr"),
    Change("on programs that self-play proposed", _PROPOSED, "rlvr"),
    Change("in the order of proposing", _RECORDED, _PROPOSED),
    Change("all else: self-play", "selfplay", _RECORDED),
    Change("frozen proposer", laboratory.FROZEN, "selfplay"),
    Change("snapshot of the base proposes", "selfplay, snapshot proposer", "selfplay"),
    Change("reward for p = 1/2", laboratory.TRIANGULAR, "selfplay"),
)


class Measured(NamedTuple):
    """What is measured of a model: its name in the figure, its unit, what is measured, what follows the label, and on which set."""

    name: str
    unit: str
    measured: str
    manner: str
    problems: str


MEASURES = (
    Measured("pass@1", "points", "pass@1", ", T=1", "test"),
    Measured(laboratory.REACH, "points", laboratory.REACH, ", T=1", "test"),
    Measured("entropy", "nats", "entropy", ", solver, end", PROMPTS),
    Measured("unchanged", "share", "sparsity", "", WEIGHTS),
)
#: columns of the table
COLUMNS = ("change", "model", "control", "measure", "value", "low", "high", "seeds", "programs")


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    seeds = int(table["seeds"].max())
    return (
        f"Each row is one change; dots: with the change minus without it, over {seeds} seeds paired by seed; bars: 95 % over seeds and "
        "programs together, for each point alone; filled where the bar leaves out 0. pass@k: unseen programs at temperature 1. Entropy: of "
        "the solver on fixed prompts, last fifth of training. Unchanged: share of the weights, by the rule bf16."
    )


def headline(table: pd.DataFrame) -> str:
    """Name the changes that are told from 0 in pass@1."""
    rows = table[(table["measure"] == "pass@1") & (table["low"] * table["high"] > 0)]
    parts = [f"{row['change']} {row['value']:+.2f}" for row in rows.to_dict("records")]
    return f"One change at a time, told from 0 in pass@1: {'; '.join(parts)}" if parts else "No single change is told from 0 in pass@1"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of the columns ``COLUMNS``: a row for each change and measure that the runs have.

    Raises
    ------
    InputError : no two runs differ in one of the changes.
    """
    labels = {run.label for run in runs}
    changes = [change for change in CHANGES if {change.changed, change.control} <= labels]
    table = pd.DataFrame(_rows(runs, changes), columns=list(COLUMNS)) if changes else pd.DataFrame()
    if not len(table):
        raise InputError(
            f"no control among {', '.join(sorted(labels))}: no two of these runs differ in just one thing that is compared here; "
            "python -m analyses comparison --preset full trains such runs"
        )
    return table


def _rows(runs: Sequence[Run], changes: Sequence[Change]) -> Iterator[dict[str, Any]]:
    compared = laboratory.read(runs)
    for change in changes:
        for name, _, measured, manner, problems in MEASURES:
            try:
                pair = [compared.scores(measured, label + manner, problems) for label in (change.changed, change.control)]
                found = contrast(pair[0], pair[1])
            except InputError:
                continue
            low, high = found.interval()
            drawn = pair[0].drawn or int(pair[0].programs.max()) + 1
            about = {"change": change.name, "model": change.changed, "control": change.control, "measure": name}
            yield about | {"value": float(found.value), "low": float(low), "high": float(high), "seeds": found.seeds, "programs": drawn}


def draw(table: pd.DataFrame, ax: Axes, measured: str = "pass@1") -> Axes:
    """Draw what each change does to one measure."""
    changes = list(dict.fromkeys(table["change"]))
    for row in table[table["measure"] == measured].to_dict("records"):
        place = changes.index(row["change"])
        told = row["low"] * row["high"] > 0
        ax.plot([row["low"], row["high"]], [place, place], color=methods.OTHER, linewidth=4, alpha=0.3)
        ax.plot([row["value"]], [place], "o", color=methods.OTHER, markerfacecolor=methods.OTHER if told else "white", markersize=4.5)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(changes)), changes)
    ax.set_ylim(len(changes) - 0.5, -0.5)
    ax.grid(axis="x")
    ticks.plain(ax.xaxis, 2, least=2, signed=True)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.set(title=measured, xlabel=next(each.unit for each in MEASURES if each.name == measured))
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: what was measured only."""
    measured = [name for name in (each.name for each in MEASURES) if (table["measure"] == name).any()]
    drawing = style.new_figure(style.TWO_COLUMN, 1.2 + 0.22 * table["change"].nunique())
    axes = drawing.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, measured, strict=True):
        draw(table, ax, name)
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: the paper makes no claim about this."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
