"""Tidy tables of what runs recorded during training: the series of ``metrics.jsonl``, and the answers to the validation problems.

    from analyses.runs import find
    from analyses.training_series import answers, series
    series(find([Path("runs/comparison")]), "validation/pass@1")     # by method, seed and step
    answers(find([Path("runs/comparison")]))                         # a row an answer, for statistics over problems or programs

What each series means stands in docs/measures.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analyses.runs import Run, is_number, is_text, read_json_lines
from dynamics import InputError
from dynamics.runs.directory import RunDirectory

#: columns of ``series``
COLUMNS = ["method", "label", "seed", "step", "metric", "family", "measure", "manner", "by", "of", "value"]
#: columns of ``answers`` that every answer has; those of the laboratory have more
ANSWER_COLUMNS = ["method", "label", "seed", "step", "problem", "task", "split", "manner", "sample", "correct", "length", "truncated"]
#: the same quantity under one name for all methods
_ALIASES = {"length/mean": "answers/length", "solver/length": "answers/length", "length/truncated": "answers/truncated"}
#: first parts of names that have a role behind them
_WITH_ROLE = ("probe",)


class Name(NamedTuple):
    """The parts of the name of a metric.

    Attributes
    ----------
    family : ``validation``, ``answers``, ``coverage``, a role, ``probe/ROLE``; empty for metrics of the whole step.
    measure : what was measured, such as ``pass@1`` or ``entropy``.
    manner : ``greedy`` or ``T=1``, of validation.
    by, of : the group, such as ``depth`` and ``2``; empty for all.
    """

    family: str
    measure: str
    manner: str = ""
    by: str = ""
    of: str = ""


def parts_of(metric: str) -> Name:
    """Take the name of a metric apart.

    >>> parts_of("validation/pass@1/T=1/depth=2")
    Name(family='validation', measure='pass@1', manner='T=1', by='depth', of='2')
    >>> parts_of("probe/solver/entropy/kind=result")
    Name(family='probe/solver', measure='entropy', manner='', by='kind', of='result')
    >>> parts_of("reward")
    Name(family='', measure='reward', manner='', by='', of='')
    """
    parts = _ALIASES.get(metric, metric).split("/")
    group = ("", "")
    if "=" in parts[-1] and parts[-1] != "T=1":
        by, _, of = parts.pop().partition("=")
        group = (by, of)
    manner = parts.pop() if parts[0] == "validation" and len(parts) > 2 else ""
    family = "/".join(parts[: 2 if parts[0] in _WITH_ROLE and len(parts) > 2 else 1]) if len(parts) > 1 else ""
    return Name(family, "/".join(parts[len(family.split("/")) if family else 0 :]), manner, *group)


def series(runs: Sequence[Run], *beginnings: str) -> pd.DataFrame:
    """Make a tidy table of recorded numbers, a row each.

    Parameters
    ----------
    runs : from ``analyses.runs.find``.
    beginnings : of the names of metrics, such as ``validation/`` or ``answers/true_steps``; all but clock times if none is given.

    Returns
    -------
    Columns ``COLUMNS``: what run, what step, and what was measured: ``metric`` is the name in ``metrics.jsonl``, and ``family``,
    ``measure``, ``manner``, ``by`` and ``of`` its parts, see ``Name``. Step 0 is before training. Values that are missing or not finite are
    left out.

    Notes
    -----
    A row is a mean over what one step had. Its noise is not in the table: of validation it follows from ``answers``.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        for line in run.lines:
            for metric, value in line.items():
                name = _ALIASES.get(metric, metric)
                wanted = any(name.startswith(beginning) or metric.startswith(beginning) for beginning in beginnings)
                if metric == "step" or not (wanted or (not beginnings and not metric.startswith("time/"))):
                    continue
                if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                    about = {"method": run.method, "label": run.label, "seed": run.seed, "step": line["step"], "metric": metric}
                    rows.append(about | parts_of(metric)._asdict() | {"value": float(value)})
    return pd.DataFrame(rows, columns=COLUMNS)


def answers(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of the answers to the validation problems of all steps, a row each.

    Returns
    -------
    Columns ``ANSWER_COLUMNS``, and for the laboratory ``program``, ``input``, ``depth``, ``scratchpad`` (tokens) and the counts of steps
    ``written``, ``true``, ``on_path``, ``repeated``, ``needed``, ``covered``; missing for other tasks. Empty if no run has validation.

    Raises
    ------
    InputError : a file is damaged.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        for path in RunDirectory(run.path).step_files("validation").values():
            for row in read_json_lines(path, {"problem": is_text, "step": _is_whole, "correct": _is_bool, "temperature": is_number}):
                steps = row.pop("steps", {})
                if not isinstance(steps, dict):
                    raise InputError(f"{path}: has an answer whose steps are no counts; restore the file from a copy")
                about = {"method": run.method, "label": run.label, "seed": run.seed, "manner": "T=1" if row["temperature"] else "greedy"}
                rows.append(about | row | steps)
    table = pd.DataFrame(rows)
    more = ["program", "input", "depth", "scratchpad", "written", "true", "on_path", "repeated", "needed", "covered"]
    return table.reindex(columns=ANSWER_COLUMNS + [name for name in more if name in table])


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
