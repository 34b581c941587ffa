"""What a task is made of: problems, the questions that ask for them, verdicts on answers, and tasks that a model proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dynamics.errors import InputError, printable

TASK_TYPES = ("deduction", "abduction", "induction")
#: of an induction problem: pairs in all, and how many of them the solver sees
PAIRS, SHOWN_PAIRS = 5, 2


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of an answer.

    Attributes
    ----------
    correct : whether it is right.
    reason : in a few words, why not.
    score : 1 for a correct answer; tasks with their own scorer may give parts of it.
    """

    correct: bool
    reason: str
    score: float

    @classmethod
    def binary(cls, correct: bool, reason: str = "") -> Verdict:
        """Score 1 for a correct answer, which needs no reason, and 0 for any other one."""
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
    id : tells problems apart.
    """

    kind: str
    program: str
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Any, ...]
    id: str


@dataclass(frozen=True)
class Question:
    """What a run asks.

    Attributes
    ----------
    id : tells questions apart.
    prompt, answer : as text; a correct completion, None if none is known.
    task : the kind of problem.
    split : the set it is from: training, validation, or one of the test sets ``seen``, ``unseen`` and ``ood``, see ``TEST_SETS``.
    verify : gives the verdict on a text.
    """

    id: str
    prompt: str
    answer: str | None
    task: str
    split: str
    verify: Callable[[str], Verdict]


@runtime_checkable
class Source(Protocol):
    """Questions of one split, the first ``count`` of a stream that depends on the seed alone."""

    name: str

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Make ``count`` questions of a split: training, validation or test."""


@dataclass(frozen=True)
class ProposedTask:
    """A task that a text proposes.

    Attributes
    ----------
    program : an expression over x, or a function f.
    inputs : a tuple of arguments for each call.
    message : may describe the program to whoever has to guess it.
    """

    program: str
    inputs: tuple[tuple[Any, ...], ...]
    message: str = ""


def judge(question: Question, text: str) -> Verdict:
    """Verify a text. A verifier that fails is the task's fault, and ends the run rather than count as a wrong answer."""
    try:
        return question.verify(text)
    except InputError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {printable(error, 80)}"
        raise InputError(f"the verifier of {printable(question.id, 80)} failed on {printable(text, 60)!r}: {message}") from error
