"""Random small Python programs of one variable, on which the embedded model is trained and tested.

A program is ``def f(x): return EXPRESSION`` over an int, a list of ints or a str, represented by its expression. Depth is the number of
composed operations. The split of a program is determined by a hash of its text, so splits never share a program, whatever the seed and
the number of problems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: fraction of the programs in each split; the text of a program determines its split
SPLITS = {"pretraining": 0.6, "training": 0.2, "validation": 0.1, "test": 0.1}

Value = Any  # int, str, or list of int


@dataclass(frozen=True)
class Family:
    """Programs over one type.

    Attributes
    ----------
    operations : functions of (random generator, expression) that return an expression of the same type.
    endings : format strings of final operations, which can change the type.
    inputs : function of (random generator, whether to draw larger values than in training) that returns a value for x.
    """

    operations: tuple[Callable[[np.random.Generator, str], str], ...]
    endings: tuple[str, ...]
    inputs: Callable[[np.random.Generator, bool], Value]


def _operand(x: str) -> str:
    """Put an expression in brackets if operator precedence requires it."""
    closed = x.endswith((")", "]")) and not x.startswith("(") and "+[" not in x and not _has_outer_operator(x)
    return x if x == "x" or closed else f"({x})"


def _has_outer_operator(x: str) -> bool:
    """Whether the expression has an operator outside of all brackets."""
    depth = 0
    for index, character in enumerate(x):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in "+-*/%" and index:
            return True
    return False


def _number(operator: str, low: int, high: int) -> Callable[[np.random.Generator, str], str]:
    return lambda rng, x: f"{_operand(x)}{operator}{rng.integers(low, high + 1)}"


def _call(name: str, low: int, high: int) -> Callable[[np.random.Generator, str], str]:
    return lambda rng, x: f"{name}({x},{rng.integers(low, high + 1)})"


def _each(operator: str, low: int, high: int) -> Callable[[np.random.Generator, str], str]:
    return lambda rng, x: f"[y{operator}{rng.integers(low, high + 1)} for y in {x}]"


def _after(text: str) -> Callable[[np.random.Generator, str], str]:
    return lambda _, x: f"{_operand(x)}{text}"


def _replace(rng: np.random.Generator, x: str) -> str:
    old, new = rng.choice(5, 2, replace=False)
    return f"{_operand(x)}.replace('{'abcde'[old]}','{'abcde'[new]}')"


def _whole(rng: np.random.Generator, large: bool) -> int:
    return int(rng.integers(16, 100) if large else rng.integers(0, 16))


def _list(rng: np.random.Generator, large: bool) -> list[int]:
    length, high = (rng.integers(4, 6), 30) if large else (rng.integers(2, 4), 10)
    return [int(value) for value in rng.integers(0, high, length)]


def _letters(rng: np.random.Generator, large: bool) -> str:
    length = rng.integers(4, 7) if large else rng.integers(2, 4)
    return "".join("abcde"[index] for index in rng.integers(0, 5, length))


FAMILIES = (
    Family(
        (
            _number("+", 1, 5),
            _number("-", 1, 5),
            _number("*", 2, 3),
            _number("//", 2, 3),
            _number("%", 2, 5),
            _call("max", 2, 12),
            _call("min", 2, 12),
            lambda rng, x: f"abs({_number('-', 2, 12)(rng, x)})",
        ),
        (),
        _whole,
    ),
    Family(
        (
            _after("[::-1]"),
            lambda _, x: f"sorted({x})",
            _each("+", 1, 3),
            _each("*", 2, 3),
            _after("[1:]"),
            _after("[:-1]"),
            lambda rng, x: f"{x}+[{rng.integers(0, 10)}]",
        ),
        ("sum({})", "max({})", "min({})", "len({})", "{}[0]", "{}[1]"),
        _list,
    ),
    Family(
        (
            _after("[::-1]"),
            _after(".upper()"),
            _replace,
            _after("[1:]"),
            _after("[:-1]"),
            lambda rng, x: f"{x}+'{'abcde'[rng.integers(5)]}'",
        ),
        (),
        _letters,
    ),
)


def split_of(program: str) -> str:
    """Return the split of a program."""
    fraction = int.from_bytes(hashlib.sha256(program.encode()).digest()[:8], "big") / 2**64
    for name, share in SPLITS.items():
        if fraction < share:
            return name
        fraction -= share
    return name


def draw(rng: np.random.Generator, depth: int | None = None) -> tuple[Family, str]:
    """Draw a family and one of its programs; if ``depth`` is None, the depth is 1 with probability 0.7, else 2."""
    depth = depth or (1 if rng.random() < 0.7 else 2)
    family = FAMILIES[rng.integers(len(FAMILIES))]
    program = "x"
    for level in range(depth):
        last = level == depth - 1
        if last and family.endings and rng.random() < 0.4:
            ending = family.endings[rng.integers(len(family.endings))]
            program = ending.format(_operand(program) if ending.startswith("{}") else program)
        else:
            program = family.operations[rng.integers(len(family.operations))](rng, program)
    return family, program


def draw_of(rng: np.random.Generator, split: str, depth: int | None = None) -> tuple[Family, str]:
    """Draw until the program belongs to a split."""
    while True:
        family, program = draw(rng, depth)
        if split_of(program) == split:
            return family, program


def compact(value: Value) -> str:
    """Write a literal without spaces after commas."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else repr(value)
