"""What a task is made of: problems, the questions that ask for them, verdicts on answers, and tasks that a model proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dynamics.errors import InputError, printable

TASK_TYPES = ("deduction", "abduction", "induction")
#: equal parts of the test problems: programs of the embedded model's pre-training on other inputs, new ones, deeper ones on larger values
TEST_SETS = ("seen", "unseen", "ood")
#: of an induction problem: pairs in all, and how many of them the solver sees
PAIRS, SHOWN_PAIRS = 5, 2


@dataclass(frozen=True)
class Verdict:
    """``score``: 1 for a correct answer; tasks with their own scorer may give parts of it. ``reason``: in a few words, why not."""

    correct: bool
    reason: str
    score: float

    @classmethod
    def binary(cls, correct: bool, reason: str = "") -> Verdict:
        """Score 1 for a correct answer, which needs no reason, and 0 for any other."""
        return cls(correct, "" if correct else reason, float(correct))


@dataclass(frozen=True)
class Problem:
    """A program with inputs (tuples of arguments) and its outputs; ``kind`` one of deduction, abduction, induction."""

    kind: str
    program: str
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Any, ...]
    id: str


@dataclass(frozen=True)
class Question:
    """What a run asks: ``prompt`` and ``answer`` (a correct completion, if one is known) as text, and what decides.

    ``task`` is the kind of problem, ``split`` the set it is from: training, validation, or of the test sets
    ``seen`` (programs of pre-training, other inputs), ``unseen`` (programs met nowhere before) and ``ood`` (deeper, larger).
    """

    id: str
    prompt: str
    answer: str | None
    task: str
    split: str
    verify: Callable[[str], Verdict]


class Source(Protocol):
    """Questions of one split, the first ``count`` of a stream that depends on the seed alone."""

    name: str

    def questions(self, split: str, count: int, seed: int) -> list[Question]: ...


@dataclass(frozen=True)
class ProposedTask:
    """A program and argument tuples that a text proposes; ``message`` may describe the program to whoever has to guess it."""

    program: str
    inputs: tuple[tuple[Any, ...], ...]
    message: str = ""


def judge(question: Question, text: str) -> Verdict:
    """The verdict on a text. A verifier that fails is the task's fault, and ends the run rather than count as a wrong answer."""
    try:
        return question.verify(text)
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {printable(error, 80)}"
        raise InputError(f"the verifier of {printable(question.id, 80)} failed on {printable(text, 60)!r}: {said}") from error
