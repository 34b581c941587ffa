"""Short names and colours of the runs of a report, the same in all of its sections."""

from __future__ import annotations

from collections.abc import Sequence

from dynamics.presentation import style
from dynamics.presentation.text import short_paths
from dynamics.runs import Run


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by the end of its path, printable, and distinct if the paths are.

    >>> from pathlib import Path
    >>> run_labels([Run(Path("runs/sft"), "TRL SFTTrainer"), Run(Path("runs/grpo"), "TRL GRPOTrainer")])
    ['sft', 'grpo']
    """
    short = short_paths([str(run.path.resolve()) for run in runs])
    return [short[str(run.path.resolve())] for run in runs]


def run_color(index: int) -> str:
    """Return the colour of a run by its position in the report."""
    return style.SERIES_COLORS[index % len(style.SERIES_COLORS)]


def legend_label(label: str) -> str:
    r"""Write a label so that a legend shows it as it is: not as a formula, and also if it begins with an underscore.

    >>> legend_label("_a$b$")
    ' _a\\$b\\$'
    """
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")
