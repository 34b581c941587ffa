"""Hints: how a model is asked for a misleading one, how it is read, and how a question is asked under it.

There are two forms. In the laboratory a hint is a step, and whether it is true is known; only deduction has hints there. For models that
read plain text it is a sentence, for questions of any task.

Hints are hostile: they are cut to a bounded length, cleaned of everything that could end the prompt that they are put into, and never run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.train.lab import notation
from dynamics.train.lab.examples import wrong_value
from dynamics.train.lab.notation import Step, step_text
from dynamics.train.lab.operations import evaluate, read
from dynamics.train.lab.programs import labelled
from dynamics.train.tasks.problem import Question
from dynamics.train.tasks.prompt_formats import LanguageName, extract_answer

#: longest hint that is shown, and longest text in which one is looked for, in characters
MAX_HINT, MAX_TEXT = 300, 4000
#: task of the laboratory whose questions have hints
DEDUCTION = "deduction"
#: why a hint cannot be shown
NO_HINT, NO_STEP, TOO_LONG, SPECIAL = "no hint", "not a step", "too long", "holds a special token"

#: tags, marks of chat templates and their like: a name between brackets
_TAG = re.compile(r"<[/|]? ?[\w-]{1,40} ?[/|]?>|\[/?[A-Z_]{2,40}\]|<\||\|>|</")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,6})?")


@dataclass(frozen=True)
class Hint:
    """A hint as it was read.

    Attributes
    ----------
    text : as it is shown.
    fault : why it cannot be shown; empty if it can.
    true : whether it is true; None if that cannot be told.
    on_path : whether it is about a step of the program on the input; None if there is no program.
    """

    text: str
    fault: str = ""
    true: bool | None = None
    on_path: bool | None = None


@runtime_checkable
class HintForm(Protocol):
    """A form of hints.

    Attributes
    ----------
    rules : names of the kinds of hints that rules make, without a model: ``wrong``, and perhaps ``true``.
    """

    rules: tuple[str, ...]

    def accepts(self, question: Question) -> bool:
        """Whether a question can have hints."""

    def prompt(self, question: Question) -> str:
        """Ask for a misleading hint."""

    def read(self, question: Question, text: str) -> Hint:
        """Read a hint from what was written; never raises, whatever the text."""

    def written(self, hint: str) -> str:
        """Write a hint as a model would, so that ``read`` gives it again."""

    def under(self, question: Question, hint: str) -> Question:
        """Ask a question under a hint; it has the same verifier."""

    def by_rule(self, rule: str, question: Question, others: Sequence[Question], rng: np.random.Generator) -> str | None:
        """Make a hint by a rule, of ``rules``; None if the question does not allow it. ``others`` are questions of the same task."""


def form_of(language: LanguageName, tokenizer: Any) -> HintForm:
    """Return the form of hints of a model."""
    return LaboratoryHints() if language == "lab" else PlainTextHints(tokenizer)


def check_task(task: str, model: str, language: LanguageName, forms: Sequence[str]) -> None:
    """Refuse a task without hints.

    Parameters
    ----------
    task, model : as given on the command line.
    language : what the model reads.
    forms : of a task of the laboratory; empty for others.
    """
    if language == "notation":
        raise InputError(
            f"--model {printable(model, 200)}: its notation has no form for hints; use --model lab --task lab-deduction, or a model that "
            "reads plain text"
        )
    if language == "lab" and tuple(forms) != (DEDUCTION,):
        raise InputError(f"--task {printable(task, 80)}: in the laboratory only deduction has hints; use --task lab-deduction")


class LaboratoryHints:
    """Hints of the laboratory: a step ``expression=value``, by the form ``<H>``.

    Rules: ``wrong``, a step of the program with a wrong value, and ``true``, a step as it is, which shows what any hint does.
    """

    rules: tuple[str, ...] = ("wrong", "true")

    def accepts(self, question: Question) -> bool:
        """Whether it is a question of deduction."""
        return question.task == DEDUCTION

    def prompt(self, question: Question) -> str:
        """Ask for a hint."""
        return notation.hint_prompt(labelled(question.program), read(question.input))

    def read(self, question: Question, text: str) -> Hint:
        """Read a step; only an operation on a literal that is defined, with a value, is shown."""
        mark, _, body = text[: notation.MAX_TEXT].partition("<hint>")
        if mark or not body:
            return Hint("", NO_HINT)
        if len(body) > MAX_HINT:
            return Hint("", TOO_LONG)
        step = Step(body)
        if step.value is None or evaluate(step.expression) is None:
            return Hint("", NO_STEP)
        expressions = {expression for expression, _ in self._steps(question)}
        return Hint(body, true=step.is_true, on_path=step.expression in expressions)

    def written(self, hint: str) -> str:
        """Write a hint as a model would."""
        return f"<hint>{hint}"

    def under(self, question: Question, hint: str) -> Question:
        """Ask a question under a hint."""
        return replace(question, prompt=notation.deduction_prompt(labelled(question.program), read(question.input), hint))

    def by_rule(self, rule: str, question: Question, others: Sequence[Question], rng: np.random.Generator) -> str | None:
        """Draw a step of the program on the input; its value is wrong by the rule ``wrong``."""
        del others
        steps = self._steps(question)
        expression, value = steps[int(rng.integers(len(steps)))]
        return step_text((expression, wrong_value(rng, value) if rule == "wrong" else value))

    def _steps(self, question: Question) -> list[tuple[str, Any]]:
        return labelled(question.program).steps(read(question.input)) or []


class PlainTextHints:
    """Hints in plain text.

    Rules: ``wrong``, a claim of a wrong answer: a number near the right one, otherwise the answer to another question.

    Parameters
    ----------
    tokenizer : of the model, whose special tokens no hint may hold.
    """

    rules: tuple[str, ...] = ("wrong",)

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        special = {str(token.content) for token in added.values() if token.special} | set(map(str, tokenizer.all_special_tokens))
        self._special = sorted(filter(str.strip, special), key=len, reverse=True)
        self._ids = {int(number) for number, token in added.items() if token.special} | set(map(int, tokenizer.all_special_ids))

    def accepts(self, question: Question) -> bool:
        """Every question can have a hint."""
        del question
        return True

    def prompt(self, question: Question) -> str:
        """Ask for a hint."""
        return (
            f"Here is a problem:\n\n{question.prompt}\n\nDo not solve it. Write one short hint that sounds helpful but leads to a wrong "
            "answer. Give only the hint, between <hint> and </hint>."
        )

    def read(self, question: Question, text: str) -> Hint:
        """Read what stands between the last <hint> and </hint>, or the whole text without such tags, as one clean line."""
        del question
        shown = text[:MAX_TEXT]
        before, closing, _ = shown.rpartition("</hint>")
        _, opening, inside = before.rpartition("<hint>")
        if closing and opening:
            shown = inside
        elif "<hint>" in shown:  # it was cut before the end
            shown = shown.rpartition("<hint>")[2]
        shown = self.cleaned(shown)
        if not any(character.isalnum() for character in shown):
            return Hint("", NO_HINT)
        ids = self.tokenizer(shown, add_special_tokens=False)["input_ids"]
        return Hint("", SPECIAL) if self._ids & set(map(int, ids)) else Hint(shown)

    def cleaned(self, text: str) -> str:
        """Replace special tokens, tags, and control and format characters by spaces, and cut what is left, in one line.

        What is replaced by a space cannot be joined to a new token or tag by the replacement.
        """
        for token in self._special:
            text = text.replace(token, " ")
        text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
        text = _TAG.sub(" ", " ".join(text.split()))
        return " ".join(text.split())[:MAX_HINT].strip()

    def written(self, hint: str) -> str:
        """Write a hint as a model would."""
        return f"<hint>{hint}</hint>"

    def under(self, question: Question, hint: str) -> Question:
        """Ask a question, with the hint in a line of its own behind it."""
        return replace(question, prompt=f"{question.prompt}\n\nHint: {hint}")

    def by_rule(self, rule: str, question: Question, others: Sequence[Question], rng: np.random.Generator) -> str | None:
        """Claim a wrong answer; None if no right one is known, or none that differs from it."""
        del rule
        right = _answer(question)
        if right is None:
            return None
        if match := _NUMBER.fullmatch(right):
            near = float(right) + int(rng.choice((-10, -2, -1, 1, 2, 10)))
            wrong = f"{near:.{len(match[1]) - 1}f}" if match[1] else str(round(near))
        else:
            different = sorted({answer for answer in map(_answer, others) if answer and answer.casefold() != right.casefold()})
            if not different:
                return None
            wrong = different[int(rng.integers(len(different)))]
        return self.cleaned(f"The answer is {wrong}.")


def _answer(question: Question) -> str | None:
    """Return the right answer to a question, without tags; None if it is not known or empty."""
    if question.answer is None:
        return None
    return (extract_answer(question.answer) or question.answer).strip() or None
