"""The problems of the laboratory, as a task: ``lab``, or ``lab-FORM`` for one form.

Every split has the same problems in the same order for every seed. Nothing of an answer is run as Python: values and programs are read by
the laboratory's own parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from dynamics.errors import InputError
from dynamics.train.lab import notation, problems
from dynamics.train.lab.competence import is_right, prompt_of
from dynamics.train.lab.notation import PAIRS, read_completion, scratchpad
from dynamics.train.lab.operations import read, write
from dynamics.train.lab.problems import Case, problem_sets
from dynamics.train.lab.programs import read_program
from dynamics.train.rng import stream
from dynamics.train.tasks.problem import TASK_TYPES, Question, Verdict

#: forms of the task ``lab``; a small base solves hardly any problem of the third form, induction
FORMS = ("deduction", "abduction")
#: split -> sets of ``problems.SETS``, which take turns
SETS_OF = {"training": ("training",), "validation": ("validation", "transfer validation"), "test": problems.TEST_SETS}
#: task name -> its forms
NAMES: dict[str, tuple[str, ...]] = {"lab": FORMS} | {f"lab-{form}": (form,) for form in TASK_TYPES}


class Laboratory:
    """Questions of the laboratory's problem sets.

    Parameters
    ----------
    forms : deduction, abduction and induction, or some of them. The transfer sets have a form of their own, which is always asked.

    Attributes
    ----------
    name : of the task.
    """

    def __init__(self, forms: Sequence[str] = FORMS):
        self.forms = tuple(form for form in TASK_TYPES if form in forms)
        self.name = "lab" if self.forms == FORMS else "+".join(f"lab-{form}" for form in self.forms)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return the first ``count`` questions of a split, training, validation or test; all of them if there are fewer.

        A set begins with each of its programs once, in one of the forms; then come the other forms, and in training the other inputs.
        """
        del seed  # the same problems for every seed
        if split not in SETS_OF:
            raise InputError(f"--task {self.name}: has no split {split}; there are {', '.join(SETS_OF)}")
        waiting = [self._questions_of(name) for name in SETS_OF[split]]
        found: list[Question] = []
        while waiting and len(found) < count:
            source = waiting.pop(0)
            question = next(source, None)
            if question is not None:
                found.append(question)
                waiting.append(source)
        return found

    def _questions_of(self, name: str) -> Iterator[Question]:
        """Yield the questions of a set; two inputs with the same output give one abduction problem."""
        cases = problem_sets()[name]
        order = stream(problems.SEED, f"laboratory order {name}").permutation(len(cases))
        forms = ("transfer",) if name.startswith("transfer") else self.forms
        rank = _ranks([cases[index].program.depth for index in order])
        asked: set[str] = set()
        for which in range(PAIRS if name == "training" else 1):
            for turn in range(len(forms)):
                for place, index in enumerate(order):
                    form = forms[(rank[place] + turn) % len(forms)]
                    case = Case(cases[index].program, (*cases[index].inputs[which:], *cases[index].inputs[:which]))
                    question = ask(form, case, name, f"{name} {form} {_given(form, case)}", int(index))
                    if question.id not in asked and not (which and form == "induction"):
                        asked.add(question.id)
                        yield question


def _ranks(depths: Sequence[int]) -> list[int]:
    """Count the programs of each depth from 0, so that forms take turns within it."""
    return [depths[:place].count(depth) for place, depth in enumerate(depths)]


def _given(form: str, case: Case) -> str:
    """Say what is given of a problem: it is another one if this differs."""
    given = f"-> {write(case.outputs[0])}" if form == "abduction" else f"of {write(case.inputs[0])}"
    return f"{case.program.label} {given}"


def ask(form: str, case: Case, split: str, name: str, number: int = 0) -> Question:
    """Make a question.

    Parameters
    ----------
    form : of ``notation.SOLVED``.
    case : its program and inputs.
    split : set that the question belongs to.
    name : becomes its id.
    number : selects the names of variables of transfer.
    """
    return Question(
        name,
        prompt_of(form, case, number),
        solution(form, case),
        form,
        split,
        partial(verify, form, case),
        case.program.label,
        write(case.inputs[0]),
        case.program.depth,
        partial(notation.check_completion, form, case.program, case.inputs[0]),
    )


def solution(form: str, case: Case) -> str:
    """Write the right solution, always with all steps; in abduction and induction, with one attempt, the right one."""
    steps = scratchpad(case.program.steps(case.inputs[0]) or [])
    answer = {"abduction": write(case.inputs[0]), "induction": str(case.program)}.get(form)
    return f"{steps}<ans>{write(case.outputs[0])}" if answer is None else f"<try>{answer}{steps}<ans>{answer}"


def verify(form: str, case: Case, text: str) -> Verdict:
    """Grade a completion by its answer alone; the steps before it may be wrong."""
    answer = read_completion(text).answer
    if answer is None:
        return Verdict.binary(False, notation.NO_ANSWER)
    if is_right(form, case, answer):
        return Verdict.binary(True)
    if form == "induction":
        readable = read_program(answer, case.program.takes) is not None
        return Verdict.binary(False, "other outputs" if readable else notation.NO_PROGRAM)
    if read(answer) is None:
        return Verdict.binary(False, notation.NO_VALUE)
    return Verdict.binary(False, "another output" if form == "abduction" else "another value")
