"""Tasks of the package reasoning-gym."""

from __future__ import annotations

import importlib
import json
import pickle
from typing import Any, ClassVar

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.train.tasks.judges import LibraryScorer, ScoredAnswer
from dynamics.train.tasks.problem import Question
from dynamics.train.tasks.prompt_formats import ANSWER_REQUEST, extract_answer


class ReasoningGym:
    """A reasoning-gym task, generated and scored by that package. ``chain_sum:max_terms=2,max_digits=1`` sets its parameters.

    The answer is the text between <answer> and </answer>, or the whole completion without such tags. Some scorers give partial credit to
    wrong answers; it counts in the reward, but the answer does not count as correct. Scorers run in the sandbox.

    Parameters
    ----------
    name : task, with its parameters.
    allow_unconfined : run its scorer without a sandbox if none is available.
    """

    _OFFSETS: ClassVar = {"training": 0, "validation": 1, "test": 2}

    def __init__(self, name: str, allow_unconfined: bool = False):
        self.name, _, rest = name.partition(":")
        task = f"task {printable(name)!r}"
        with optional_import(f"task {printable(name)}"):
            self.gym = importlib.import_module("reasoning_gym")
        try:
            self.settings = {key: json.loads(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}
            data = self.gym.create_dataset(self.name, size=1, seed=0, **self.settings)
            first = data[0]
        except Exception as error:  # whatever the package makes of settings that it does not expect
            raise InputError(f"{task}: its settings are not valid: {printable(error)}") from None
        config = {"name": self.name, "settings": self.settings, "module": type(data).__module__}

        def correct() -> list[tuple[Any, str]]:
            return [] if first.get("answer") is None else [(first, str(first["answer"]).strip())]

        self.scorer = LibraryScorer(task, "reasoning_gym", name, config, correct, allow_unconfined)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Generate the questions of a split; each split has its own seed."""
        data = self.gym.create_dataset(self.name, size=count, seed=3 * seed + self._OFFSETS.get(split, 0), **self.settings)
        questions = []
        for number in range(count):
            entry = data[number]
            answer = f"<answer>{entry['answer']}</answer>" if entry.get("answer") is not None else None
            verify = ScoredAnswer(self.scorer, pickle.dumps(entry), _answer)
            questions.append(
                Question(f"{self.name} {split} {seed}.{number}", f"{entry['question']}\n{ANSWER_REQUEST}", answer, self.name, split, verify)
            )
        return questions

    def check_gradable(self, split: str, count: int) -> None:
        """Check that answers can be scored: start the scorer."""
        del split, count
        _ = self.scorer.judge

    def executor(self) -> str:
        """Describe where answers are scored."""
        return self.scorer.executor()


def _answer(text: str) -> str:
    answer = extract_answer(text)
    return text.strip() if answer is None else answer
