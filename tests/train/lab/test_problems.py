"""The problem sets of the laboratory share no program, and what was trained on is counted against them."""

from __future__ import annotations

import json
import os

import pytest

from dynamics.train.lab.problems import FILE, SETS, TEST_SETS, Case, contamination, draw_sets, effective_number, problem_sets
from dynamics.train.lab.programs import normal_form, read_program, split_of


def test_no_program_is_in_two_sets_or_twice_in_one() -> None:
    sets = problem_sets()
    forms = [normal_form(case.program) for cases in sets.values() for case in cases]
    assert len(set(forms)) == len(forms) == sum(sum(counts.values()) for _, counts in SETS.values())


@pytest.mark.parametrize("name", SETS)
def test_sets_are_as_stated(name: str) -> None:
    split, counts = SETS[name]
    cases = problem_sets()[name]
    assert {depth: sum(case.program.depth == depth for case in cases) for depth in counts} == counts
    assert effective_number(cases) == pytest.approx(len(cases))
    assert name not in TEST_SETS or len(cases) >= 150
    for case in cases:
        assert split_of(case.program) == split
        assert None not in case.outputs
        assert len({repr(value) for value in case.inputs}) == 6
        if name.startswith("transfer"):
            assert {operation.takes for operation, _ in case.program.stages} == {"int"}


def test_the_stored_sets_are_those_that_are_drawn() -> None:
    drawn = draw_sets()
    if os.environ.get("DYNAMICS_RECORD_GOLDEN"):
        sets = [
            f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps([case.program.label, case.inputs]) for case in cases) + "\n]"
            for name, cases in drawn.items()
        ]
        FILE.write_text("{\n" + ",\n".join(sets) + "\n}\n", encoding="utf-8")
    assert problem_sets() == drawn


def test_kish() -> None:
    a, b = (Case(read_program(text), (1, 2)) for text in ("x+1", "x+2"))
    assert effective_number([a, b]) == 2
    assert effective_number([a, a, a, b]) == 16 / 10
    assert effective_number([]) == 0


def test_contamination() -> None:
    sets = {"one": [Case(read_program("x+3"), (1, 2)), Case(read_program("x*2"), (5,))], "two": [Case(read_program("x%4"), (9,))]}
    trained = [(read_program("x+1;x+2"), 1), (read_program("x+3"), 7), (read_program("x*2"), 5), (read_program("x*2"), 5)]
    one, two = contamination(trained, sets)
    assert (one.name, one.cases, one.exact, one.same_program, one.trained) == ("one", 2, 1, 2, 4)
    assert (two.cases, two.exact, two.same_program, two.trained) == (1, 0, 0, 0)
    assert contamination([], sets)[0].same_program == 0


def test_pretraining_meets_no_program_of_a_set() -> None:
    import numpy as np

    from dynamics.train.lab.examples import example
    from dynamics.train.lab.operations import kind_of, read

    rng = np.random.default_rng(3)
    trained = []
    while len(trained) < 150:
        form, prompt, _ = example(rng)
        if form in ("deduction", "judge", "hint"):
            text, _, rest = prompt.split(">", 1)[1].partition("<in>")
            value = read(rest.split("<")[0])
            trained.append((read_program(text, kind_of(value)), value))
    assert all(row.same_program == 0 for row in contamination(trained, problem_sets()))
