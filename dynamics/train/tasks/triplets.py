"""Program-input-output triplets, for three task types.

Deduction: given program and input, predict the output. Abduction: given program and output, find an input that gives it. Induction: given
some inputs and outputs, write the program, which is checked on further pairs as well. Splits never share a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Expressions, all_same, literal, same
from dynamics.train.sandbox.literals import Refused
from dynamics.train.sandbox.runner import Runner
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, TASK_TYPES, Problem, Question, Verdict
from dynamics.train.tasks.prompt_formats import extract_answer, is_short_in_notation, problem_in_notation, problem_in_plain_text
from dynamics.train.tasks.test_sets import PROGRAMS_OF_TEST_SET, TEST_SETS


def verify(problem: Problem, answer: str, runner: Runner) -> Verdict:
    """Grade an answer. Values must also agree in type: True is not 1.

    Deduction runs nothing. Abduction runs the given program on the answer, a literal. Induction runs the answer on all pairs, shown or
    not, so that a program that only lists the shown pairs is wrong.
    """
    text = answer.strip()
    if not text:
        return Verdict.binary(False, "empty answer")
    if problem.kind == "induction":
        outcome = runner.run(text, list(problem.inputs), entry="f")
        if outcome.values is None:
            return Verdict.binary(False, outcome.error or "no value")
        return Verdict.binary(all_same(outcome.values, problem.outputs), "other outputs")
    try:
        value = literal(text)
    except Refused as error:
        return Verdict.binary(False, str(error))
    if problem.kind == "deduction":
        return Verdict.binary(same(value, problem.outputs[0]), "another value")
    outcome = runner.run(problem.program, [value if isinstance(value, tuple) and len(problem.inputs[0]) > 1 else (value,)], entry="f")
    if outcome.values is None:
        return Verdict.binary(False, outcome.error or "no value")
    return Verdict.binary(all_same(outcome.values, problem.outputs[:1]), "another output")


class Triplets:
    """Triplets of the small language of ``dynamics.train.tasks.programs``, in notation or in plain text.

    Attributes
    ----------
    task_types : task types, used in turn.
    plain : whether prompts are plain text, for any model, rather than the notation of the embedded model.
    sets : the available test sets.
    runner : runs the programs of answers.
    """

    name = "code"

    def __init__(self, task_types: Sequence[str] = TASK_TYPES, plain: bool = False, runner: Runner | None = None):
        self.task_types = tuple(task_types)
        self.plain = plain
        self.sets = TEST_SETS[1:] if plain else TEST_SETS  # only the embedded model was pre-trained on some of the programs
        self.runner = runner or Expressions()

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return the first ``count`` questions of a split.

        ``split`` is training, validation, pretraining, or test: equal parts of the test sets seen (not for plain text), unseen and ood.
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
        """Return the question of a problem.

        ``message`` is a hint for induction problems in plain text; the notation does not use it.
        """
        if not self.plain:
            prompt, answer = problem_in_notation(problem)
            check = partial(verify, problem, runner=self.runner)
            return Question(problem.id, prompt, answer, problem.kind, split, check, problem.program)

        def check_tagged(text: str) -> Verdict:
            answer = extract_answer(text)
            return Verdict.binary(False, "no answer between tags") if answer is None else verify(problem, answer, self.runner)

        prompt, answer = problem_in_plain_text(problem, message)
        return Question(problem.id, prompt, f"<answer>{answer}</answer>", problem.kind, split, check_tagged, problem.program)


def draw_triplet(rng: np.random.Generator, kind: str, part: str) -> Problem | None:
    """Draw a problem from the programs of a split or test set; None if the drawn program is invalid for the drawn inputs."""
    out_of_distribution = part == "ood"
    split = PROGRAMS_OF_TEST_SET.get(part, part)
    family, program = programs.draw_of(rng, split, 3 if out_of_distribution else None)
    inputs = [(family.inputs(rng, out_of_distribution),) for _ in range(PAIRS if kind == "induction" else 1)]
    outcome = Expressions().run(program, inputs)
    if outcome.values is None or not all(is_short_in_notation(value) for value in outcome.values):
        return None
    if kind == "induction" and len({repr(arguments) for arguments in inputs}) < PAIRS:
        return None
    text = f"{part} {kind} {program} {' '.join(programs.compact(arguments[0]) for arguments in inputs)}"
    return Problem(kind, program, tuple(inputs), tuple(outcome.values), text)
