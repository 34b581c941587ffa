"""Run directories: the files that training writes and analyses read. Writes are atomic, or append whole lines."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.atomic import Appender, replacing
from dynamics.io.folders import LOCK
from dynamics.io.json import encode, to_json
from dynamics.io.json_lines import read_json_lines, write_json_lines
from dynamics.io.side_files import read_json
from dynamics.runs.schema import current_document, current_metrics, with_not_finite

#: temporary names of ``run.json`` while it is written
UNFINISHED = ".run-*.json"


class RunDirectory:
    """``run.json``, ``metrics.jsonl``, ``rollouts/``, ``validation/``, ``evals/`` under one folder, which must exist."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._metrics = Appender(self.path / "metrics.jsonl")

    def write_run(self, document: dict[str, Any]) -> None:
        """Write ``run.json``."""
        with replacing(self.path / "run.json") as temporary:
            temporary.write_text(to_json(document), encoding="utf-8")

    def read_run(self) -> dict[str, Any]:
        """Read ``run.json``, translated to the current schema if necessary.

        Raises
        ------
        InputError : it cannot be read, or is not an object.
        """
        path = self.path / "run.json"
        document = read_json(path, surrogates=True)
        try:
            return current_document(document)
        except (ValueError, TypeError, AttributeError) as error:
            what = str(error) if type(error) is ValueError else "its settings are of other types"  # settings of the first schema
            raise InputError(f"{printable(path)}: is not that of a run: {what}; restore the file from a copy") from None

    def is_before_a_run(self) -> bool:
        """Return whether there is nothing but what a run leaves that was killed before it wrote ``run.json``."""
        players = [path for player in self.path.glob("players/*") for path in (player.iterdir() if player.is_dir() else (player,))]
        return not players and all(
            path.is_dir() if path.name == "players" else path.name == LOCK or path.match(UNFINISHED) for path in self.path.iterdir()
        )

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append the metrics of a step; a killed run leaves at most the last line incomplete.

        JSON has no NaN and no infinity. They are written as null, as is what was not measured, and named in the field ``not_finite``.
        """
        self._metrics.append(encode(with_not_finite(line)) + b"\n")

    def sync(self) -> None:
        """Wait until the metrics are on disk. Call it before a state is saved, which must not outlive the metrics of its steps."""
        self._metrics.sync()

    def close(self) -> None:
        """Close ``metrics.jsonl``."""
        self._metrics.close()

    def write_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write a JSON-lines file such as ``rollouts/step_12.jsonl`` atomically."""
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: {error.strerror or error}") from None
        write_json_lines(target, rows)

    def truncate(self, step: int) -> list[int]:
        """Remove metrics, rollouts, validation answers and checkpoints of later steps, and unfinished files.

        The remaining metrics are renamed to the current schema.

        Returns
        -------
        The steps whose metrics remain.

        Raises
        ------
        InputError : ``metrics.jsonl`` is damaged, other than by an unfinished last line, or something cannot be removed.
        """
        self.close()
        target = self.path / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        if target.exists():
            if step:
                lines = [line for line in self.metrics() if line["step"] <= step]
            write_json_lines(target, map(current_metrics, lines))
        try:
            self._remove_after(step)
        except OSError as error:
            raise InputError(f"{error.filename or self.path}: cannot be removed ({error.strerror or error})") from None
        return [line["step"] for line in lines]

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Read the lines of ``metrics.jsonl``, none if there is no such file; the last one may be unfinished."""
        target = self.path / "metrics.jsonl"
        if not target.exists():
            return
        for number, line in read_json_lines(target, unfinished=[]):
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                raise InputError(f"{printable(target)}, line {number}: is not the metrics of a step; restore the file from a copy")
            yield line

    def step_files(self, folder: str) -> dict[int, Path]:
        """Return the files ``step_N.jsonl`` of ``rollouts`` or ``validation`` by N, in its order; files of other names are left out."""
        files = {path: path.stem.removeprefix("step_") for path in (self.path / folder).glob("step_*.jsonl")}
        return dict(sorted((int(number), path) for path, number in files.items() if number.isdecimal()))

    def _remove_after(self, step: int) -> None:
        for file in (*(self.path / "rollouts").glob("step_*.jsonl"), *(self.path / "validation").glob("step_*.jsonl")):
            if _number(file) > step:
                file.unlink()
        for folder in (*(self.path / "checkpoints").glob("step_*"), *self.path.glob("players/*/step_*")):
            if _number(folder) > step:
                shutil.rmtree(folder)
        for leftover in (*self.path.glob(UNFINISHED), *self.path.glob(".*-*.jsonl"), *self.path.glob("*/.*-*.jsonl")):
            leftover.unlink()
        for leftover in (*self.path.glob("*/.step_*.partial"), *self.path.glob("players/*/.step_*.partial")):
            shutil.rmtree(leftover)


def _number(path: Path) -> int:
    match = re.search(r"step_(\d+)", path.name)
    return int(match[1]) if match else -1
