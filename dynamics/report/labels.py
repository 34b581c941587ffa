"""Short names and colours of the runs of a report, the same in all of its sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dynamics.presentation import style
from dynamics.presentation.text import short_paths
from dynamics.report.section import Doubt
from dynamics.runs import Run


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by the end of its path, printable, and distinct: two long names with the same start get numbers.

    >>> from pathlib import Path
    >>> run_labels([Run(Path("runs/sft"), "TRL SFTTrainer"), Run(Path("runs/grpo"), "TRL GRPOTrainer")])
    ['sft', 'grpo']
    """
    short = short_paths([str(run.path.resolve()) for run in runs])
    labels = [short[str(run.path.resolve())] for run in runs]
    return labels if len(set(labels)) == len(labels) else [f"{number}: {label}" for number, label in enumerate(labels, 1)]


def run_color(index: int) -> str:
    """Return the colour of a run by its position in the report."""
    return style.SERIES_COLORS[index % len(style.SERIES_COLORS)]


def legend_label(label: str) -> str:
    r"""Write a label so that a legend shows it as it is: not as a formula, and also if it begins with an underscore.

    >>> legend_label("_a$b$")
    ' _a\\$b\\$'
    """
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def by_run(lines: Sequence[tuple[str, str]], runs: int) -> list[str]:
    """Write lines about runs once each, after the labels of the runs that they are about, unless it is every run.

    >>> by_run([("a", "few steps"), ("b", "few steps"), ("b", "no base")], 2)
    ['few steps', 'b: no base']
    """
    labels: dict[str, list[str]] = {}
    for label, line in lines:
        labels.setdefault(line, []).append(label)
    return [line if len(of) >= runs else f"{', '.join(of)}: {line}" for line, of in labels.items()]


def doubts_by_run(doubts: Sequence[tuple[str, Doubt]], runs: int) -> list[Doubt]:
    """Write doubts about runs once each, as ``by_run`` does."""
    return [
        replace(doubt, text=line)
        for doubt in dict.fromkeys(doubt for _, doubt in doubts)
        for line in by_run([(label, doubt.text) for label, same in doubts if same == doubt], runs)
    ]


def beside(frame: pd.DataFrame) -> pd.DataFrame:
    """Order the rows of several runs so that the first of each run come first, then the second of each: runs stand beside each other.

    >>> beside(pd.DataFrame({"run": ["a", "a", "b", "b"], "layer": [0, 1, 0, 1]}))["run"].tolist()
    ['a', 'b', 'a', 'b']
    """
    position = frame.groupby("run", sort=False).cumcount()
    return frame.loc[position.sort_values(kind="stable").index].reset_index(drop=True)
