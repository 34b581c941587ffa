"""The completions that TRL keeps: ``completions/completions_N.parquet``.

TRL writes the file of a step when it logs, with the last ``generation_batch_size`` completions that it sampled. An evaluation at that step
writes the same file again, so that it then holds those of the evaluation, after some of training if there are not enough of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dynamics.errors import printable
from dynamics.runs.readers.looking import entries
from dynamics.runs.readers.metric_names import Scalar
from dynamics.runs.readers.settings import whole
from dynamics.runs.view import RolloutFile

NAME = re.compile(r"completions_(\d{1,15})\.parquet")
_EVALUATION = re.compile(r"(eval_(?:.*_)?)(runtime|samples_per_second)")
#: by how much the logged number of samples per second may be rounded
ROUNDED = 0.0005


def completions(folder: Path, rows: Iterable[Scalar], settings: Mapping[str, Any], notes: list[str]) -> list[RolloutFile]:
    """List the files of completions of a run, by step.

    Parameters
    ----------
    folder : of the run.
    rows : its metrics, which say when it was evaluated, and on how many prompts.
    settings : of the Trainer.
    notes : a line is added if files hold samples of training and of an evaluation, which nothing tells apart; they are left out.
    """
    numbered = sorted((int(match[1]), path) for path in entries(folder / "completions") if (match := NAME.fullmatch(path.name)))
    prompts = _evaluated(rows)
    generations = whole(settings, "num_generations_eval") or whole(settings, "num_generations") or 0
    kept = whole(settings, "generation_batch_size")
    files: list[RolloutFile] = []
    mixed: list[str] = []
    for step, path in numbered:
        if step in prompts and step and (kept is None or prompts[step] * generations < kept):
            mixed.append(str(step))
        else:
            files.append(RolloutFile(step, path, step in prompts))
    if mixed:
        shown = ", ".join(mixed[:4]) + (", ..." if len(mixed) > 4 else "")
        where = printable(folder / "completions")
        notes.append(f"{where}: {len(mixed)} files (steps {shown}) hold samples of training and of an evaluation; left out")
    return files


def _evaluated(rows: Iterable[Scalar]) -> dict[int, float]:
    """Return the steps at which a run was evaluated, and the least number of prompts, as far as the rounded log says."""
    logged: dict[tuple[int, str], dict[str, float]] = {}
    for step, name, value in rows:
        if match := _EVALUATION.fullmatch(name):
            logged.setdefault((step, match[1]), {})[match[2]] = value
    prompts: dict[int, float] = {}
    for (step, _), entry in logged.items():
        count = entry.get("runtime", 0.0) * (entry.get("samples_per_second", 0.0) - ROUNDED)
        prompts[step] = prompts.get(step, 0.0) + max(float(round(count)), 0.0) if count == count and abs(count) < 1e15 else 0.0
    return prompts
