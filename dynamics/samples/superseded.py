"""Files that hold the samples of another file again, as the names that harnesses give them tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dynamics.errors import printable
from dynamics.io.compression import unpacked_name

#: name of an Inspect log: time, task, and an id that a retry of the evaluation keeps
_INSPECT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[+-]\d\d-\d\d)_.+_([A-Za-z0-9]{22})\.(?:eval|json)")
#: the results of LiveCodeBench by test, beside which ``*_eval_all.json`` holds the same results by sample
_BY_TEST, _BY_SAMPLE = "_eval.json", "_eval_all.json"


def superseded(files: Sequence[tuple[str | None, Path]]) -> dict[Path, str]:
    """Return the files, given as (name of the model or None, path), whose samples another one holds, and why."""
    reasons: dict[Path, str] = {}
    latest: dict[tuple[str | None, str], tuple[str, Path]] = {}
    paths = {path for _, path in files}
    for name, path in files:
        own = unpacked_name(path)
        if match := _INSPECT.fullmatch(own):
            time, evaluation = match.groups()
            earlier, kept = sorted([latest.get((name, evaluation), (time, path)), (time, path)])
            latest[name, evaluation] = kept
            if earlier != kept:
                reasons[earlier[1]] = f"a retry of this evaluation, {printable(kept[1].name)}, holds its samples"
        elif own.endswith(_BY_TEST):
            other = path.with_name(own.removesuffix(_BY_TEST) + _BY_SAMPLE)
            if other in paths:
                reasons[path] = f"{printable(other.name)} holds the same results"
    return reasons
