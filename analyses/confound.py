"""Is it the method, or the learning rate and the dtype?

The paper compares checkpoints of different origin: SFT, RLVR and self-play differ there in learning rate, number of steps and storage
dtype as well as in method. Here the same data and steps are run with another learning rate and with bfloat16 masters.

Drawn: sparsity under the four rules, a row a setting, a dot a seed. Where a setting moves a method further than the methods lie apart, a
comparison that does not match that setting says nothing of the method.

    python -m analyses.confound runs/comparison --out figures        # seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import question, update_sparsity
from analyses.question import Verdict
from analyses.runs import Run
from dynamics.plots import style
from dynamics.rules import RULES

TITLE = "The confound: learning rate and dtype"
CLAIM = "the order of the methods' sparsities is a property of the methods"


def caption(table: pd.DataFrame) -> str:
    spread = spreads(table)
    told = "; ".join("{rule}: methods {methods:.2f}, settings {settings:.2f}".format(**row) for row in spread)
    return (
        "Share of weights unchanged since the base; steps are the same, learning rate and dtype of the masters are not. Largest difference "
        f"between methods at the same settings, and between settings of one method - {told}."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """As of ``update_sparsity``, totals only, all runs but those that differ in their reward or proposer."""
    chosen = [run for run in runs if not any(word in run.label for word in (" reward", " proposer"))]
    return update_sparsity.measure(chosen, variants=True)


def spreads(table: pd.DataFrame) -> list[dict[str, Any]]:
    """By rule: the largest difference of mean sparsity between methods at their usual settings, and within a method between settings."""
    mean = table.groupby(["rule", "label"], sort=False)["value"].mean().reset_index()
    mean["method"] = mean["label"].str.partition(",")[0]
    rows: list[dict[str, Any]] = []
    for rule, part in mean.groupby("rule", sort=False):
        usual = part[part["label"] == part["method"]]["value"]
        within = part.groupby("method")["value"].agg(lambda values: values.max() - values.min()).max()
        rows.append({"rule": str(rule), "methods": float(usual.max() - usual.min()), "settings": float(within)})
    return rows


def draw(table: pd.DataFrame, ax: Axes, rule: str = "bf16") -> Axes:
    return update_sparsity.draw(table, ax, rule)


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(9.5, 1.3 + 0.28 * table["label"].nunique())
    for ax, rule in zip(made.subplots(1, len(RULES), sharey=True), RULES, strict=True):
        draw(table, ax, rule)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for row in spreads(table):
        if row["rule"] == "bf16":
            text = "sparsity tells methods apart rather than learning rates and dtypes"
            what = "rule bf16: spread between methods minus spread between settings of one method"
            nan = float("nan")
            found.append(
                Verdict(text, what, row["methods"] - row["settings"], nan, nan, question.seeds_of(table), "none: one seed a setting", 1)
            )
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
