"""Run directories: the files that training writes and analyses read. Writes are atomic, or append whole lines."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.io.atomic import replacing
from dynamics.io.json import decode, encode, to_json
from dynamics.io.json_lines import write_json_lines
from dynamics.io.side_files import read_json
from dynamics.runs.schema import current_document, current_metrics


class RunDirectory:
    """``run.json``, ``metrics.jsonl``, ``rollouts/``, ``evals/`` under one folder, which must exist."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._metrics: int | None = None

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
        return current_document(read_json(self.path / "run.json", surrogates=True))

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append the metrics of a step in a single write, so that a killed run leaves at most the last line incomplete."""
        target = self.path / "metrics.jsonl"
        try:
            if self._metrics is None:
                self._metrics = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            data = encode(line) + b"\n"
            if os.write(self._metrics, data) != len(data):
                raise OSError(28, "no space left on the device")
        except OSError as error:
            raise InputError(f"{target}: {error.strerror or error}") from None

    def write_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write a JSON-lines file such as ``rollouts/step_12.jsonl`` atomically."""
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: {error.strerror or error}") from None
        write_json_lines(target, rows)

    def truncate(self, step: int) -> None:
        """Remove metrics, rollouts and checkpoints of later steps, and unfinished files.

        The remaining metrics are renamed to the current schema.
        """
        target = self.path / "metrics.jsonl"
        if target.exists():
            lines = [line for line in target.read_bytes().splitlines(keepends=True) if _is_up_to(line, step)]
            write_json_lines(target, (current_metrics(decode(line)) for line in lines))
        for file in (self.path / "rollouts").glob("step_*.jsonl"):
            if _number(file) > step:
                file.unlink()
        for folder in (self.path / "checkpoints").glob("step_*"):
            if _number(folder) > step:
                shutil.rmtree(folder)
        for leftover in (*self.path.glob(".run-*.json"), *self.path.glob(".metrics-*.jsonl"), *self.path.glob("*/.*-*.jsonl")):
            leftover.unlink()
        for leftover in self.path.glob("*/.step_*.partial"):
            shutil.rmtree(leftover)

    def close(self) -> None:
        """Close ``metrics.jsonl``."""
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None


def _is_up_to(line: bytes, last_step: int) -> bool:
    """Check whether a line is complete and its step is at most the last."""
    try:
        return line.endswith(b"\n") and int(decode(line)["step"]) <= last_step
    except (ValueError, KeyError, TypeError):
        return False


def _number(path: Path) -> int:
    match = re.search(r"step_(\d+)", path.name)
    return int(match[1]) if match else -1
