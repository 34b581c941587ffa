"""Collect samples in a tidy table: decide verdicts, drop repeated rows, and count unusual cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.samples import models
from dynamics.samples.models import Source
from dynamics.samples.row import MOST_SAMPLES, SCORED, STATUSES, UNSCORED, Batches, as_float

if TYPE_CHECKING:
    import pandas as pd

_NONE = -(2**63)
#: models that are compared at once
MOST_MODELS = 10_000
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
    sources: list[Source] = field(default_factory=list)
    count: int = 0

    def add(self, source: Source, batches: Batches) -> int:
        """Add all samples of a file, and return their number."""
        count = 0
        for batch in batches:
            size = len(batch)
            for name in CODED:
                self._put(name, self.codes[name].of(getattr(batch, name) or ([SCORED] * size if name == "status" else None), size))
            self._put("fingerprint", _filled(batch.fingerprint, size, _NONE, np.int64))
            self._put("temperature", _filled(batch.temperature, size, np.nan, float))
            self._put("score", _scores(batch.score))
            self._put("source", np.full(size, len(self.sources)))
            count += size
            self.count += size
            if self.count > MOST_SAMPLES:
                raise InputError(
                    f"{printable(source.path)}: with it there are over {MOST_SAMPLES:,} samples, more than are read at once; give fewer"
                )
        self.sources.append(source)
        return count

    def _put(self, name: str, values: np.ndarray[Any, Any]) -> None:
        self.columns.setdefault(name, []).append(values)

    def table(self, threshold: float | None, alternatives: Sequence[str] = ()) -> tuple[pd.DataFrame, list[str]]:
        """Make the tidy table, and a note on each decision; ``alternatives`` are fields that could be the verdict instead, for an error."""
        import pandas as pd

        if len(self.codes["model"].code_of) > MOST_MODELS:
            raise InputError(
                f"the samples name {len(self.codes['model'].code_of):,} models and steps, over {MOST_MODELS:,}: give fewer files, or name "
                "the field of the model with --model"
            )
        data = {name: np.concatenate(self.columns.pop(name)) for name in list(self.columns)}
        data["score"] = np.where(np.isfinite(data["score"]), data["score"], np.nan)
        labels = {name: list(map(_printable_text, codes.code_of)) for name, codes in self.codes.items()}
        data["model"], labels["model"], notes = models.names(self.sources, data["source"], data["model"], labels["model"])
        order = labels["status"]
        data["status"] = np.array([STATUSES.index(status) for status in order], np.int64)[data["status"]]
        frame = pd.DataFrame(data)
        missing = np.isnan(data["score"])
        unscored = frame["status"] == STATUSES.index(UNSCORED)
        absent = int((missing & ~unscored).sum())
        if absent:
            notes.append(
                f"{plural(absent, 'sample has', 'samples have')} a score of NaN, infinity, null or nothing, and count as attempted, "
                "not as wrong"
            )
        frame.loc[missing, "status"] = STATUSES.index(UNSCORED)
        frame, repeated = _without_repeats(frame)
        notes += repeated
        models.check_folders(frame, self.sources, labels["problem"])
        notes += _several_files(frame)
        notes += _temperatures(frame, labels["model"])
        frame, steps = models.by_step(frame, labels["model"])
        notes += steps
        correct = _decide(frame["score"].to_numpy(), threshold, alternatives)
        table = pd.DataFrame(index=range(len(frame)))
        for name in ("model", "problem"):
            table[name] = _categorical(frame[name].to_numpy(), labels[name])
        numbered = frame.groupby(["model", "problem"], sort=False).cumcount()
        table["sample"] = numbered.to_numpy()
        table["correct"] = pd.arrays.BooleanArray(correct, np.isnan(frame["score"].to_numpy()))
        table["status"] = _categorical(frame["status"].to_numpy(), STATUSES)
        table["score"] = frame["score"].to_numpy()
        for name in ("answer", "content"):
            codes = frame[name].to_numpy()
            if (codes != _NONE).any():
                table[name] = _categorical(np.where(codes == _NONE, -1, codes), labels[name])
        fingerprints = frame["fingerprint"].to_numpy()
        if (fingerprints != _NONE).any():
            table["fingerprint"] = pd.arrays.IntegerArray(fingerprints.copy(), fingerprints == _NONE)
        if not np.isnan(temperatures := frame["temperature"].to_numpy()).all():
            table["temperature"] = temperatures
        return table, notes


def _scores(values: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(values, float)
    except OverflowError:
        return np.array(list(map(as_float, values)))


def _printable_text(value: Any) -> Any:
    """Return a text with an escape for half of a surrogate pair, which a table cannot hold; other values as they are."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and not value.isascii() else value


def _categorical(codes: Any, values: Iterable[Any]) -> Any:
    import pandas as pd

    categories: Any = list(values)
    return pd.Categorical.from_codes(codes, categories)


def _filled(values: list[Any] | None, size: int, missing: Any, kind: Any) -> np.ndarray[Any, Any]:
    if values is None:
        return np.full(size, missing, kind)
    return np.array([missing if value is None else value for value in values] if None in values else values, kind)


def _several_files(frame: pd.DataFrame) -> list[str]:
    """Note that samples of a problem come from several files, which is right for runs with several seeds."""
    if len(frame["source"].unique()) < 2:
        return []
    files = frame.groupby(["model", "problem"], sort=False)["source"].nunique()
    several = int((files > 1).sum())
    if not several:
        return []
    return [
        f"{plural(several, 'problem has', 'problems have')} samples in up to {int(files.max())} files of the model, "
        "which are taken together"
    ]


def _temperatures(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Note which models have samples of several temperatures."""
    if frame["temperature"].isna().all():
        return []
    notes = []
    drawn_at = frame.groupby("model", sort=False)["temperature"].unique()
    for code, values in zip(drawn_at.index.tolist(), drawn_at, strict=True):
        drawn = sorted(value for value in values if value == value)
        if len(drawn) > 1:
            listed = ", ".join(f"{value:g}" for value in drawn[:6]) + (", ..." if len(drawn) > 6 else "")
            notes.append(f"{printable(names[code], 60)}: samples of {len(drawn)} temperatures ({listed}) are taken together")
    return notes


def _without_repeats(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drop rows that a file holds twice: same problem, same sample number, same score, same text."""
    notes: list[str] = []
    numbered = frame["sample"] != _NONE
    if not numbered.any():
        return frame, notes
    identity = ["model", "problem", "sample", "source"]
    same = [*identity, "score", "fingerprint", "answer", "status"]
    copies = numbered & frame.duplicated(same)
    # where different samples have one number, as with the epoch of a training run, it does not identify a sample
    ambiguous = frame.loc[
        numbered & ~copies & frame[~copies].duplicated(identity).reindex(frame.index, fill_value=False), "source"
    ].unique()
    copies &= ~frame["source"].isin(ambiguous)
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
