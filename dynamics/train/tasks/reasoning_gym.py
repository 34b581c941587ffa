"""Tasks of the package reasoning-gym."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.train.tasks.problem import Question, Verdict
from dynamics.train.tasks.prompt_formats import ANSWER_REQUEST, extract_answer


class ReasoningGym:
    """A reasoning-gym task, generated and scored by that package. ``chain_sum:max_terms=2,max_digits=1`` sets its parameters.

    The answer is the text between <answer> and </answer>, or the whole completion without such tags. Some scorers give partial credit to
    wrong answers; it counts in the reward, but the answer does not count as correct.
    """

    _OFFSETS: ClassVar = {"training": 0, "validation": 1, "test": 2}

    def __init__(self, name: str):
        self.name, _, rest = name.partition(":")
        with optional_import(f"task {printable(name)}"):
            self.gym = importlib.import_module("reasoning_gym")
        try:
            self.settings = {key: json.loads(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}
            self.gym.create_dataset(self.name, size=1, seed=0, **self.settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise InputError(f"task {printable(name)!r}: its settings are not valid: {printable(error)}") from None

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Generate the questions of a split; each split has its own seed."""
        data = self.gym.create_dataset(self.name, size=count, seed=3 * seed + self._OFFSETS.get(split, 0), **self.settings)
        questions = []
        for number in range(count):
            entry = data[number]
            answer = f"<answer>{entry['answer']}</answer>" if entry.get("answer") is not None else None
            check = self._check(data, entry)
            questions.append(
                Question(f"{self.name} {split} {seed}.{number}", f"{entry['question']}\n{ANSWER_REQUEST}", answer, self.name, split, check)
            )
        return questions

    @staticmethod
    def _check(data: Any, entry: dict[str, Any]) -> Callable[[str], Verdict]:
        def check(text: str) -> Verdict:
            answer = extract_answer(text)
            score = float(data.score_answer(text.strip() if answer is None else answer, entry))
            return Verdict(score >= 1, "" if score >= 1 else "another answer", score)

        return check
