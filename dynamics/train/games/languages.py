"""The languages in which self-play proposes tasks: Python, and the notation of the laboratory.

A language says how a task is asked for, read, run, compared with others and put to the solver. The game itself knows none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dynamics.train import proposer_rewards
from dynamics.train.lab import notation
from dynamics.train.lab.operations import Value, kind_of, read, write
from dynamics.train.lab.problems import HELD_OUT, Case, problem_sets
from dynamics.train.lab.programs import MAX_DEPTH, Program, is_proper, normal_form, read_program
from dynamics.train.sandbox.expressions import Refused, as_function, literal, sorted_text
from dynamics.train.sandbox.runner import ProgramRunner
from dynamics.train.tasks import laboratory, programs
from dynamics.train.tasks.problem import Problem, ProposedTask, Question, Verdict
from dynamics.train.tasks.prompt_formats import LanguageName, Notation, PlainText, PromptFormat, extract_answer
from dynamics.train.tasks.triplets import Triplets

#: outputs of the calls of a task, or why it is not valid
Outputs = tuple[Any, ...] | str


@runtime_checkable
class Language(Protocol):
    """A language of tasks."""

    @property
    def executor(self) -> str:
        """What runs programs, for ``run.json``."""

    @property
    def first(self) -> tuple[ProposedTask, tuple[Any, ...]]:
        """The task that the buffer begins with, and its outputs; also the reference if there is no other."""

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Verdict reasons that count as format errors."""

    def proposal_prompt(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        """Ask for a task of a type after references; for induction, for inputs of ``program``."""

    def parse_proposal(self, kind: str, text: str, program: str | None) -> ProposedTask:
        """Read a task from what was written; ``program`` as it was asked with. Raises ``Refused``."""

    def run(self, tasks: Sequence[ProposedTask]) -> list[Outputs]:
        """Run tasks; give the outputs of each, or the reason why it is not valid."""

    def key(self, kind: str, proposed: ProposedTask) -> str:
        """Return an identifier that duplicates have in common."""

    @property
    def pool(self) -> frozenset[str]:
        """The programs, as ``program_key`` writes them, of the pool that the other methods train on; empty if it is not known."""

    def program_key(self, proposed: ProposedTask) -> str:
        """Return what the program of a task has in common with the same program in other words."""

    def question(self, kind: str, proposed: ProposedTask, outputs: tuple[Any, ...], name: str) -> Question:
        """Return the question that asks to solve a task; ``name`` is its identifier."""

    def unrun_question(self, proposed: ProposedTask, name: str) -> Question:
        """Return the question that asks for the output of a task that was not run, or could not be: its verifier accepts no answer."""

    def refusal(self, proposed: ProposedTask) -> str:
        """Return why a task may not be put to a solver, whether it runs or not, such as a program that is held out; empty if it may."""

    def answer_key(self, kind: str, text: str) -> str | None:
        """Return what equal answers to a task have in common; None if no answer can be read in the completion."""

    def value_key(self, value: Any) -> str:
        """Return the key of the answer that is a value."""

    def draw_reference(self, rng: np.random.Generator, split: str = "validation") -> ProposedTask:
        """Draw a task with a program of a split, training or validation."""

    def complexity(self, program: str) -> float:
        """Measure the complexity of a program, from 0 to 1."""

    def expression(self, program: str) -> str:
        """Write a program as Python, whose syntax tree is measured."""

    def close(self) -> None:
        """Stop processes that run programs."""


def language(name: LanguageName, allow_unconfined: bool) -> Language:
    """Return the language of tasks of a model, by what it reads."""
    return LaboratoryNotation() if name == "lab" else Python(name == "notation", allow_unconfined)


class Python:
    """Python: expressions in the notation of the embedded model, or functions in plain text, which run in the sandbox.

    Parameters
    ----------
    in_notation : whether the model reads the notation of the embedded model.
    allow_unconfined : run functions without a sandbox if none is available.
    """

    unreadable = ("empty answer", "no answer between tags", "not a literal")
    pool: frozenset[str] = frozenset()

    def __init__(self, in_notation: bool, allow_unconfined: bool):
        self.prompt_format: PromptFormat = Notation() if in_notation else PlainText()
        self.runner = ProgramRunner(in_notation, allow_unconfined)
        self.executor = self.runner.executor
        self.triplets = Triplets(plain=not in_notation, runner=self.runner)
        self.first = (ProposedTask(self.prompt_format.identity, (("abc",),)), ("abc",))
        self.proposal_prompt = self.prompt_format.proposal_prompt
        self.parse_proposal = self.prompt_format.parse_proposal
        self.complexity = proposer_rewards.complexity

    def run(self, tasks: Sequence[ProposedTask]) -> list[Outputs]:
        """Run tasks; failures, values that are too long, and outputs that differ from run to run are reasons."""
        outcomes = self.runner.run_deterministic([(proposed.program, proposed.inputs) for proposed in tasks])
        found: list[Outputs] = []
        for proposed, outcome in zip(tasks, outcomes, strict=True):
            arguments = [value for call in proposed.inputs for value in call]
            if outcome.values is None:
                found.append((outcome.error or "no value").partition(":")[0])
            elif not all(self.prompt_format.accepts_value(value) for value in (*outcome.values, *arguments)):
                found.append("value too long")
            else:
                found.append(tuple(outcome.values))
        return found

    def key(self, kind: str, proposed: ProposedTask) -> str:
        """Return an identifier: the text of the program, and its inputs."""
        return f"{kind} {proposed.program} {sorted(map(repr, proposed.inputs))}"

    def program_key(self, proposed: ProposedTask) -> str:
        """Return the text of the program: the same in other words counts as another."""
        return proposed.program

    def question(self, kind: str, proposed: ProposedTask, outputs: tuple[Any, ...], name: str) -> Question:
        """Return the question that asks to solve a task."""
        return self.triplets.question(Problem(kind, proposed.program, proposed.inputs, outputs, name), "training", proposed.message)

    def unrun_question(self, proposed: ProposedTask, name: str) -> Question:
        """Return the question that asks for the output of a task that was not run."""
        return replace(self.question("deduction", proposed, (None,), name), answer=None, verify=_no_output)

    def refusal(self, proposed: ProposedTask) -> str:
        """Return nothing: no program is held out by its text."""
        del proposed
        return ""

    def answer_key(self, kind: str, text: str) -> str | None:
        """Return the value with sorted items, or the text of a program."""
        answer = text.strip() if not self.triplets.plain else extract_answer(text)
        if not answer:
            return None
        if kind == "induction":
            return answer
        try:
            return self.value_key(literal(answer))
        except Refused:
            return None

    def value_key(self, value: Any) -> str:
        """Return the value as text, with sorted items."""
        return sorted_text(value)

    def draw_reference(self, rng: np.random.Generator, split: str = "validation") -> ProposedTask:
        """Draw a task with a program of a split."""
        family, program = programs.draw_of(rng, split)
        inputs = ((family.inputs(rng, False),),)
        return ProposedTask(as_function(program) if self.triplets.plain else program, inputs)

    def expression(self, program: str) -> str:
        """Return the program, which is Python."""
        return program

    def close(self) -> None:
        """Stop the processes of the sandbox."""
        self.runner.close()


class LaboratoryNotation:
    """The notation of the laboratory. Its own parser reads programs and its own operations run them; nothing is run as Python.

    A task is valid if its program is proper and defined on its inputs, and is not held out: equal to no program of a set but ``training``,
    whatever its words.
    """

    executor = "operations of the laboratory, nothing executed"
    #: a program of the split ``pretraining``, hence of no set
    first = (ProposedTask("x*2", ((5,),)), (10,))
    unreadable = (notation.NO_ANSWER, notation.NO_PROGRAM, notation.NO_VALUE)

    def proposal_prompt(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        """Ask for a task of a type after references, of which a base knows exactly one; for induction, for inputs of ``program``."""
        if kind == "induction":
            return notation.inputs_prompt(str(program))
        shown = [(reference.program, reference.inputs[0][0]) for reference in references]
        return notation.proposal_prompt("PD" if kind == "deduction" else "PA", shown)

    def parse_proposal(self, kind: str, text: str, program: str | None) -> ProposedTask:
        """Read a task from what was written; ``program`` as it was asked with. Raises ``Refused``."""
        parts = text[: notation.MAX_TEXT].split("<in>")
        if kind == "induction":
            values = {part: _value(part) for part in parts}
            if len(values) < notation.PAIRS:
                raise Refused(f"fewer than {notation.PAIRS} different inputs")
            return _readable(str(program), list(values.values())[: notation.PAIRS])
        if len(parts) != 2:
            raise Refused("form")
        return _readable(parts[0], [_value(parts[1])])

    def run(self, tasks: Sequence[ProposedTask]) -> list[Outputs]:
        """Run tasks; programs that are undefined, not proper or held out are reasons."""
        return [self._outputs(proposed) for proposed in tasks]

    def _outputs(self, proposed: ProposedTask) -> Outputs:
        program = _program(proposed)
        outputs = tuple(program(value) for (value,) in proposed.inputs)
        if None in outputs:
            return "undefined"
        if not is_proper(program):
            return "not proper"
        return self.refusal(proposed) or outputs

    @cached_property
    def held_out(self) -> dict[str, str]:
        """Normal forms of the programs that may not be proposed, with their sets."""
        return {normal_form(case.program): name for name, cases in problem_sets().items() if name != "training" for case in cases}

    def key(self, kind: str, proposed: ProposedTask) -> str:
        """Return an identifier: the normal form of the program, and its inputs."""
        inputs = sorted(write(value) for (value,) in proposed.inputs)
        return f"{kind} {self.program_key(proposed)} {inputs}"

    @cached_property
    def pool(self) -> frozenset[str]:
        """Normal forms of the training set."""
        return frozenset(normal_form(case.program) for case in problem_sets()["training"])

    def program_key(self, proposed: ProposedTask) -> str:
        """Return the normal form of the program."""
        return _normal_form(proposed.program, str(kind_of(proposed.inputs[0][0])))

    def question(self, kind: str, proposed: ProposedTask, outputs: tuple[Any, ...], name: str) -> Question:
        """Return the question that asks to solve a task; its outputs are computed again."""
        del outputs
        case = Case(_program(proposed), tuple(value for (value,) in proposed.inputs))
        return laboratory.ask(kind, case, "training", name)

    def unrun_question(self, proposed: ProposedTask, name: str) -> Question:
        """Return the question that asks for the output of a task that was not run; its program need not be defined on its input."""
        program, value = _program(proposed), proposed.inputs[0][0]
        check = partial(notation.check_completion, "deduction", program, value)
        asked = (name, notation.deduction_prompt(program, value), None, "deduction", "training", _no_output)
        return Question(*asked, program.label, write(value), program.depth, check)

    def refusal(self, proposed: ProposedTask) -> str:
        """Return the set that holds out the program."""
        held_out = self.held_out.get(self.program_key(proposed))
        return f"{HELD_OUT}{held_out}" if held_out else ""

    def answer_key(self, kind: str, text: str) -> str | None:
        """Return the value, or the normal form of a program."""
        answer = notation.read_completion(text).answer
        if answer is None:
            return None
        if kind == "induction":
            program = read_program(answer)
            return None if program is None else normal_form(program)
        value = read(answer)
        return None if value is None else self.value_key(value)

    def value_key(self, value: Any) -> str:
        """Return the value as it is written."""
        return write(value)

    def draw_reference(self, rng: np.random.Generator, split: str = "validation") -> ProposedTask:
        """Draw a task of the training or the validation set."""
        cases = problem_sets()[split]
        case = cases[int(rng.integers(len(cases)))]
        return ProposedTask(str(case.program), ((case.inputs[0],),))

    def complexity(self, program: str) -> float:
        """Return the number of operations / 4, of which there are at most 4."""
        return len(program.split(";")) / MAX_DEPTH

    def expression(self, program: str) -> str:
        """Write a program as one Python expression."""
        found = read_program(program)
        return "" if found is None else found.expression()

    def close(self) -> None:
        """Do nothing: there are no processes."""


def _no_output(_: str) -> Verdict:
    return Verdict.binary(False, "no executed output")


def _value(text: str) -> Value:
    value = read(text)
    if value is None:
        raise Refused("input is no literal")
    return value


def _readable(program: str, inputs: list[Value]) -> ProposedTask:
    """Return a task whose program can be read as one of the kind of all inputs."""
    kinds = {kind_of(value) for value in inputs}
    if len(kinds) > 1:
        raise Refused("inputs of several kinds")
    if read_program(program, kinds.pop()) is None:
        raise Refused("not a program" if read_program(program) is None else "input of another kind")
    return ProposedTask(program, tuple((value,) for value in inputs))


def _program(proposed: ProposedTask) -> Program:
    """Return the program of a task that was parsed."""
    program = read_program(proposed.program, kind_of(proposed.inputs[0][0]))
    if program is None:
        raise ValueError(f"{proposed.program[:80]!r} is no program on {proposed.inputs[0][0]!r}")
    return program


@lru_cache(maxsize=1 << 16)
def _normal_form(program: str, kind: str) -> str:
    found = read_program(program, kind)
    return program if found is None else normal_form(found)
