"""Problems of programs with inputs and outputs, asked in three ways.

A ``Problem`` is a program-input-output triplet: deduction (program and input given, output asked), abduction (program and output given, any
input that works asked), induction (some inputs and outputs given, the program asked, checked on the others too). Programs of different
splits are different programs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Expressions, Refused, literal, same
from dynamics.train.sandbox.runner import Runner
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, TASK_TYPES, Problem, Question, Verdict
from dynamics.train.tasks.prompt_formats import extract_answer, is_short_in_notation, problem_in_notation, problem_in_plain_text
from dynamics.train.tasks.test_sets import PROGRAMS_OF_TEST_SET, TEST_SETS


def verify(problem: Problem, answer: str, runner: Runner) -> Verdict:
    """Judge an answer. Values are compared by type too: True is not 1.

    Deduction runs nothing. Abduction runs the given program on the answer, a literal. Induction runs the answer on every pair, those
    that were shown and those that were not, so that a program which merely lists what it saw is wrong.
    """
    text = answer.strip()
    if not text:
        return Verdict.binary(False, "empty answer")
    if problem.kind == "induction":
        outcome = runner.run(text, list(problem.inputs), entry="f")
        if outcome.values is None:
            return Verdict.binary(False, outcome.error or "no value")
        return Verdict.binary(all(map(same, outcome.values, problem.outputs)), "other outputs")
    try:
        value = literal(text)
    except Refused as error:
        return Verdict.binary(False, str(error))
    if problem.kind == "deduction":
        return Verdict.binary(same(value, problem.outputs[0]), "another value")
    outcome = runner.run(problem.program, [value if isinstance(value, tuple) and len(problem.inputs[0]) > 1 else (value,)], entry="f")
    if outcome.values is None:
        return Verdict.binary(False, outcome.error or "no value")
    return Verdict.binary(same(outcome.values[0], problem.outputs[0]), "another output")


class Triplets:
    """Triplets of the small language of ``dynamics.train.tasks.programs``, in notation or in plain words.

    Attributes
    ----------
    task_types : that are asked in turn.
    plain : in words, for any model; else in the notation of the embedded model.
    sets : the test sets that there are.
    runner : runs the programs of answers.
    """

    name = "code"

    def __init__(self, task_types: Sequence[str] = TASK_TYPES, plain: bool = False, runner: Runner | None = None):
        self.task_types = tuple(task_types)
        self.plain = plain
        self.sets = TEST_SETS[1:] if plain else TEST_SETS  # only the embedded model was pre-trained on some of the programs
        self.runner = runner or Expressions()

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Make ``count`` questions of a split, the first of one stream.

        ``split`` is training, validation, pretraining, or test, which is equal parts of the test sets seen (not in plain words), unseen
        and ood.
        """
        only = "" if self.task_types == TASK_TYPES else f" {' '.join(self.task_types)}"
        rng = stream(seed, f"problems {split}{only}")
        sets = self.sets if split == "test" else (split,)
        by_id: dict[str, Question] = {}
        while len(by_id) < count:
            number = len(by_id)
            part, kind = sets[number % len(sets)], self.task_types[number // len(sets) % len(self.task_types)]
            problem = draw_triplet(rng, kind, part)
            if problem is not None and problem.id not in by_id:
                by_id[problem.id] = self.question(problem, part)
        return list(by_id.values())

    def question(self, problem: Problem, split: str, message: str = "") -> Question:
        """Ask for the answer of a problem.

        ``message`` tells in words what a program does that is to be guessed; the notation has no room for it.
        """
        if not self.plain:
            prompt, answer = problem_in_notation(problem)
            return Question(problem.id, prompt, answer, problem.kind, split, lambda text: verify(problem, text, self.runner))

        def check(text: str) -> Verdict:
            answer = extract_answer(text)
            return Verdict.binary(False, "no answer between tags") if answer is None else verify(problem, answer, self.runner)

        prompt, answer = problem_in_plain_text(problem, message)
        return Question(problem.id, prompt, f"<answer>{answer}</answer>", problem.kind, split, check)


def draw_triplet(rng: np.random.Generator, kind: str, part: str) -> Problem | None:
    """Draw a problem from the programs of a split or test set; None where the program drawn has no value on the input."""
    far = part == "ood"
    split = PROGRAMS_OF_TEST_SET.get(part, part)
    family, program = programs.draw_of(rng, split, 3 if far else None)
    inputs = [(family.inputs(rng, far),) for _ in range(PAIRS if kind == "induction" else 1)]
    outcome = Expressions().run(program, inputs)
    if outcome.values is None or not all(is_short_in_notation(value) for value in outcome.values):
        return None
    if kind == "induction" and len({repr(arguments) for arguments in inputs}) < PAIRS:
        return None
    text = f"{part} {kind} {program} {' '.join(programs.compact(arguments[0]) for arguments in inputs)}"
    return Problem(kind, program, tuple(inputs), tuple(outcome.values), text)
