"""Where the problems of a run come from: a task by its name, or what another run has recorded.

``proposed:RUN`` are the valid proposals of a run of a game that makes tasks, ``correct:RUN`` the correct samples of a run of RLVR, both in
the order in which they were recorded. They are the controls that take the problems, or the answers, of a method and leave out the rest of
it. The rollouts may be a stranger's: they are read within bounds, and each proposal is run again before it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted, within_bounds
from dynamics.runs.directory import RunDirectory
from dynamics.train import tasks
from dynamics.train.config import CORRECT, PROPOSED
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.curriculum import read_proposals
from dynamics.train.games.languages import Language, Outputs, language
from dynamics.train.tasks.mixture import task_names
from dynamics.train.tasks.problem import TASK_TYPES, Question, Source, Verdict
from dynamics.train.tasks.prompt_formats import LanguageName
from dynamics.train.tasks.records import HALF_PAIR

#: records that are read, and bytes of all files of rollouts
MOST, MOST_BYTES = 1_000_000, 1 << 32
#: prefix of a task -> methods of the run that it names
_METHODS = {PROPOSED: ("selfplay", "pasodoble", "populora"), CORRECT: ("rlvr",)}


class Recorded:
    """Problems that a run has recorded, in that order; for validation and test, those of the task that the run had.

    Parameters
    ----------
    name : as of ``--task``.
    run : the run directory.

    Attributes
    ----------
    of : source of the task of that run.
    record : what is read of it, for ``run.json``.
    nothing : what is said if there is none.
    """

    nothing = "the run has none in its rollouts"

    def __init__(self, name: str, run: Path, of: Source):
        self.name, self.run, self.of = name, run, of
        self.record: dict[str, Any] = {}
        self._questions: list[Question] | None = None

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return ``count`` questions of a split; of more recorded problems, some evenly over all of them, in order."""
        if split != "training":
            return self.of.questions(split, count, seed)
        if self._questions is None:
            with within_bounds(self.run):
                self._questions = self._read()
            if not self._questions:
                raise InputError(f"--task {printable(self.name, 300)}: {self.nothing}")
        found = self._questions
        if count < len(found):
            found = [found[place * len(found) // count] for place in range(count)]
        self.record["used"] = len(found)
        return found

    def _read(self) -> list[Question]:
        raise NotImplementedError

    def files(self) -> list[Path]:
        """List the files of rollouts by step; refuse more than are read."""
        files = list(RunDirectory(self.run).step_files("rollouts").values())
        if (size := sum(file.stat().st_size for file in files)) > MOST_BYTES:
            raise InputError(f"{printable(self.run)}: has {size:,} bytes of rollouts, more than the {MOST_BYTES:,} that are read")
        self.record |= {"run": printable(self.run, 1000), "steps": len(files)}
        return files

    def bounded(self, found: list[Any]) -> None:
        """Refuse a run with too many records."""
        if len(found) > MOST:
            raise InputError(f"{printable(self.run)}: has over {MOST:,} records of problems, more than are read")

    def close(self) -> None:
        """Stop the processes of the source."""


class Proposed(Recorded):
    """The valid proposals of a run of a game that makes tasks: the same task and inputs, posed as the solver met them.

    Each is run again: its recorded outputs must be those of its program, and what the language of the model refuses, such as a program that
    is held out, is refused here too. So the right answer is the program's, also where the game paid for the answer that was claimed.
    """

    nothing = "the run has none in its rollouts; a proposal is a program that ran, and problems in words are none"

    def __init__(self, name: str, run: Path, of: Source, spoken: Language):
        super().__init__(name, run, of)
        self.spoken = spoken

    def _read(self) -> list[Question]:
        entries: list[tuple[str, BufferEntry]] = []
        for file in self.files():
            for where, read in read_proposals(file):
                if read.kind not in TASK_TYPES:
                    raise InputError(f"{where}: {printable(read.kind, 40)!r} is no task type; there are {', '.join(TASK_TYPES)}")
                entries.append((where, _shaped(read.converted(where), where)))
            self.bounded(entries)
        for (where, entry), made in zip(entries, self._run(entries), strict=True):
            if made != entry.outputs or repr(made) != repr(entry.outputs):
                why = made if isinstance(made, str) else "its program has other outputs than are recorded"
                raise InputError(f"{where}: is not a valid task for this model: {printable(why, 80)}; start from the base of that run")
        distinct = {self.spoken.key(entry.kind, entry.proposed) for _, entry in entries}
        self.record |= {"records": len(entries), "distinct": len(distinct)}
        return [
            self.spoken.question(entry.kind, entry.proposed, entry.outputs, f"proposal {entry.step}.{number} {entry.kind}")
            for number, (_, entry) in enumerate(entries)
        ]

    def _run(self, entries: Sequence[tuple[str, BufferEntry]]) -> list[Outputs]:
        """Run all tasks; of those that no proposer can have written, the first is named."""
        try:
            return self.spoken.run([entry.proposed for _, entry in entries])
        except Exception:  # a language expects what it has read itself, and here is a stranger's file
            for where, entry in entries:
                self._run_one(where, entry)
            raise

    def _run_one(self, where: str, entry: BufferEntry) -> None:
        try:
            self.spoken.run([entry.proposed])
        except Exception as error:
            raise InputError(f"{where}: is not a task that this model can propose: {printable(error, 120)}") from None

    def close(self) -> None:
        """Stop the processes that run programs."""
        self.spoken.close()


def _shaped(entry: BufferEntry, where: str) -> BufferEntry:
    """Check the shape of a task: calls with one argument or more, and an output for each."""
    inputs, outputs = entry.proposed.inputs, entry.outputs
    calls = isinstance(inputs, tuple) and inputs and all(isinstance(call, tuple) and call for call in inputs)
    if not calls or not isinstance(outputs, tuple) or len(outputs) != len(inputs):
        raise InputError(f"{where}: its inputs are not a tuple of calls with an output each")
    return entry


class _Sample(msgspec.Struct):
    """The fields of a rollout of RLVR that are read."""

    prompt: str
    completion: str
    task: str
    problem: str
    reward: float
    ended: str = ""
    role: str = "solver"
    program: str = ""
    input: str = ""
    depth: int = 0


class Correct(Recorded):
    """The correct samples of a run of RLVR, each a problem with this answer: as often as they were sampled, in that order.

    Samples that were cut at the limit are left out: they do not end. Texts are tokenised again, so a sample need not have the tokens
    that it was sampled with. Nothing of them is run.
    """

    def _read(self) -> list[Question]:
        found: list[Question] = []
        cut = 0
        for file in self.files():
            for where, sample in _samples(file):
                if sample.role != "solver" or not sample.reward >= 1:
                    continue
                if sample.ended == "length":
                    cut += 1
                    continue
                if HALF_PAIR.search(sample.prompt) or HALF_PAIR.search(sample.completion):
                    raise InputError(f"{where}: holds half of a surrogate pair, which no tokenizer reads")
                name = f"sample {len(found)} of {sample.problem}"
                about = (sample.program, sample.input, sample.depth)
                found.append(Question(name, sample.prompt, sample.completion, sample.task, "training", _imitated, *about))
            self.bounded(found)
        distinct = len({(question.prompt, question.answer) for question in found})
        self.record |= {"records": len(found), "distinct": distinct, "left_out_cut": cut}
        return found


def _samples(path: Path) -> Iterator[tuple[str, _Sample]]:
    for number, row in read_json_lines(path):
        where = f"{printable(path)}, line {number}"
        yield where, converted(row, _Sample, where)


def _imitated(_: str) -> Verdict:
    raise InputError("a recorded sample is an answer to imitate, by sft; what it is compared with is not recorded")


def find(name: str, speaks: LanguageName, allow_unconfined: bool = False) -> Source:
    """Return the source of problems of a run.

    Parameters
    ----------
    name : ``proposed:RUN``, ``correct:RUN``, or what ``tasks.source`` knows.
    speaks : what the model reads.
    allow_unconfined : run programs and scorers of other packages without a sandbox if none is available.

    Raises
    ------
    InputError : there is no such task or run, or it is a run of another method.
    """
    plain = speaks == "plain"
    prefix = next((prefix for prefix in _METHODS if name.startswith(prefix)), None)
    if prefix is None:
        return tasks.source(name, plain, allow_unconfined)
    run, shown = Path(name.removeprefix(prefix)), f"--task {printable(name, 300)}"
    if not name.removeprefix(prefix) or not (run / "run.json").is_file():
        raise InputError(f"{shown}: names no run directory (no run.json)")
    document = RunDirectory(run).read_run()
    if document.get("method") not in _METHODS[prefix]:
        raise InputError(f"{shown}: is a run of {printable(document.get('method'), 40)}; needs one of {' or '.join(_METHODS[prefix])}")
    of = tasks.source(_task_of(document, shown), plain, allow_unconfined)
    return Proposed(name, run, of, language(speaks, allow_unconfined)) if prefix == PROPOSED else Correct(name, run, of)


def _task_of(document: dict[str, Any], shown: str) -> str:
    """Return the task of a run, which its own ``run.json`` names: one of this package only, and no file, which is not opened unasked."""
    task = (document.get("config") or {}).get("task")
    known = task_names()
    if not isinstance(task, str) or not all(part.partition(":")[0] in known for part in task.split("+")):
        raise InputError(f"{shown}: the task of that run is {printable(task, 80)!r}, a file or unknown, which is not opened unasked")
    return task


def parts(source: Source) -> Sequence[Source]:
    """Return the sources of a mixture, or the source itself; of recorded problems, those of the task of that run."""
    return tasks.parts(source.of if isinstance(source, Recorded) else source)


def close(source: Source) -> None:
    """Stop the processes of a source, if it has any."""
    if isinstance(source, Recorded):
        source.close()
