"""Rows into one tidy table: verdicts decided, repeated rows dropped by a named rule, and everything unusual counted."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError, shown
from dynamics.samples.row import STATUSES, UNSCORED, Row

if TYPE_CHECKING:
    import pandas as pd

_NONE = -(2**63)


class Codes:
    """Strings as small integers."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}

    def __getitem__(self, value: Any) -> int:
        return self.places.setdefault(value, len(self.places))


@dataclass
class Gather:
    """Collects rows in arrays, about 60 bytes a sample; text is never kept."""

    models: Codes = field(default_factory=Codes)
    problems: Codes = field(default_factory=Codes)
    samples: Codes = field(default_factory=Codes)
    answers: Codes = field(default_factory=Codes)
    contents: Codes = field(default_factory=Codes)
    columns: dict[str, array[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = ("model", "problem", "sample", "answer", "fingerprint", "content", "status", "source")
        self.columns = {name: array("q") for name in whole} | {"score": array("d"), "temperature": array("d")}

    def add(self, source: int, model: str, rows: Iterable[Row], fixed: bool) -> int:
        """All rows of one file. ``fixed``: the caller named the model, whatever the file says. Gives how many there were."""
        put = {name: column.append for name, column in self.columns.items()}
        statuses = {status: place for place, status in enumerate(STATUSES)}
        models, problems, samples, answers, contents = self.models, self.problems, self.samples, self.answers, self.contents
        count = 0
        for row in rows:
            own = row.model
            if own is not None and (not fixed or own.startswith("step ")):
                name = f"{model} {own}" if own.startswith("step ") else own
            else:
                name = model
            put["model"](models[name])
            put["problem"](problems[row.problem])
            put["sample"](_NONE if row.sample is None else samples[row.sample])
            put["answer"](_NONE if row.answer is None else answers[row.answer])
            put["fingerprint"](_NONE if row.fingerprint is None else row.fingerprint)
            put["content"](_NONE if row.content is None else contents[row.content])
            put["status"](statuses[row.status])
            put["source"](source)
            put["score"](row.score)
            put["temperature"](float("nan") if row.temperature is None else row.temperature)
            count += 1
        return count

    def table(self, threshold: float | None) -> tuple[pd.DataFrame, list[str]]:
        """The tidy table, and what was decided on the way, a line each."""
        import pandas as pd

        data = {name: np.frombuffer(column, column.typecode) for name, column in self.columns.items()}
        frame = pd.DataFrame(data)
        names = {"model": self.models, "problem": self.problems, "sample": self.samples, "answer": self.answers, "content": self.contents}
        notes: list[str] = []
        missing = np.isnan(data["score"])
        unscored = frame["status"] == STATUSES.index(UNSCORED)
        absent = int((missing & ~unscored).sum())
        if absent:
            notes.append(f"{absent:,} samples have a score of NaN, null or nothing: they count as attempted, not as wrong")
        frame.loc[missing, "status"] = STATUSES.index(UNSCORED)
        frame, repeated = _without_repeats(frame)
        notes += repeated
        correct = _decide(frame["score"].to_numpy(), threshold)
        table = pd.DataFrame(index=range(len(frame)))
        for name in ("model", "problem"):
            table[name] = pd.Categorical.from_codes(frame[name].to_numpy(), list(names[name].places))
        numbered = frame.groupby(["model", "problem"], sort=False).cumcount()
        table["sample"] = numbered.to_numpy()
        table["correct"] = pd.array(correct, "boolean")
        table["status"] = pd.Categorical.from_codes(frame["status"].to_numpy(), list(STATUSES))
        table["score"] = frame["score"].to_numpy()
        for name in ("answer", "content"):
            codes = frame[name].to_numpy()
            if (codes != _NONE).any():
                table[name] = pd.Categorical.from_codes(np.where(codes == _NONE, -1, codes), list(names[name].places))
        if (prints := frame["fingerprint"].to_numpy())[prints != _NONE].size:
            table["fingerprint"] = pd.array(prints, "Int64")
            table.loc[prints == _NONE, "fingerprint"] = pd.NA
        if not np.isnan(heat := frame["temperature"].to_numpy()).all():
            table["temperature"] = heat
        return table, notes


def _without_repeats(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drop rows that a file has twice: same problem, same sample number, same score, same text. Everything else stays."""
    notes = []
    numbered = frame["sample"] != _NONE
    identity = ["model", "problem", "sample", "source"]
    same = [*identity, "score", "fingerprint", "answer", "status"]
    twice = numbered & frame.duplicated(same)
    if twice.any():
        notes.append(f"{int(twice.sum()):,} rows were dropped: problem, sample number, text and score of another row (a resumed run)")
        frame = frame[~twice]
        numbered = numbered[~twice]
    clash = numbered & frame.duplicated(identity)
    if clash.any():
        notes.append(f"{int(clash.sum()):,} rows have problem and sample number of another row but not its text or score: kept as samples")
    again = numbered & frame.duplicated([name for name in same if name != "source"])
    if again.any():
        notes.append(
            f"{int(again.sum()):,} samples stand in two files of one model with one number, text and score: kept; is a file there twice?"
        )
    return frame.reset_index(drop=True), notes


def _decide(scores: np.ndarray[Any, Any], threshold: float | None) -> list[bool | None]:
    """Which samples are correct: at or above ``threshold``, or equal to 1 where scores are only -1, 0 and 1."""
    known = ~np.isnan(scores)
    if threshold is None:
        odd = known & ~np.isin(scores, (-1.0, 0.0, 1.0))
        if odd.any():
            examples = ", ".join(f"{value:.4g}" for value in np.unique(scores[odd])[:4])
            raise InputError(
                f"{int(odd.sum()):,} of {int(known.sum()):,} scores are neither 0 nor 1 ({shown(examples)}): "
                "say from which score on a sample is correct, e.g. --threshold 0.5"
            )
        threshold = 1.0
    right = scores >= threshold
    return [bool(good) if there else None for good, there in zip(right, known, strict=True)]
