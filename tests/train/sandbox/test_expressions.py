"""The interpreter of the small language, and equality of values."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.train.sandbox.expressions import Expressions, Refused, literal, same
from dynamics.train.tasks import programs

BOX = Expressions()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_interpreter_agrees_with_python(depth: int) -> None:
    rng = np.random.default_rng(depth)
    for _ in range(1500):
        family, program = programs.draw(rng, depth)
        value = family.inputs(rng, depth == 3)
        outcome = BOX.run(program, [(value,)])
        try:
            expected, failed = eval(program, {"x": value}), None
        except Exception as error:
            expected, failed = None, type(error).__name__
        if failed:
            assert outcome.error == failed, program
            continue
        assert outcome.values is not None, (program, value, outcome)
        assert same(outcome.values[0], expected), (program, value, outcome)


def test_a_function_is_an_expression_with_names() -> None:
    assert BOX.run("def f(a, b):\n    return a + b * 2", [(1, 2), (3, 4)]).values == [5, 11]
    assert BOX.run("x+1", [(1,)]).values == [2]
    assert BOX.run("def g(x): return x", [(1,)]).values is None


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__.__mro__",
        "x.__class__",
        "open('a')",
        "lambda: 1",
        "[y for y in x for z in x]",
        "9**9**9",
        "'a'*10**9",
        "x" * 2000,
        "(" * 500,
        "exec('1')",
        "x:=1",
        "'%s' % x",
        "x if x else x",
        "41) or (True",
        "-" * 900 + "1",
        "def f(x=[]):\n return x",
        "\ud800",
    ],
)
def test_what_is_not_in_the_language_has_no_value(text: str) -> None:
    outcome = BOX.run(text, [(3,)])
    assert outcome.values is None
    assert outcome.error


def test_growth_is_stopped() -> None:
    assert BOX.run("[[x]*99]*99", [(1,)]).error == "lists of lists are not in the language"
    assert BOX.run("[sum([z for z in x]) for y in x]", [([1] * 150,)]).error == "timeout"
    assert BOX.run("x", [((1, 2),)]).error == "tuple is not in the language"
    assert BOX.run("x.replace('a',x).replace('a',x)", [("a" * 150,)]).error == "memory"
    assert BOX.run("x*999999*999999", [(9,)]).error == "memory"


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_gets_through(text: str) -> None:
    BOX.run(text, [(3,)])
    with contextlib.suppress(Refused):
        literal(text)


def test_equality_is_of_types_too() -> None:
    assert same([1, "a"], [1, "a"])
    assert not same(1, True)
    assert not same(1, 1.0)
    assert not same([1], (1,))
    assert not same([1, 2], [1])
