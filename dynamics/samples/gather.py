"""Collect samples in a tidy table: decide verdicts, drop repeated rows, and count unusual cases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.samples.row import SCORED, STATUSES, UNSCORED, Batches

if TYPE_CHECKING:
    import pandas as pd

_NONE = -(2**63)
#: columns that are stored as integer codes
CODED = ("model", "problem", "sample", "answer", "content", "status")


class Codes:
    """Integer codes of values, in the order of their first appearance."""

    def __init__(self) -> None:
        self.code_of: dict[Any, int] = {}

    def of(self, values: list[Any] | None, count: int) -> np.ndarray[Any, Any]:
        """Return the codes of ``values``, (count,) int64; ``_NONE`` for None, and for all entries if ``values`` is None."""
        import pandas as pd

        if values is None:
            return np.full(count, _NONE)
        array = np.empty(count, object)
        array[:] = values
        codes, distinct = pd.factorize(array)
        mapped = np.array([*(self.code_of.setdefault(value, len(self.code_of)) for value in distinct), _NONE], np.int64)
        return mapped[codes]


@dataclass
class Gather:
    """Collect batches as arrays of about 80 bytes per sample, without text."""

    codes: dict[str, Codes] = field(default_factory=lambda: {name: Codes() for name in CODED})
    columns: dict[str, list[np.ndarray[Any, Any]]] = field(default_factory=dict)

    def add(self, source: int, model: str, batches: Batches, fixed: bool | None, step: str | None = None) -> int:
        """Add all samples of a file, and return their number.

        Parameters
        ----------
        source : number of the file.
        model : name of the model.
        batches : samples of the file.
        fixed : whether ``model`` replaces the names in the file; if None, the name consists of ``model`` and the name in the file.
        step : training step of the file, as ``step 10``; None if it is not known, or if the model has no other files.
        """
        count = 0
        for batch in batches:
            size = len(batch)
            columns = {
                "model": [_name(model, own, fixed, step) for own in batch.model or [None] * size],
                "problem": batch.problem,
                "sample": batch.sample,
                "answer": batch.answer,
                "content": batch.content,
                "status": batch.status or [SCORED] * size,
            }
            for name, values in columns.items():
                self._put(name, self.codes[name].of(values, size))
            self._put("fingerprint", _filled(batch.fingerprint, size, _NONE, np.int64))
            self._put("temperature", _filled(batch.temperature, size, np.nan, float))
            self._put("score", np.asarray(batch.score, float))
            self._put("source", np.full(size, source))
            count += size
        return count

    def _put(self, name: str, values: np.ndarray[Any, Any]) -> None:
        self.columns.setdefault(name, []).append(values)

    def table(self, threshold: float | None, alternatives: Sequence[str] = ()) -> tuple[pd.DataFrame, list[str]]:
        """Make the tidy table, and a note on each decision; ``alternatives`` are fields that could be the verdict instead."""
        import pandas as pd

        data = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        data["score"] = np.where(np.isfinite(data["score"]), data["score"], np.nan)
        names = self.codes
        order = list(names["status"].code_of)
        data["status"] = np.array([STATUSES.index(status) for status in order], np.int64)[data["status"]]
        frame = pd.DataFrame(data)
        notes: list[str] = []
        missing = np.isnan(data["score"])
        unscored = frame["status"] == STATUSES.index(UNSCORED)
        absent = int((missing & ~unscored).sum())
        if absent:
            notes.append(
                f"{plural(absent, 'sample has', 'samples have')} a score of NaN, infinity, null or nothing, and count as attempted, not as wrong"
            )
        frame.loc[missing, "status"] = STATUSES.index(UNSCORED)
        frame, repeated = _without_repeats(frame)
        notes += repeated
        notes += _several_files(frame)
        frame, steps = _by_step(frame, list(names["model"].code_of))
        notes += steps
        correct = _decide(frame["score"].to_numpy(), threshold, alternatives)
        table = pd.DataFrame(index=range(len(frame)))
        for name in ("model", "problem"):
            table[name] = _categorical(frame[name].to_numpy(), names[name].code_of)
        numbered = frame.groupby(["model", "problem"], sort=False).cumcount()
        table["sample"] = numbered.to_numpy()
        table["correct"] = pd.arrays.BooleanArray(correct, np.isnan(frame["score"].to_numpy()))
        table["status"] = _categorical(frame["status"].to_numpy(), STATUSES)
        table["score"] = frame["score"].to_numpy()
        for name in ("answer", "content"):
            codes = frame[name].to_numpy()
            if (codes != _NONE).any():
                table[name] = _categorical(np.where(codes == _NONE, -1, codes), names[name].code_of)
        fingerprints = frame["fingerprint"].to_numpy()
        if (fingerprints != _NONE).any():
            table["fingerprint"] = pd.arrays.IntegerArray(fingerprints.copy(), fingerprints == _NONE)
        if not np.isnan(temperatures := frame["temperature"].to_numpy()).all():
            table["temperature"] = temperatures
        return table, notes


def _categorical(codes: Any, values: Iterable[Any]) -> Any:
    import pandas as pd

    categories: Any = list(values)
    return pd.Categorical.from_codes(codes, categories)


def _filled(values: list[Any] | None, size: int, missing: Any, kind: Any) -> np.ndarray[Any, Any]:
    if values is None:
        return np.full(size, missing, kind)
    return np.array([missing if value is None else value for value in values] if None in values else values, kind)


#: the step of a policy, at the end of the name of a model
_STEP = re.compile(r"(?:^|(?<= ))(step|checkpoint|iteration|epoch) (\d+)$")


def _name(model: str, own: str | None, fixed: bool | None, file_step: str | None) -> str:
    """Return the name of the model. A step in the file identifies a policy of a run, so it is added to the caller's name."""
    step = _STEP.search(own) if own else None
    if file_step and not step:
        own = f"{own} {file_step}" if own else file_step
        step = _STEP.search(own)
    if own is None:
        return model
    if fixed is None or (step and step.start() == 0):
        return f"{model} {own}"
    if fixed and step:
        return f"{model} {step.group()}"
    return model if fixed else own


def _by_step(frame: pd.DataFrame, models: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Sort the samples of a run's policies by the step of the policy, and note that these are several models."""
    runs: dict[str, list[tuple[int, int]]] = {}
    place = {}
    for code, model in enumerate(models):
        step = _STEP.search(model)
        run = model[: step.start()] if step else model
        place[code] = (len(runs) if run not in runs else list(runs).index(run), int(step.group(2)) if step else -1)
        runs.setdefault(run, []).append(place[code])
    notes = [
        f"{printable(run.strip() or 'the files', 60)}: samples of {len(steps)} training steps, which are as many models: a curve for each"
        for run, steps in runs.items()
        if len(steps) > 1 and min(steps)[1] >= 0
    ]
    order = sorted(range(len(models)), key=lambda code: place[code])
    if order != list(range(len(models))):
        rank = np.argsort(np.array(order))
        frame = frame.iloc[np.argsort(rank[frame["model"].to_numpy()], kind="stable")].reset_index(drop=True)
    return frame, notes


def _several_files(frame: pd.DataFrame) -> list[str]:
    """Note that samples of a problem come from several files, which is right for runs with several seeds."""
    files = frame.groupby(["model", "problem"], sort=False)["source"].nunique()
    several = int((files > 1).sum())
    if not several:
        return []
    return [f"{plural(several, 'problem has', 'problems have')} samples in up to {int(files.max())} files of the model, which are taken together"]


def _without_repeats(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drop rows that a file holds twice: same problem, same sample number, same score, same text."""
    notes: list[str] = []
    numbered = frame["sample"] != _NONE
    if not numbered.any():
        return frame, notes
    identity = ["model", "problem", "sample", "source"]
    same = [*identity, "score", "fingerprint", "answer", "status"]
    copies = numbered & frame.duplicated(same)
    if copies.any():
        notes.append(
            f"dropped {plural(int(copies.sum()), 'row')} with the problem, sample number, text and score of another (a resumed run)"
        )
        frame = frame[~copies]
        numbered = numbered[~copies]
    clash = numbered & frame.duplicated(identity)
    if clash.any():
        notes.append(f"kept {plural(int(clash.sum()), 'row')} with the problem and sample number of another, but not its text or score")
    again = numbered & frame.duplicated([name for name in same if name != "source"])
    if again.any():
        notes.append(
            f"kept {plural(int(again.sum()), 'sample')} with the number, text and score of one in another file (was a file given twice?)"
        )
    return frame.reset_index(drop=True), notes


def _decide(scores: np.ndarray[Any, Any], threshold: float | None, alternatives: Sequence[str] = ()) -> np.ndarray[Any, Any]:
    """Decide which samples are correct, False if unknown: score at least ``threshold``, or 1 if all scores are -1, 0 or 1."""
    known = ~np.isnan(scores)
    if threshold is None:
        odd = known & ~np.isin(scores, (-1.0, 0.0, 1.0))
        if odd.any():
            examples = ", ".join(f"{value:.4g}" for value in np.unique(scores[odd])[:4])
            raise InputError(
                f"{int(odd.sum()):,} of {int(known.sum()):,} scores are neither 0 nor 1 ({printable(examples)}): "
                "say from which score on a sample is correct, e.g. --threshold 0.5"
                + (f"; or name another field with --correct: {', '.join(map(printable, alternatives))}" if alternatives else "")
            )
        threshold = 1.0
    return np.asarray(scores >= threshold)
