"""The problem sets of the laboratory: each program once, the same for every seed, and none in two sets.

A problem is a program with inputs; any form can be asked of it. ``training`` is the one pool of programs for all methods. ``test`` holds
unseen programs of the depths of training, ``deeper`` programs of four operations, which no method trains on, and ``transfer`` programs of
integers, told as assignments. Settings are chosen on ``validation`` and ``transfer validation``, never on the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from dynamics.io.side_files import read_json
from dynamics.train.lab.notation import PAIRS
from dynamics.train.lab.operations import Value, write
from dynamics.train.lab.programs import Program, draw_inputs, draw_program, labelled, normal_form
from dynamics.train.rng import stream

#: seed of the problem sets, whatever the seed of a run
SEED = 0
#: set -> split of its programs, and how many of each depth; drawn in this order. Few programs of one operation are in a split
SETS: dict[str, tuple[str, dict[int, int]]] = {
    "training": ("training", {1: 30, 2: 300, 3: 300}),
    "validation": ("validation", {1: 20, 2: 60, 3: 60, 4: 60}),
    "transfer": ("test", {1: 8, 2: 76, 3: 76}),
    "test": ("test", {1: 20, 2: 80, 3: 80}),
    "deeper": ("test", {4: 180}),
    "transfer validation": ("validation", {2: 40, 3: 40}),
}
#: sets on which results are reported
TEST_SETS = ("test", "deeper", "transfer")
#: beginning of the reason for which a proposal is refused whose program is one of a set, which follows
HELD_OUT = "held out: "
#: the sets as ``draw_sets`` gives them, which takes seconds
FILE = Path(__file__).with_name("problem_sets.json")


@dataclass(frozen=True)
class Case:
    """A program with inputs.

    Attributes
    ----------
    program : the program.
    inputs : six different inputs for which it is defined; one problem uses the first, induction all of them.
    """

    program: Program
    inputs: tuple[Value, ...]

    @cached_property
    def outputs(self) -> tuple[Value, ...]:
        """Outputs for the inputs."""
        return tuple(self.program(value) for value in self.inputs)


@lru_cache(maxsize=1)
def problem_sets() -> Mapping[str, tuple[Case, ...]]:
    """Return all sets; no two cases, of one set or of two, have the same normal form."""
    return {name: tuple(Case(labelled(text), tuple(inputs)) for text, inputs in rows) for name, rows in read_json(FILE).items()}


def draw_sets() -> dict[str, tuple[Case, ...]]:
    """Draw all sets anew."""
    used: set[str] = set()
    return {name: tuple(_draw(name, used)) for name in SETS}


def _draw(name: str, used: set[str]) -> Iterable[Case]:
    split, counts = SETS[name]
    rng = stream(SEED, f"laboratory {name}")
    for depth, count in counts.items():
        found = 0
        while found < count:
            program = draw_program(rng, depth, split=split, only="int" if name.startswith("transfer") else None)
            inputs = draw_inputs(rng, program, PAIRS)
            form = normal_form(program)
            if inputs is not None and form not in used:
                used.add(form)
                found += 1
                yield Case(program, tuple(inputs))


def effective_number(cases: Sequence[Case]) -> float:
    """Return Kish's effective number of programs: (sum of n)^2 / sum of n^2, n the number of cases of a program."""
    counts = Counter(normal_form(case.program) for case in cases).values()
    return sum(counts) ** 2 / sum(count**2 for count in counts) if cases else 0.0


@dataclass(frozen=True)
class Contamination:
    """What was trained on and is in a set.

    Attributes
    ----------
    name : of the set.
    cases : in the set.
    exact : cases of which the program, as text, was trained on with one of the inputs.
    same_program : cases whose program was trained on, in these or other words, with any input.
    trained : items trained on whose program is one of the set.
    """

    name: str
    cases: int
    exact: int
    same_program: int
    trained: int


def contamination(trained: Iterable[tuple[Program, Value]], sets: Mapping[str, Sequence[Case]]) -> list[Contamination]:
    """Count exact and normalised matches of what was trained on with each set.

    Parameters
    ----------
    trained : programs with an input, one for each problem that was trained on.
    sets : by name, such as ``problem_sets()``.

    Notes
    -----
    Only what the caller lists is counted: a program that was met in a hint, a judged step or the transfer form is to be listed too.
    Programs that agree on the inputs of the normal form and differ elsewhere count as the same, so the count can be too high, not too low.
    """
    exact: set[tuple[str, str]] = set()
    programs: Counter[str] = Counter()
    for program, value in trained:
        exact.add((str(program), write(value)))
        programs[normal_form(program)] += 1
    rows = []
    for name, cases in sets.items():
        forms = [normal_form(case.program) for case in cases]
        rows.append(
            Contamination(
                name,
                len(cases),
                sum(any((str(case.program), write(value)) in exact for value in case.inputs) for case in cases),
                sum(form in programs for form in forms),
                sum(programs[form] for form in set(forms)),
            )
        )
    return rows
