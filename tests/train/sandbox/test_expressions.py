"""The interpreter of the small language, and equality of values."""

from __future__ import annotations

import ast
import contextlib
import math
import sys
import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.train.sandbox.expressions import Expressions, Refused, canonical, length, literal, same
from dynamics.train.sandbox.host import Sandbox, SandboxUnavailable
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import Problem
from dynamics.train.tasks.prompt_formats import PlainText, extract_answer
from dynamics.train.tasks.triplets import verify

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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1e309", "number too large"),
        ("-1e309j", "number too large"),
        ("1e308+1e309j", "number too large"),
        (f"{10**400}+1j", "number too large"),
        (f"1.7e308+1.7e308j+{'9' * 400}", "not a literal"),
        ("0x" + "f" * 20000, "number too long"),
        ("0o" + "7" * 20000, "number too long"),
        ("0b" + "1" * 20000, "number too long"),
        ("0X" + "F" * 998, "number too long"),  # short enough as a text, but of 1202 digits
        ("9" * 5000, "number too long"),
        ("9_" * 600 + "9", "number too long"),
        ("0" * 70000, "too long"),
        ("1e-" + "9" * 5000, "number too long"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("{1:" * 20000, "nested too deeply"),
        ("-" * 10000 + "1", "not a literal"),
        ("1+" * 10000 + "1", "not a literal"),
        ("()" * 10000, "not a literal"),
        ("[1][1]", "not a literal"),
        ("{" + ",".join(map(str, range(257))) + "}", "too many keys"),
        ("{" + ",".join(f"{key}:0" for key in range(257)) + "}", "too many keys"),
        ("{[1]}", "not hashable"),
        ("{{1}: 2}", "not hashable"),
        ("'a' b'a'", "not a literal"),
        ("f'{1}'", "not a literal"),
        ("'\\N{no such name}'", "not a literal"),
        ("'\\U00110000'", "not a literal"),
        ("'\\x4'", "not a literal"),
        ("'\\777'", "not a literal"),
        ("b'\u00e9'", "not a literal"),
        ("'a\0b'", "not a literal"),
        ("'\ud800'", "not a literal"),
        ("'" + "a" * 60000, "not a literal"),
        ("1" + "\n" * 60000 + "2", "not a literal"),
        ("1 is 1", "not a literal"),
        ("1if 1else 2", "not a literal"),
        ("", "not a literal"),
    ],
)
def test_a_text_that_is_no_bounded_literal_is_refused_at_once(text: str, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(Refused, match=f"^{reason}$"):
        literal(text, size=1 << 16)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "text",
    [
        "1.7e308+1.7e308j",
        "-1.7e308-1.7e308j",
        "9" * 1000,
        f"-0x{'f' * 800}",
        "[" * 100 + "]" * 100,
        "{" + ",".join(map(str, range(256))) + "}",
    ],
)
def test_the_largest_values_can_be_compared_and_printed(text: str) -> None:
    value = literal(text, size=1 << 16)
    assert repr(value) == repr(ast.literal_eval(text))
    assert length(value) == len(repr(value))
    assert same(value, literal(text, size=1 << 16))
    assert BOX.run("x", [(value,)]).error


def test_printing_does_not_depend_on_the_interpreters_limit_of_digits() -> None:
    usual = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        assert length(literal("9" * 600)) == 600
        for text in ("9" * 700, "0x" + "f" * 600):
            with pytest.raises(Refused):
                literal(text)
        assert length(10**5000) == sys.maxsize
    finally:
        sys.set_int_max_str_digits(usual)


def test_keys_of_equal_hashes_take_no_long_time() -> None:
    start = time.process_time()
    for text in (
        "{" + ",".join(str((2**61 - 1) * number) for number in range(300)) + "}",
        "{" + ",".join(f"{-1000003 * number}+{number}j" for number in range(256)) + "}",
        "{" + ",".join(f"({'1,' * 20}{(2**61 - 1) * number})" for number in range(256)) + "}",
    ):
        with contextlib.suppress(Refused):
            assert same(literal(text, size=1 << 20), literal(text, size=1 << 20))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("source", [r"x + '\d'", "1if x else 2", "x is 1", "'a' is x"])
def test_warnings_about_a_text_are_neither_shown_nor_raised(source: str) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        usual = BOX.run(source, [("a",)]), _outcome(source.removeprefix("x + "))
    assert not shown
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raising = BOX.run(f"{source} ", [("a",)]), _outcome(source.removeprefix("x + ") + " ")
    assert raising == usual


def _outcome(text: str) -> object:
    try:
        return literal(text)
    except Refused as error:
        return str(error)


def test_values_that_are_no_literals_equal_nothing() -> None:
    circle: list[Any] = []
    circle.append(circle)
    wide: list[Any] = [0]
    for _ in range(40):
        wide = [wide, wide]
    for value in (math.nan, math.inf, complex(math.nan, 1), 10**1000, circle, wide, set(range(300)), object(), np.float64(1)):
        assert not same(value, value)
    with pytest.raises(Refused):
        canonical(circle)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x.replace('', x).replace('', x).replace('', x)", "memory"),
        ("x * 1000000000", "memory"),
        ("sorted([1, 'a'])", "TypeError"),
        ("max(sorted([]))", "ValueError"),
        ("sum(['a', 'b'], 'c')", "TypeError"),
        ("x % (1, 2)", "Tuple is not in the language"),
        ("1 % 0", "ZeroDivisionError"),
        ("x[::0]", "ValueError"),
        ("x['a':]", "TypeError"),
        ("x[999999999]", "IndexError"),
        ("x.replace(1, 2)", "TypeError"),
        ("x.upper().lower().replace()", "TypeError"),
        ("len(x, x)", "TypeError"),
        ("max(*x)", "Starred is not in the language"),
        ("sorted(x, key=len)", "Call is not in the language"),
        ("abs(" * 120 + "x" + ")" * 120, "nested too deeply"),
        ("1" + "+1" * 400, "nested too deeply"),
        ("0x" + "f" * 900, "memory"),
        ("f(f)", "Call is not in the language"),
        ("def f(x): return f(x)", "Call is not in the language"),
        ("def f(x, x): return x", "f takes 2 arguments, got 1"),
        ("'\0'", "SyntaxError"),
        ("[[y] for y in x]", "lists of lists are not in the language"),
    ],
)
def test_an_operation_that_fails_is_an_error_with_a_reason(source: str, error: str) -> None:
    assert BOX.run(source, [("abc",)]).error == error


def test_the_outcome_does_not_depend_on_how_deep_the_caller_stands() -> None:
    def called(depth: int) -> Any:
        return called(depth - 1) if depth else (BOX.run("abs(" * 90 + "x" + ")" * 90, [(-3,)]).values, literal("[" * 100 + "]" * 100))

    assert called(0) == called(300)


_keys = st.integers() | st.text(max_size=3)
_finite = {"allow_nan": False, "allow_infinity": False}
_literals: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.floats(**_finite) | st.complex_numbers(**_finite) | st.text(max_size=8) | st.binary(max_size=8),
    lambda item: st.lists(item, max_size=3) | st.tuples(item) | st.sets(_keys, max_size=3) | st.dictionaries(_keys, item, max_size=3),
    max_leaves=6,
)


@given(_literals)
@settings(max_examples=100, deadline=None)
def test_a_value_is_read_back_as_python_prints_it(value: Any) -> None:
    read = literal(repr(value), size=1 << 16)
    assert repr(read) == repr(ast.literal_eval(repr(value)))
    assert same(read, value)


@given(st.text("()[]{},:+-'\"\\\n #0179_.eEjxbr", max_size=14))
@settings(max_examples=200, deadline=None)
def test_what_is_read_has_the_value_that_python_gives_it(text: str) -> None:
    try:
        value = literal(text)
    except Refused:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert repr(value) == repr(ast.literal_eval(text.strip()))


#: results and answers that raised outside of the parser, or ended the interpreter
HOSTILE = (
    "1.7e308+1.7e308j",
    "0x" + "f" * 900,
    "0x" + "f" * 20000,
    "[" * 5000 + "]" * 5000,
    "-" * 900 + "1",
    "'\\ud800'",
    "1" * 4999,
    "{[]}",
)


@pytest.mark.parametrize("kind", ["deduction", "abduction", "induction"])
def test_no_answer_ends_a_run(kind: str) -> None:
    problem = Problem(kind, "x+1", ((3,),), (4,), "")
    for answer in HOSTILE:
        assert not verify(problem, answer, BOX).correct
    for answer in HOSTILE:
        with contextlib.suppress(Refused):
            PlainText().parse_proposal("deduction", f"<program>def f(x): return x</program><input>{answer}</input>", None)


def test_no_result_of_a_program_ends_a_run() -> None:
    try:
        box = Sandbox(1)
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with box:
        for text in HOSTILE:
            program = f"class Value:\n    def __repr__(self): return {text!r}\ndef f(x): return Value()"
            outcome = box.run(program, [(3,)])
            assert outcome.error or outcome.values == [ast.literal_eval(text)]


def test_answers_between_tags_take_linear_time() -> None:
    assert extract_answer("<answer>1</answer> <answer>2<answer>3</answer></answer>") == "2<answer>3"
    assert extract_answer("</answer><answer>1") is None
    start = time.process_time()
    assert extract_answer("</answer>" + "<answer>" * 200_000) is None
    assert time.process_time() - start < 1
