"""Steps of solutions, which SPC alters and judges: what is asked, how it is read, and when an altered step is wrong.

There are two kinds: steps of the laboratory, which are evaluated, and lines of solutions in plain text (``written_steps``). The game itself
knows neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dynamics.train.lab import notation, problems
from dynamics.train.lab.examples import wrong_value
from dynamics.train.lab.notation import Step, read_completion, step_text
from dynamics.train.lab.operations import Value, write
from dynamics.train.lab.problems import problem_sets
from dynamics.train.lab.programs import Program
from dynamics.train.rng import stream

#: why a wrong step is not valid
NOT_ENDED, NO_STEP, UNCHANGED = "not ended", "not one step", "unchanged"


def drawn(seed: int, round_: int, count: int, of: int) -> list[int]:
    """Draw ``count`` of ``of`` indices for a round, each at most once until all have been drawn."""
    rng = stream(seed, "spc places", round_)
    return [int(index) for _ in range(-(-count // of)) for index in rng.permutation(of)][:count]


@dataclass(frozen=True)
class Place:
    """A right step in a right solution.

    Attributes
    ----------
    name : unique identifier.
    problem : number of the problem among those of its split.
    before : the steps before it, as text.
    step : the step.
    split : training or test.
    """

    name: str
    problem: int
    before: tuple[str, ...]
    step: str
    split: str = "training"


@runtime_checkable
class Steps(Protocol):
    """What a game of steps is played on.

    Attributes
    ----------
    executor : what decides whether an altered step is wrong, for ``run.json``.
    """

    executor: str

    def collect(self) -> None:
        """Make the solutions, if they have to be made."""

    def draw(self, round_: int, count: int) -> list[Place]:
        """Draw places for a round: a function of the round, and of ``state``."""

    def held_out(self, count: int) -> list[Place]:
        """Return held-out places, the same whatever was trained."""

    def generator_prompt(self, place: Place) -> str:
        """Ask for a wrong step in place of the right one."""

    def critic_prompt(self, place: Place, step: str) -> str:
        """Ask whether a step is right."""

    def read_step(self, place: Place, text: str) -> tuple[str, str]:
        """Read the step that a generator wrote; give it, and why it is not valid, empty if it has the form."""

    def refute(self, altered: Sequence[tuple[Place, str]], purpose: str, step: int) -> list[str]:
        """Tell why altered steps that have the form are not wrong, empty for those that are; ``purpose`` and ``step`` select streams."""

    def read_verdict(self, step: str, text: str) -> bool | None:
        """Read whether a critic calls a step right; None if it says neither."""

    def by_rule(self, place: Place, rng: np.random.Generator) -> str | None:
        """Alter a step by rule; None if the rule has nothing to alter."""

    def generation(self, place: Place, step: str) -> str:
        """Write what a generator should write to give a step."""

    def judgement(self, place: Place, step: str, right: bool) -> str:
        """Write a right judgement of a step."""

    def about(self, place: Place) -> dict[str, Any]:
        """Return the fields by which rollouts name a place."""

    def state(self) -> dict[str, Any]:
        """Return what ``load`` needs."""

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""


class LaboratorySteps:
    """Steps of programs of the laboratory, ``expression=value``. An altered step is wrong if its value is not that of the expression.

    A wrong step is to have the expression of the right one: another operation would be another step, not a wrong one. It is shown as the
    notation writes it, whatever was written, so that nothing of a completion but its value reaches the critic.

    Parameters
    ----------
    seed : of the run.
    """

    executor = "operations of the laboratory, nothing executed"

    def __init__(self, seed: int):
        self.seed = seed
        self.cases = problem_sets()["training"]
        #: held-out programs; those of transfer have another form
        self.tests = [case for name in problems.TEST_SETS if name != "transfer" for case in problem_sets()[name]]
        self.sizes = [(number, which, case.program.depth) for number, case in enumerate(self.cases) for which in range(notation.PAIRS)]

    def collect(self) -> None:
        """Do nothing: programs have their steps."""

    def draw(self, round_: int, count: int) -> list[Place]:
        """Draw places from the steps of all training programs on all of their inputs, each at most once until all have been drawn."""
        places = [(number, which, index) for number, which, depth in self.sizes for index in range(depth)]
        return [self._place("training", *places[index]) for index in drawn(self.seed, round_, count, len(places))]

    def held_out(self, count: int) -> list[Place]:
        """Return a step of each held-out program, of unseen and of deeper ones in turn."""
        half = len(self.tests) // 2  # each set has as many
        order = [index for pair in zip(range(half), range(half, 2 * half), strict=True) for index in pair]
        places = []
        for number in order[:count]:
            depth = self.tests[number].program.depth
            places.append(self._place("test", number, 0, int(stream(0, "judge", number).integers(depth))))
        return places

    def _place(self, split: str, number: int, which: int, index: int) -> Place:
        program, value = self._problem(split, number * notation.PAIRS + which)
        written = [step_text(step) for step in _steps(program, value)]
        name = f"{program.label} of {write(value)}, step {index + 1}"
        return Place(name, number * notation.PAIRS + which, tuple(written[:index]), written[index], split)

    def _problem(self, split: str, problem: int) -> tuple[Program, Value]:
        number, which = divmod(problem, notation.PAIRS)
        case = (self.tests if split == "test" else self.cases)[number]
        return case.program, case.inputs[which]

    def _of(self, place: Place) -> tuple[Program, Value, list[tuple[str, Value]]]:
        """Return program, input, and the steps up to the place."""
        program, value = self._problem(place.split, place.problem)
        return program, value, _steps(program, value)[: len(place.before) + 1]

    def generator_prompt(self, place: Place) -> str:
        """Ask for a wrong step in the form that a base knows."""
        program, value, steps = self._of(place)
        return notation.wrong_step_prompt(program, value, steps[:-1])

    def critic_prompt(self, place: Place, step: str) -> str:
        """Ask for the step as it should be."""
        program, value, steps = self._of(place)
        return notation.judge_prompt(program, value, [*steps[:-1], (steps[-1][0], _value(step))])

    def read_step(self, place: Place, text: str) -> tuple[str, str]:
        """Read exactly one step with the expression of the place."""
        found = read_completion(text)
        if len(found.steps) != 1 or text != f"<s>{found.steps[0].text}":
            return "", NO_STEP
        step = found.steps[0]
        if step.value is None:
            return "", "no value"
        if step.expression != Step(place.step).expression:
            return "", "another expression"
        return step_text((step.expression, step.value)), ""

    def refute(self, altered: Sequence[tuple[Place, str]], purpose: str, step: int) -> list[str]:
        """Compare values."""
        del purpose, step
        return [UNCHANGED if notation.same(_value(text), _value(place.step)) else "" for place, text in altered]

    def read_verdict(self, step: str, text: str) -> bool | None:
        """Read whether the critic wrote the step again."""
        return notation.read_verdict(step, text)

    def by_rule(self, place: Place, rng: np.random.Generator) -> str | None:
        """Draw another value that is near."""
        return step_text((Step(place.step).expression, wrong_value(rng, _value(place.step))))

    def generation(self, place: Place, step: str) -> str:
        """Write the step after its mark."""
        del place
        return f"<s>{step}"

    def judgement(self, place: Place, step: str, right: bool) -> str:
        """Write the step as it should be."""
        del step, right
        return f"<s>{place.step}"

    def about(self, place: Place) -> dict[str, Any]:
        """Name the program, its input and its depth."""
        program, value = self._problem(place.split, place.problem)
        return {"program": program.label, "input": write(value), "depth": program.depth}

    def state(self) -> dict[str, Any]:
        """Return nothing: programs have their steps."""
        return {}

    def load(self, kept: dict[str, Any]) -> None:
        """Do nothing."""


def _steps(program: Program, value: Value) -> list[tuple[str, Value]]:
    steps = program.steps(value)
    assert steps is not None  # the inputs of problem sets are those for which the program is defined
    return steps


def _value(step: str) -> Value:
    value = Step(step).value
    if value is None:
        raise ValueError(f"{step[:80]!r} is no step of the laboratory")
    return value
