"""Structure of programs: values counted by hand, chains against the laboratory's own writing, and hostile text."""

from __future__ import annotations

import pytest

from dynamics.games.structure import measure
from dynamics.train.lab.problems import problem_sets


@pytest.mark.parametrize(
    ("program", "depth", "cyclomatic", "lines"),
    [
        ("x", 1, 1, 1),
        ("x+3", 2, 1, 1),
        ("max(x+3,12)", 3, 1, 1),
        ("[y+3 for y in x]", 3, 2, 1),
        ("[y for y in x if y > 1 if y < 5]", 3, 4, 1),
        ("a if x and y or z else b", 4, 4, 1),
        ("def f(x):\n    # comment\n\n    return x\n", 3, 1, 2),
        ("def f(x):\n    for i in x:\n        if i:\n            return i\n        elif x:\n            pass\n    return 0", 5, 4, 7),
        ("def f(x):\n    while x:\n        try:\n            x -= 1\n        except ValueError:\n            break", 5, 3, 6),
        ("def f(x):\n    match x:\n        case 1:\n            return 2\n        case _:\n            return 3", 5, 2, 6),
    ],
)
def test_counts_agree_with_those_by_hand(program: str, depth: int, cyclomatic: int, lines: int) -> None:
    found = measure(program)
    assert found is not None
    assert (found.depth, found.cyclomatic, found.lines) == (depth, cyclomatic, lines)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("x+3", "x+5", True),
        ("x+3", "3+x", False),
        ("x+3", "x+'a'", False),
        ("x+3", "x-3", False),
        ("max(x,3)", "min(x,3)", False),
        ("[y for y in x]", "[z for z in x]", True),
        ("x.upper()", "x.lower()", False),
        ("def f(a, b):\n    return a", "def g(p: int, q) -> int:\n    'says what'\n    return p", True),
        ("def f(a, b):\n    return a", "def f(a, b):\n    return b", False),
        ("def f(x):\n    y: int = x\n    return y", "def f(u):\n    v = u\n    return v", True),
        ("x+3;max(x,12)", "max(x+5,1)", True),
        ("x+x;x+x", "(x+x)+(x+x)", True),
    ],
)
def test_skeletons_forget_names_and_constants_only(first: str, second: str, same: bool) -> None:
    one, other = measure(first), measure(second)
    assert one is not None
    assert other is not None
    assert (one.skeleton == other.skeleton) is same


def test_chains_are_the_expressions_that_the_laboratory_writes() -> None:
    for cases in problem_sets().values():
        for case in cases[::20]:
            chain, expression = measure(str(case.program)), measure(case.program.expression())
            assert chain is not None
            assert chain == expression


@pytest.mark.parametrize("program", ["1+", "(" * 5000, "-" * 5000 + "1", ";".join(["x+x"] * 60), "f(" * 300 + ")" * 300, "\0"])
def test_what_is_no_program_has_no_structure(program: str) -> None:
    found = measure(program)
    assert found is None
