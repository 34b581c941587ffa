"""The task ``proposals``: a warm start on the form in which a proposer of self-play writes."""

from __future__ import annotations

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import Refused, as_function
from dynamics.train.tasks.problem import TASK_TYPES, Problem, ProposedTask, Question, Verdict
from dynamics.train.tasks.prompt_formats import Notation, PlainText, PromptFormat
from dynamics.train.tasks.triplets import triplet


class Proposals:
    """Asking for tasks, with a task of the small language as the answer: a warm start on the form in which the proposer writes."""

    name = "proposals"

    def __init__(self, plain: bool = True):
        self.plain = plain

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        prompt_format: PromptFormat = PlainText() if self.plain else Notation()
        rng = stream(seed, f"proposals {split}")
        made: list[Question] = []
        while len(made) < count:
            kind = TASK_TYPES[len(made) % 3]
            problem, other = triplet(rng, kind, "training"), triplet(rng, "deduction", "training")
            if problem is None or other is None:
                continue
            program = self._program(problem)
            proposed = ProposedTask(program, problem.inputs)
            given = program if kind == "induction" else None
            prompt = prompt_format.ask(kind, [ProposedTask(self._program(other), other.inputs)], given)

            def check(text: str, kind: str = kind, given: str | None = given) -> Verdict:
                try:
                    prompt_format.read(kind, text, given)
                except Refused as error:
                    return Verdict.binary(False, str(error))
                return Verdict.binary(True)

            made.append(Question(f"{split} proposal {len(made)}", prompt, prompt_format.write(kind, proposed), kind, split, check))
        return made

    def _program(self, problem: Problem) -> str:
        return as_function(problem.program) if self.plain else problem.program
