"""Steps of solutions in plain text, for SPC on models other than those of the laboratory.

The base writes solutions of a task; those that are right are cut at their lines. An altered step is wrong if completions from the original
step often end right, and those from the altered one hardly ever: how often is an option, as the paper's numbers are not known.

Everything in a prompt but its frame is text of a model or of a file. It is bounded, without control characters, marks of the frame or
special tokens of the tokenizer; what has any of these is refused. A step may say "this is right": only the critic's own answer is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.train.games.game import Game
from dynamics.train.games.spc_settings import SPCConfig
from dynamics.train.games.steps import UNCHANGED, Place, drawn
from dynamics.train.policy import Policy
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question, Source
from dynamics.train.tasks.prompt_formats import ANSWER_REQUEST, encode_prompts

#: characters of a step and of a completion that are read, and steps of a solution
MAX_STEP, MAX_TEXT, MAX_STEPS = 400, 8000, 40
#: kinds of mistakes that a generator chooses from
MISTAKES = (
    "a slip in a calculation",
    "a wrong sign, or the opposite direction",
    "a number or a name copied wrongly",
    "a rule used where it does not hold",
    "a condition of the problem left out",
    "one quantity mixed up with another",
    "a conclusion that does not follow",
)
STEPS_REQUEST = "Write each step of your reasoning on a line of its own, and end with the final answer, between <answer> and </answer>."
#: marks of the frame of prompts
_FRAME = re.compile(r"<\s*/?\s*(?:problem|solution|step)\b", re.IGNORECASE)
_VERDICT = re.compile(r"verdict[ *]{0,4}:[ *]{0,4}(correct|incorrect)\b", re.IGNORECASE)
_STEP = re.compile(r"[ *]{0,4}step[ *]{0,4}:(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}")


def clean(text: str, special: Sequence[str] = ()) -> str | None:
    """Return a step as one line of printable characters; None if it is empty, too long, or has marks of the frame or special tokens."""
    if len(text) > 4 * MAX_STEP:
        return None
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    refused = not line or len(line) > MAX_STEP or _FRAME.search(line) or any(token in line for token in special)
    return None if refused else line


def defused(text: str, special: Sequence[str]) -> str:
    """Take control characters, marks of the frame and special tokens out of a text of a file; line breaks stay."""
    for token in special:
        text = text.replace(token, " ")
    kept = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
    return _FRAME.sub("(", kept).strip()


def judge_prompt(problem: str, before: Sequence[str], step: str) -> str:
    """Ask whether a step is right, after a problem and the steps before it."""
    return (
        f"{_frame(problem, before, step)}\n\nIs the step right, given the problem and the solution so far? Say in a few sentences what you "
        "checked. Then end with one line, either\nVerdict: Correct\nor\nVerdict: Incorrect"
    )


def wrong_step_prompt(problem: str, before: Sequence[str], step: str) -> str:
    """Ask for a wrong step in place of a right one."""
    mistakes = "\n".join(f"- {name}" for name in MISTAKES)
    return (
        f"{_frame(problem, before, step)}\n\nThe step is right. Write it again with one mistake that is hard to notice and leads to a "
        f"wrong answer. Choose one kind of mistake:\n{mistakes}\nAnswer with two lines:\nMistake: the kind of mistake\nStep: the wrong step"
    )


def _frame(problem: str, before: Sequence[str], step: str) -> str:
    problem = _FRAME.sub("(", problem.replace(ANSWER_REQUEST, "").strip())
    so_far = "\n".join(before) if before else "(nothing yet)"
    return f"<problem>\n{problem}\n</problem>\n<solution>\n{so_far}\n</solution>\n<step>\n{step}\n</step>"


def read_verdict(text: str) -> bool | None:
    """Read the last verdict of a judgement: whether it is Correct; None if there is none."""
    found = _VERDICT.findall(text[-MAX_TEXT:])
    return found[-1].lower() == "correct" if found else None


def read_wrong_step(text: str, special: Sequence[str] = ()) -> tuple[str, str]:
    """Read the step after the last ``Step:``; give it, and why it is not valid, empty if it is."""
    found = [match[1] for line in text[:MAX_TEXT].splitlines() if (match := _STEP.fullmatch(line))]
    if not found:
        return "", "no line with a step"
    step = clean(found[-1], special)
    return (step, "") if step is not None else ("", "empty, too long, or with marks")


def cut(text: str, special: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Cut a solution at its lines into steps; None if it has too many, or one that is refused."""
    lines = [line for line in text[: MAX_TEXT + 1].splitlines() if line.strip()]
    steps = [clean(line, special) for line in lines]
    refused = len(text) > MAX_TEXT or not 0 < len(steps) <= MAX_STEPS or None in steps
    return None if refused else tuple(step for step in steps if step is not None)


def altered_by_rule(step: str, rng: np.random.Generator) -> str | None:
    """Change a number of a step to one that is near; None if it has none."""
    numbers = list(_NUMBER.finditer(step))
    if not numbers:
        return None
    chosen = numbers[int(rng.integers(len(numbers)))]
    change = int(rng.choice((-10, -2, -1, 1, 2, 10)))
    value = int(chosen[0]) + change
    return f"{step[: chosen.start()]}{value if value >= 0 else int(chosen[0]) - change}{step[chosen.end() :]}"


class WrittenSteps:
    """Lines of right solutions that the base wrote.

    Parameters
    ----------
    game : by which the base is asked.
    base : the untrained model.
    config : settings.
    source : of the problems.

    Attributes
    ----------
    solutions : number of the problem, and steps, of each right solution of a training problem.
    """

    def __init__(self, game: Game, base: Policy, config: SPCConfig, source: Source):
        self.game, self.base, self.config, self.source = game, base, config, source
        self.executor = f"{config.completions} completions by the base"
        self.special = tuple(token for token in base.tokenizer.all_special_tokens if token)
        self.solutions: list[tuple[int, tuple[str, ...]]] = []
        self._questions = lru_cache(maxsize=8)(self._asked)
        self._held_out = lru_cache(maxsize=4)(self._solve)

    def _asked(self, split: str, count: int) -> list[Question]:
        return self.source.questions(split, count, self.config.seed)

    def _of(self, place: Place) -> Question:
        count = self.config.num_solutions if place.split == "training" else max(self.config.critic_problems, place.problem + 1)
        return self._questions(place.split, count)[place.problem]

    def collect(self) -> None:
        """Let the base write solutions of training problems, and keep the right ones."""
        self.solutions = self._solve("training", self.config.num_solutions)
        if not self.solutions:
            raise InputError(
                f"--task {self.config.task}: none of {self.config.num_solutions} solutions by the base is right, and in lines that can be "
                "read; train it on the task first (sft), choose an easier task or a larger model, or give a larger --num-solutions"
            )

    def _solve(self, split: str, count: int) -> list[tuple[int, tuple[str, ...]]]:
        """Return the right solutions of problems, with the number of each problem."""
        questions = self._questions(split, count)
        groups = self.game.ask(self.base, encode_prompts(self.base.tokenizer, list(map(_solution_prompt, questions))), 1, f"spc {split}", 0)
        found = []
        for number, ((sampled, text, verdict),) in enumerate(self.game.judge(questions, groups)):
            steps = cut(text, self.special) if verdict.correct and sampled.ended != "length" else None
            if steps is not None:
                found.append((number, steps))
        return found

    def _places(self, split: str, solutions: Sequence[tuple[int, tuple[str, ...]]]) -> list[Place]:
        return [
            Place(f"{split} problem {number}, step {index + 1}", number, steps[:index], step, split)
            for number, steps in solutions
            for index, step in enumerate(steps)
        ]

    def draw(self, round_: int, count: int) -> list[Place]:
        """Draw places from all steps of the right solutions, each at most once until all have been drawn."""
        places = self._places("training", self.solutions)
        return [places[index] for index in drawn(self.config.seed, round_, count, len(places))]

    def held_out(self, count: int) -> list[Place]:
        """Return a step of each right solution of ``count`` held-out problems, which are fewer."""
        places = []
        for number, steps in self._held_out("test", count):
            own = self._places("test", [(number, steps)])
            places.append(own[number % len(own)])
        return places

    def generator_prompt(self, place: Place) -> str:
        """Ask for a wrong step, of a kind of mistake."""
        return wrong_step_prompt(self._of(place).prompt, place.before, place.step)

    def critic_prompt(self, place: Place, step: str) -> str:
        """Ask for an analysis and a verdict."""
        return judge_prompt(self._of(place).prompt, place.before, step)

    def read_step(self, place: Place, text: str) -> tuple[str, str]:
        """Read the step after ``Step:``."""
        del place
        return read_wrong_step(text, self.special)

    def refute(self, altered: Sequence[tuple[Place, str]], purpose: str, step: int) -> list[str]:
        """Complete from the original steps and from the altered ones, and compare the shares of right completions."""
        asked = [(place, text) for place, text in altered if text != place.step]
        rates = self._rates([*((place, place.step) for place, _ in asked), *asked], purpose, step)
        config, reasons = self.config, []
        of_asked = iter(zip(rates[: len(asked)], rates[len(asked) :], strict=True))
        for place, text in altered:
            if text == place.step:
                reasons.append(UNCHANGED)
                continue
            original, changed = next(of_asked)
            uncertain, harmless = original < config.right_at_least, changed > config.wrong_at_most
            reasons.append("the original fails" if uncertain else "the altered succeeds" if harmless else "")
        return reasons

    def _rates(self, begun: Sequence[tuple[Place, str]], purpose: str, step: int) -> list[float]:
        """Return the share of right completions by the base after each step."""
        if not begun:
            return []
        questions = [self._of(place) for place, _ in begun]
        prefixes = ["\n".join([*place.before, text]) + "\n" for place, text in begun]
        prompts = encode_prompts(self.base.tokenizer, list(map(_solution_prompt, questions)))
        ids = [
            np.concatenate([prompt, np.array(self.base.tokenizer(prefix, add_special_tokens=False)["input_ids"], np.int64)])
            for prompt, prefix in zip(prompts, prefixes, strict=True)
        ]
        groups = self.game.ask(self.base, ids, self.config.completions, f"{purpose} completions", step)
        with self.game.spent.outside_model():
            rates = []
            for question, prefix, group in zip(questions, prefixes, groups, strict=True):
                texts = [prefix + self.game.text(sampled) for sampled in group]
                rates.append(float(np.mean([verdict.correct for verdict in judge_all([question] * len(texts), texts)])))
        return rates

    def read_verdict(self, step: str, text: str) -> bool | None:
        """Read the last verdict."""
        del step
        return read_verdict(text)

    def by_rule(self, place: Place, rng: np.random.Generator) -> str | None:
        """Change a number. Whether the step is wrong then is not checked here: imitation takes it as wrong."""
        return altered_by_rule(place.step, rng)

    def generation(self, place: Place, step: str) -> str:
        """Write the two lines of a generator."""
        del place
        return f"Mistake: {MISTAKES[2]}\nStep: {step}"

    def judgement(self, place: Place, step: str, right: bool) -> str:
        """Write a short analysis with the verdict."""
        if right:
            return "The step follows from the problem and from what stands before it.\nVerdict: Correct"
        return f"Here stands: {step}\nIt should be: {place.step}\nVerdict: Incorrect"

    def about(self, place: Place) -> dict[str, Any]:
        """Return nothing: the name of a place is all that is known."""
        del place
        return {}

    def state(self) -> dict[str, Any]:
        """Return the solutions."""
        return {"solutions": [[number, list(steps)] for number, steps in self.solutions]}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore the solutions."""
        self.solutions = [(int(number), tuple(map(str, steps))) for number, steps in kept["solutions"]]


def _solution_prompt(question: Question) -> str:
    """Ask for a solution in lines."""
    if ANSWER_REQUEST in question.prompt:
        return question.prompt.replace(ANSWER_REQUEST, STEPS_REQUEST)
    return f"{question.prompt}\n{STEPS_REQUEST}"
