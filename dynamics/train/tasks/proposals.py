"""The task ``proposals``: a warm start on the format of self-play proposals."""

from __future__ import annotations

from dynamics.train.rng import stream
from dynamics.train.sandbox.expressions import as_function
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks.problem import TASK_TYPES, Problem, ProposedTask, Question, Verdict
from dynamics.train.tasks.prompt_formats import Notation, PlainText, PromptFormat
from dynamics.train.tasks.triplets import draw_triplet


class Proposals:
    """Questions that ask for a proposal, with a random task of the small language as the answer.

    ``plain``: plain text rather than the notation of the embedded model.
    """

    name = "proposals"

    def __init__(self, plain: bool = True):
        self.plain = plain

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return questions with task types in turn; programs are always from the split ``training``."""
        prompt_format: PromptFormat = PlainText() if self.plain else Notation()
        rng = stream(seed, f"proposals {split}")
        questions: list[Question] = []
        while len(questions) < count:
            kind = TASK_TYPES[len(questions) % 3]
            problem, other = draw_triplet(rng, kind, "training"), draw_triplet(rng, "deduction", "training")
            if problem is None or other is None:
                continue
            program = self._program(problem)
            proposed = ProposedTask(program, problem.inputs)
            shown_program = program if kind == "induction" else None
            prompt = prompt_format.proposal_prompt(kind, [ProposedTask(self._program(other), other.inputs)], shown_program)

            def check(text: str, kind: str = kind, program: str | None = shown_program) -> Verdict:
                try:
                    prompt_format.parse_proposal(kind, text, program)
                except Refused as error:
                    return Verdict.binary(False, str(error))
                return Verdict.binary(True)

            answer = prompt_format.format_proposal(kind, proposed)
            questions.append(Question(f"{split} proposal {len(questions)}", prompt, answer, kind, split, check))
        return questions

    def _program(self, problem: Problem) -> str:
        return as_function(problem.program) if self.plain else problem.program
