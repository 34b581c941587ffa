"""The operations of the laboratory's language, and its values: integers from 0 to 99, lists of them, and strings of letters.

An operation is written as a Python expression with one place for its operand, ``x`` in a program and a literal in a step. Whatever leaves
the range of values (a negative number, an empty list, a text of nine letters) is undefined, so a value is always a few tokens long.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Value = Any  # int, list of int, or str

#: letters of strings; ``x`` and ``y`` are variables
LETTERS = "abcdefghijkl"
_BOTH_CASES = frozenset(LETTERS + LETTERS.upper())
#: largest integer, length of a list, and length of a string
MAX_INT, MAX_ITEMS, MAX_LETTERS = 99, 6, 8


def kind_of(value: Value) -> str | None:
    """Return ``int``, ``list`` or ``str`` for a value of the language, None for everything else."""
    if type(value) is int:
        return "int" if 0 <= value <= MAX_INT else None
    if type(value) is list:
        within = 0 < len(value) <= MAX_ITEMS and {*map(type, value)} == {int} and min(value) >= 0 and max(value) <= MAX_INT
        return "list" if within else None
    if type(value) is str:
        return "str" if 0 < len(value) <= MAX_LETTERS and _BOTH_CASES.issuperset(value) else None
    return None


def write(value: Value) -> str:
    """Write a value as a Python literal without spaces."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else f"'{value}'" if isinstance(value, str) else str(value)


_NUMBER = r"(?:0|[1-9][0-9]?)"
_LITERALS = {"int": _NUMBER, "list": rf"\[{_NUMBER}(?:,{_NUMBER}){{0,{MAX_ITEMS - 1}}}\]", "str": f"'[a-lA-L]{{1,{MAX_LETTERS}}}'"}
_ANY = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _LITERALS.items()))


def read(text: str) -> Value | None:
    """Read a value as ``write`` writes it; None for any other text."""
    match = _ANY.fullmatch(text)
    if match is None:
        return None
    if match.lastgroup == "int":
        return int(text)
    return text[1:-1] if match.lastgroup == "str" else [int(item) for item in text[1:-1].split(",")]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes
    ----------
    template : Python expression; ``X`` is the operand, ``#`` an integer constant, ``$`` a letter.
    takes, gives : kinds of the operand and of the result.
    apply : function of the operand and the constants; its result may lie outside of the language.
    low, high : range of the integer constant in drawn programs.
    weight : how often it is drawn, relative to others on the same kind.
    """

    template: str
    takes: str
    gives: str
    apply: Callable[..., Value]
    low: int = 0
    high: int = 0
    weight: float = 1.0

    def text(self, operand: str, constants: tuple[int | str, ...]) -> str:
        """Write the operation on an operand."""
        rest = iter(constants)
        return "".join(operand if part == "X" else str(next(rest)) if part in "#$" else part for part in self.template)

    def __call__(self, operand: Value, constants: tuple[int | str, ...]) -> Value | None:
        """Apply the operation; None if the result is undefined or outside of the language."""
        return self.of_valid(operand, constants) if kind_of(operand) == self.takes else None

    def of_valid(self, operand: Value, constants: tuple[int | str, ...]) -> Value | None:
        """Apply the operation to an operand that is known to be of its kind."""
        value = self.apply(operand, *constants)
        return value if kind_of(value) else None


OPERATIONS = (
    Operation("X+#", "int", "int", lambda x, c: x + c, 1, 20),
    Operation("X-#", "int", "int", lambda x, c: x - c, 1, 12),
    Operation("#-X", "int", "int", lambda x, c: c - x, 12, 40),
    Operation("X*#", "int", "int", lambda x, c: x * c, 2, 4),
    Operation("X//#", "int", "int", lambda x, c: x // c if c else None, 2, 5),
    Operation("X%#", "int", "int", lambda x, c: x % c if c else None, 2, 9),
    Operation("max(X,#)", "int", "int", lambda x, c: max(x, c), 3, 20),
    Operation("min(X,#)", "int", "int", lambda x, c: min(x, c), 3, 20),
    Operation("abs(X-#)", "int", "int", lambda x, c: abs(x - c), 3, 20),
    Operation("X[::-1]", "list", "list", lambda x: x[::-1]),
    Operation("sorted(X)", "list", "list", sorted),
    Operation("X[1:]", "list", "list", lambda x: x[1:]),
    Operation("X[:-1]", "list", "list", lambda x: x[:-1]),
    Operation("X+[#]", "list", "list", lambda x, c: [*x, c], 0, 20),
    Operation("[#]+X", "list", "list", lambda x, c: [c, *x], 0, 20),
    Operation("[y+# for y in X]", "list", "list", lambda x, c: [y + c for y in x], 1, 9),
    Operation("[y*# for y in X]", "list", "list", lambda x, c: [y * c for y in x], 2, 3, 0.5),
    Operation("[y for y in X if y>#]", "list", "list", lambda x, c: [y for y in x if y > c], 2, 9),
    Operation("sum(X)", "list", "int", sum, weight=0.4),
    Operation("max(X)", "list", "int", max, weight=0.4),
    Operation("min(X)", "list", "int", min, weight=0.4),
    Operation("len(X)", "list", "int", len, weight=0.4),
    Operation("X[0]", "list", "int", lambda x: x[0], weight=0.4),
    Operation("X[-1]", "list", "int", lambda x: x[-1], weight=0.4),
    Operation("X[::-1]", "str", "str", lambda x: x[::-1]),
    Operation("X.upper()", "str", "str", str.upper),
    Operation("X[1:]", "str", "str", lambda x: x[1:]),
    Operation("X[:-1]", "str", "str", lambda x: x[:-1]),
    Operation("X+'$'", "str", "str", lambda x, c: x + c),
    Operation("'$'+X", "str", "str", lambda x, c: c + x),
    Operation("X.replace('$','$')", "str", "str", lambda x, old, new: x.replace(old, new)),
    Operation("len(X)", "str", "int", len, weight=0.4),
)


def _pattern(operation: Operation, operand: str) -> re.Pattern[str]:
    fields = {"X": f"({operand})", "#": f"({_NUMBER})", "$": "([a-l])"}
    return re.compile("".join(fields.get(character) or re.escape(character) for character in operation.template))


#: operations of programs, with ``x`` as operand, and of steps, with a literal
_IN_PROGRAMS = [(operation, _pattern(operation, "x")) for operation in OPERATIONS]
_IN_STEPS = [(operation, _pattern(operation, _LITERALS[operation.takes])) for operation in OPERATIONS]


def _constants(operation: Operation, match: re.Match[str]) -> tuple[str, tuple[int | str, ...]]:
    """Return operand and constants of an expression."""
    kinds = [part for part in operation.template if part in "X#$"]
    found = list(zip(kinds, match.groups(), strict=True))
    operand = next(text for kind, text in found if kind == "X")
    return operand, tuple(int(text) if kind == "#" else text for kind, text in found if kind != "X")


def read_stage(text: str, takes: str) -> tuple[Operation, tuple[int | str, ...]] | None:
    """Read an operation on ``x``, a value of kind ``takes``; None if there is none."""
    for operation, pattern in _IN_PROGRAMS:
        if takes == operation.takes and (match := pattern.fullmatch(text)):
            return operation, _constants(operation, match)[1]
    return None


def evaluate(expression: str) -> Value | None:
    """Evaluate an operation on a literal, the left side of a step; None for any other text or an undefined result."""
    for operation, pattern in _IN_STEPS:
        if match := pattern.fullmatch(expression):
            operand, constants = _constants(operation, match)
            return operation(read(operand), constants)
    return None
