"""A run directory of ``dynamics.train`` as its measurements need it: settings, checkpoints by player, and tasks by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dynamics.errors import InputError, did_you_mean, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.paths import natural_order
from dynamics.io.validation import converted
from dynamics.runs.directory import RunDirectory
from dynamics.train.config import TrainConfig
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.curriculum import Entry
from dynamics.train.lab.operations import read
from dynamics.train.lab.programs import labelled
from dynamics.train.settings import METHODS
from dynamics.train.tasks.problem import ProposedTask

if TYPE_CHECKING:
    from dynamics.train.games.languages import Language
    from dynamics.train.policy import Policy

#: forms of problems of the laboratory that a program and one input make
_FORMS = ("deduction", "abduction")


class _Row(msgspec.Struct):
    """The fields of a rollout that say what was asked."""

    role: str = ""
    task: str = ""
    valid: bool = False
    entry: Entry | None = None
    program: str = ""
    input: str = ""
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True)
class ShownHint:
    """A hint under which a run of Seirênes asked a problem.

    Attributes
    ----------
    step : in which it was first written.
    problem : identifier of the problem.
    text : of the hint.
    """

    step: int
    problem: str
    text: str


@dataclass(frozen=True)
class Task:
    """A task that a run trained on.

    Attributes
    ----------
    step : in which it was first met.
    entry : kind, program and inputs.
    """

    step: int
    entry: BufferEntry


@dataclass
class FinishedRun:
    """A run directory.

    Attributes
    ----------
    path : of the directory.
    document : ``run.json``.
    config : settings of the run.
    left_out : reason -> number of tasks that could not be used.
    """

    path: Path
    document: dict[str, Any]
    config: TrainConfig
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def directory(self) -> RunDirectory:
        """The files."""
        return RunDirectory(self.path)

    @property
    def players(self) -> list[str]:
        """Names of the players that have a folder of their own: all but one that is graded throughout."""
        folder = self.path / "players"
        return natural_order([one.name for one in folder.iterdir() if one.is_dir()]) if folder.is_dir() else []

    def checkpoints(self, player: str = "") -> dict[int, Path]:
        """Return the checkpoints of a player, of the graded one if it is not named, by step.

        A player without one of step 0 began as the graded player's, the base.

        Raises
        ------
        InputError : there is no such player, or there are no checkpoints.
        """
        if player and player not in self.players:
            choices = f"there are {', '.join(map(printable, self.players))}" if self.players else "the run has one player only"
            raise InputError(f"--player {printable(player)}: no such player; {choices}{did_you_mean(player, self.players)}")
        own = _steps(self.path / "players" / player if player else self.path / "checkpoints")
        if player and 0 not in own:
            own = {step: folder for step, folder in _steps(self.path / "checkpoints").items() if step == 0} | own
        if not own:
            raise InputError(f"{printable(self.path)}: has no checkpoints; they are needed")
        return own

    def load(self, checkpoint: Path) -> Policy:
        """Load a checkpoint with the dtypes of the run."""
        from dynamics.train import policy

        compute = str(self.document.get("compute_dtype") or self.config.compute_dtype)
        return policy.load(str(checkpoint), None, self.config.master_dtype, compute)

    def tasks(self, language: Language) -> list[Task]:
        """Return the different tasks that the run proposed, or of a run on the laboratory without proposals those that it was given.

        In the order of steps. Others are counted in ``left_out``.
        """
        found: dict[str, Task] = {}
        self.left_out.clear()
        files = self.directory.step_files("rollouts")
        rows = [(step, where, row) for step, file in files.items() for where, row in _rows(file)]
        proposed = any(row.entry is not None for _, _, row in rows)
        for step, where, row in rows:
            if proposed and (row.entry is None or not row.valid):
                continue
            entry = row.entry.converted(where) if row.entry is not None else _given(row, step)
            if entry is None:
                self.left_out["problems that are not deduction or abduction of the laboratory"] += 1
                continue
            found.setdefault(language.key(entry.kind, entry.proposed), Task(step, entry))
        if not found:
            raise InputError(
                f"{printable(self.path / 'rollouts')}: has no tasks that can be asked again: neither valid proposals nor deduction or "
                "abduction of the laboratory"
            )
        return list(found.values())

    def hints(self) -> list[ShownHint]:
        """Return the different hints of the run that were shown, in the order of steps; they are a stranger's texts."""
        found: dict[tuple[str, str], ShownHint] = {}
        for step, file in self.directory.step_files("rollouts").items():
            for _, row in _rows(file):
                if row.role == "adversary" and row.valid:
                    found.setdefault((row.problem, row.hint), ShownHint(step, row.problem, row.hint))
        if not found:
            raise InputError(f"{printable(self.path / 'rollouts')}: has no hint that was shown; a run with --adversary none writes none")
        return list(found.values())


def open_finished(path: Path) -> FinishedRun:
    """Open a run directory of ``dynamics.train``.

    Raises
    ------
    InputError : the folder holds no run, or a run of a method that is not known.
    """
    if not (path / "run.json").is_file():
        raise InputError(f"{printable(path)}: is no run directory of dynamics.train (no run.json)")
    document = RunDirectory(path).read_run()
    method = document.get("method")
    if method not in METHODS:
        raise InputError(f"{printable(path / 'run.json')}: method {printable(method, 40)!r} is none of {', '.join(METHODS)}")
    config = converted(document.get("config"), METHODS[str(method)], printable(path / "run.json"))
    return FinishedRun(path, document, config)


def _steps(folder: Path) -> dict[int, Path]:
    found = {one: one.name.removeprefix("step_") for one in folder.glob("step_*") if one.is_dir()}
    return dict(sorted((int(number), one) for one, number in found.items() if number.isdecimal()))


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    for number, line in read_json_lines(path):
        where = f"{printable(path)}, line {number}"
        yield where, converted(line, _Row, where)


def _given(row: _Row, step: int) -> BufferEntry | None:
    """Return the task of an answer to a problem of the laboratory."""
    value = read(row.input) if row.program and row.task in _FORMS else None
    if value is None:
        return None
    try:
        program = str(labelled(row.program))
    except ValueError:
        return None
    return BufferEntry(row.task, ProposedTask(program, ((value,),)), (), step)
