"""Which model drew a sample: by the name that the caller gave, the name in the file, and the training step of either.

Rows of several models or training steps are never taken for one model: they are as many models, those of a run in the order of its steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    import pandas as pd

#: the step of a policy, at the end of the name of a model
_STEP = re.compile(r"(?:^|(?<= ))(?:step|checkpoint|iteration|epoch) (\S+)$")
#: models that a note lists
LISTED = 6


@dataclass(frozen=True)
class Source:
    """A file of samples.

    Attributes
    ----------
    path : of the file.
    model : name of the model.
    fixed : whether ``model`` replaces the name in the file; if None, the name consists of both.
    step : training step of the file, as ``step 10``; None if it is not known, or if the model has no other files.
    pattern : of a file that a folder holds, its name without numbers, equal for the files of several seeds; otherwise None.
    """

    path: str
    model: str
    fixed: bool | None
    step: str | None = None
    pattern: str | None = None


def names(
    sources: Sequence[Source], source: np.ndarray[Any, Any], own: np.ndarray[Any, Any], owns: Sequence[str]
) -> tuple[np.ndarray[Any, Any], list[str], list[str]]:
    """Name the model of each sample.

    Parameters
    ----------
    sources : the files.
    source : number of the file of each sample.
    own : code of the model's name in the file, negative if it has none.
    owns : names by code.

    Returns
    -------
    Codes of the models, their names, and notes.
    """
    import pandas as pd

    width = len(owns) + 1
    inverse, keys = pd.factorize(source * width + np.maximum(own, -1) + 1)
    pairs = [(int(key) // width, int(key) % width - 1) for key in keys]
    inside: dict[str, set[str | None]] = {}
    for number, code in pairs:
        if sources[number].fixed:
            inside.setdefault(sources[number].model, set()).add(_without_step(owns[code]) if code >= 0 else None)
    several = {model for model, parts in inside.items() if len(parts) > 1}
    made = [_name(sources[number], owns[code] if code >= 0 else None, several) for number, code in pairs]
    of_pair, kept = pd.factorize(np.array(made, object))
    notes = []
    for model in several:
        parts = sorted(part or "no name" for part in inside[model])
        listed = ", ".join(printable(part, 40) for part in parts[:LISTED]) + (", ..." if len(parts) > LISTED else "")
        notes.append(f"{printable(model, 60)}: its samples name {len(parts)} models, which stay apart: {listed}")
    return of_pair[inverse], list(map(str, kept)), notes


def _without_step(own: str) -> str | None:
    step = _STEP.search(own)
    return (own[: step.start()].strip() if step else own) or None


def _name(source: Source, own: str | None, several: set[str]) -> str:
    step = _STEP.search(own) if own else None
    if source.step and not step:
        own = f"{own} {source.step}" if own else source.step
        step = _STEP.search(own)
    if own is None:
        return source.model
    if source.fixed is None or (source.fixed and source.model in several) or (step and step.start() == 0):
        return f"{source.model} {own}"
    if source.fixed and step:
        return f"{source.model} {step.group()}"
    return source.model if source.fixed else own


def by_step(frame: pd.DataFrame, models: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Sort the samples of a run's policies by the step of the policy, and note that these are several models."""
    runs: dict[str, list[float]] = {}
    place = []
    for model in models:
        step = _STEP.search(model)
        run = model[: step.start()] if step else model
        number = -1.0 if not step else float(step.group(1)) if step.group(1).isdecimal() else math.inf
        runs.setdefault(run, []).append(number)
        place.append((list(runs).index(run), number))
    notes = [
        f"{printable(run.strip() or 'the files', 60)}: samples of {len(steps)} training steps, which are as many models: a curve for each"
        for run, steps in runs.items()
        if len(steps) > 1 and min(steps) >= 0
    ]
    order = sorted(range(len(models)), key=place.__getitem__)
    if order != list(range(len(models))):
        rank = np.argsort(np.array(order))
        frame = frame.iloc[np.argsort(rank[frame["model"].to_numpy()], kind="stable")].reset_index(drop=True)
    return frame, notes


def check_folders(frame: pd.DataFrame, sources: Sequence[Source], problems: Sequence[str]) -> None:
    """Refuse a folder whose files hold samples of one problem and whose names differ otherwise than by numbers, as those of two models."""
    kinds = list(dict.fromkeys(source.pattern for source in sources if source.pattern is not None))
    if len(kinds) < 2:
        return
    codes = np.array([-1 if source.pattern is None else kinds.index(source.pattern) for source in sources])
    kind = codes[frame["source"].to_numpy()]
    ours, kind = frame[kind >= 0], kind[kind >= 0]
    pairs = ours[["model", "problem"]].assign(kind=kind).drop_duplicates()
    twice = pairs[pairs.duplicated(["model", "problem"])]
    if not len(twice):
        return
    model, problem = twice[["model", "problem"]].iloc[0].tolist()
    same = (ours["model"] == model) & (ours["problem"] == problem)
    first = ours[same].assign(kind=kind[same]).drop_duplicates("kind")["source"].tolist()[:2]
    files = " and ".join(printable(sources[number].path) for number in first)
    raise InputError(
        f"{files}: both have samples of problem {printable(problems[problem], 40)}; if they are of two models or tasks, give each by "
        "itself as NAME=PATH; if they are of one, give each with the same NAME"
    )
