"""Data types of tasks: problems, questions, verdicts on answers, sources of questions, and proposed tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dynamics.errors import InputError, printable
from dynamics.train.step_checks import StepChecks

TASK_TYPES = ("deduction", "abduction", "induction")
#: number of input-output pairs of an induction problem, and of those shown to the solver
PAIRS, SHOWN_PAIRS = 5, 2


@dataclass(frozen=True)
class Verdict:
    """A verifier's verdict on an answer.

    Attributes
    ----------
    correct : whether the answer is correct.
    reason : short reason why it is not.
    score : 1 for a correct answer; tasks with their own scorer can give partial credit.
    failure : why the scorer of another package could not judge the answer, which is wrong then: code, size, nan, exception, time, memory,
        death or range; empty otherwise.
    """

    correct: bool
    reason: str
    score: float
    failure: str = ""

    @classmethod
    def binary(cls, correct: bool, reason: str = "") -> Verdict:
        """Return a verdict with score 1 for a correct answer, and score 0 with a reason otherwise."""
        return cls(correct, "" if correct else reason, float(correct))


@dataclass(frozen=True)
class Problem:
    """A program with inputs and its outputs.

    Attributes
    ----------
    kind : the task type: deduction, abduction or induction.
    program : an expression over x, or a function f.
    inputs : a tuple of arguments for each call.
    outputs : of these calls.
    id : unique identifier.
    """

    kind: str
    program: str
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Any, ...]
    id: str


@dataclass(frozen=True)
class Question:
    """A prompt with its verifier.

    Attributes
    ----------
    id : unique identifier.
    prompt : as text.
    answer : a correct completion, or None if none is known.
    task : task type.
    split : training, validation, or a test set: ``seen``, ``unseen`` and ``ood`` (``TEST_SETS``), or the name of a set of the laboratory
        (``lab.problems.SETS``).
    verify : returns the verdict on a completion.
    program : that it is about, as text: of a problem of the laboratory ``lab.programs.Program.label``; empty if the task has none.
    input : of a problem of the laboratory, as the notation writes it: the input to which the answer belongs.
    depth : operations of such a program.
    check_steps : checks the steps of a completion; None if the task has none that can be checked.
    """

    id: str
    prompt: str
    answer: str | None
    task: str
    split: str
    verify: Callable[[str], Verdict]
    program: str = ""
    input: str = ""
    depth: int = 0
    check_steps: Callable[[str], StepChecks] | None = None

    def about_program(self) -> dict[str, Any]:
        """Return the fields by which records of answers name the program of a problem of the laboratory; none for others."""
        return {"program": self.program, "input": self.input, "depth": self.depth} if self.depth else {}


def pool_of(task: str, questions: Sequence[Question]) -> dict[str, Any]:
    """Describe what a run trains on, for ``run.json``: numbers and checksums that do not depend on order and repetition.

    Parameters
    ----------
    task : name of the task.
    questions : of the training split.

    Returns
    -------
    dict
        ``task``; ``problems`` and ``problems_checksum`` of the different prompts; ``programs`` and ``programs_checksum`` of the different
        programs, None if a question has none.
    """
    prompts = {question.prompt for question in questions}
    programs = {question.program for question in questions if question.program}
    known = all(question.program for question in questions)
    return {
        "task": task,
        "problems": len(prompts),
        "problems_checksum": _checksum(prompts),
        "programs": len(programs) if known else None,
        "programs_checksum": _checksum(programs) if known else None,
    }


def recorded_of(source: Source) -> dict[str, Any]:
    """Return what a source says of the run that recorded its problems, for ``run.json``; nothing of other sources."""
    record = getattr(source, "record", None)
    return {"recorded": record} if record else {}


def _checksum(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in sorted(texts):
        digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@runtime_checkable
class Source(Protocol):
    """A source of questions."""

    name: str

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return ``count`` questions of a split, training, validation or test: the first of a sequence that depends only on the seed."""


@runtime_checkable
class ScoredSource(Source, Protocol):
    """A source whose answers another package scores."""

    def check_gradable(self, split: str, count: int) -> None:
        """Check that answers to the first ``count`` questions of a split can be scored here; raise InputError if not."""

    def executor(self) -> str:
        """Describe where the scorer runs."""


@dataclass(frozen=True)
class ProposedTask:
    """A task parsed from a proposal.

    Attributes
    ----------
    program : an expression over x, or a function f.
    inputs : a tuple of arguments for each call.
    message : hint that describes the program to the solver of an induction task; may be empty.
    """

    program: str
    inputs: tuple[tuple[Any, ...], ...]
    message: str = ""


def judge(question: Question, text: str) -> Verdict:
    """Verify a completion. An exception in the verifier raises InputError, which ends the run, and is not a wrong answer."""
    try:
        return question.verify(text)
    except InputError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {printable(error, 80)}"
        raise InputError(f"the verifier of {printable(question.id, 80)} failed on {printable(text, 60)!r}: {message}") from error
