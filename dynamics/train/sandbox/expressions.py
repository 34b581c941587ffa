"""An interpreter of small Python expressions that walks their syntax tree; code written by a model is never executed.

It supports the language of ``dynamics.train.tasks.programs`` (arithmetic of ints, lists, strings, a few built-ins) with the results of
Python. Everything else is an error, as are values that are too large and evaluations with too many steps, so it is safe on any text
without a separate process. Programs in full Python need the sandbox.
"""

from __future__ import annotations

import ast
import cmath
import itertools
import operator
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dynamics import syntax
from dynamics.train.sandbox.literals import MAX_DEPTH, MAX_DIGITS, MAX_KEYS, parse
from dynamics.train.sandbox.literals import Refused as Refused  # what the functions of this module raise

#: characters of a program or a literal, steps of one evaluation, magnitude of an int, length of a list or str
MAX_TEXT, MAX_STEPS, MAX_INT, MAX_LENGTH = 1000, 1000, 10**9, 200
#: levels of a syntax tree, items of values that are compared
MAX_TREE, MAX_ITEMS = syntax.MAX_LEVELS, 1 << 16
_TOO_LARGE = 10**MAX_DIGITS


@dataclass(frozen=True)
class Outcome:
    """The outcome of running a program.

    Attributes
    ----------
    values : return values of all calls, with their exact types; None after an error.
    error : short reason, or None.
    """

    values: list[Any] | None
    error: str | None


def as_function(program: str) -> str:
    """Write a program as a Python function ``f``; an expression over x becomes its body."""
    return program if re.search(r"^def ", program, re.MULTILINE) else f"def f(x):\n    return {program}"


def literal(text: str, size: int = MAX_TEXT, depth: int = MAX_DEPTH) -> Any:
    """Evaluate a Python literal of at most ``size`` characters, with at most ``depth`` brackets within each other.

    Raises ``Refused``, and nothing else, for any other text, also for inf and nan, for numbers of more than ``MAX_DIGITS`` digits, and for
    sets and dictionaries of more than ``MAX_KEYS`` items. The value can be printed with ``repr``, whatever the interpreter's settings.
    """
    text = text.strip()
    if len(text) > size:
        raise Refused("too long")
    return parse(text, depth)


def length(value: Any) -> int:
    """Return the number of characters of a value as text; ``sys.maxsize`` for what cannot be printed."""
    try:
        return len(repr(value))
    except (ValueError, MemoryError, RecursionError):  # ints of more digits than the interpreter prints, nesting
        return sys.maxsize


def canonical(value: Any) -> Any:
    """Return a hashable form that is equal for two values exactly if they are equal and have the same types, recursively.

    Raises ``Refused`` for values other than literals within the limits of ``literal``.
    """
    try:
        return _canonical(value, MAX_DEPTH, itertools.count())
    except (MemoryError, RecursionError):
        raise Refused("memory") from None


def _canonical(value: Any, depth: int, items: Iterator[int]) -> Any:
    type_ = type(value)
    if next(items) > MAX_ITEMS:  # a list may hold another one many times
        raise Refused("too many items")
    if type_ in (list, tuple, dict, set, frozenset):
        if depth == 0:
            raise Refused("nested too deeply")
        if type_ not in (list, tuple) and len(value) > MAX_KEYS:
            raise Refused("too many keys")
        if type_ is dict:
            pairs = [(_canonical(key, depth - 1, items), _canonical(item, depth - 1, items)) for key, item in value.items()]
            return "dict", frozenset(pairs)
        parts = [_canonical(item, depth - 1, items) for item in value]
        return type_.__name__, tuple(parts) if type_ in (list, tuple) else frozenset(parts)
    if type_ not in (int, bool, str, bytes, float, complex, type(None)):
        raise Refused("not a plain value")
    if (type_ is int and abs(value) >= _TOO_LARGE) or (type_ in (float, complex) and not cmath.isfinite(value)):
        raise Refused("number too large")
    return type_.__name__, value


def same(a: Any, b: Any) -> bool:
    """Whether two literal values are equal and have the same types, recursively: 1 is neither True nor 1.0.

    Never raises; values that ``canonical`` refuses are the same as nothing.
    """
    try:
        return type(a) is type(b) and bool(canonical(a) == canonical(b))
    except Refused:
        return False


def sorted_text(value: Any) -> str:
    """Write a literal such that values that are ``same`` have the same text: the items of sets and dictionaries are sorted.

    Zeros of both signs are an exception: they are the same, and have two texts.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{sorted_text(key)}: {sorted_text(item)}" for key, item in value.items())) + "}"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(map(sorted_text, value)))})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(sorted_text, value))})"
    return repr(value)


def all_same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two sequences have as many values, and all are the ``same``; a value that is missing is the same as nothing."""
    return len(a) == len(b) and all(map(same, a, b))


def syntax_tree(source: str, levels: int = MAX_TREE) -> ast.Module:
    """Parse a program as ``dynamics.syntax.syntax_tree`` does; raise ``Refused`` where that fails."""
    try:
        return syntax.syntax_tree(source, levels)
    except syntax.NotParsed as error:
        raise Refused(str(error)) from None


class Expressions:
    """Runs programs of the small language, with the interface of a sandbox."""

    def __enter__(self) -> Expressions:
        """Return itself; there is no process to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing; there is no process to stop."""

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Call ``entry`` with each tuple of arguments.

        Parameters
        ----------
        source : ``def f(x): return EXPRESSION``, or an expression over x.
        inputs : the arguments of each call.
        entry : the name of the function.
        timeout : not used.
        """
        del timeout  # the number of steps is limited instead
        try:
            names, body = _parsed(source, entry)
            values = []
            for arguments in inputs:
                if len(arguments) != len(names):
                    raise Refused(f"{entry} takes {len(names)} arguments, got {len(arguments)}")
                values.append(_Evaluation(dict(zip(names, arguments, strict=True))).value(body))
        except Refused as error:
            return Outcome(None, str(error))
        except (TypeError, ValueError, ZeroDivisionError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            return Outcome(None, type(error).__name__)
        return Outcome(values, None)


@lru_cache(maxsize=4096)
def _parsed(source: str, entry: str) -> tuple[tuple[str, ...], ast.expr]:
    if len(source) > MAX_TEXT:
        raise Refused("too long")
    match syntax_tree(source.strip()).body:
        case [ast.Expr(value)]:
            return ("x",), value
        case [ast.FunctionDef(name=name, args=arguments, body=[ast.Return(value)], decorator_list=[])] if name == entry and value:
            if arguments.defaults or arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
                raise Refused("only plain arguments")
            return tuple(argument.arg for argument in arguments.args), value
    raise Refused("not one expression")


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., Any]] = {"sorted": sorted, "max": max, "min": min, "abs": abs, "sum": sum, "len": len}
_METHODS: dict[str, Callable[..., Any]] = {"upper": str.upper, "lower": str.lower, "replace": str.replace}


class _Evaluation:
    """One evaluation of an expression, its steps counted."""

    def __init__(self, names: dict[str, Any]):
        self.names = names
        self.steps = 0

    def value(self, node: ast.expr) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refused("timeout")
        value = self._value(node)
        if isinstance(value, int):
            if abs(value) > MAX_INT:
                raise Refused("memory")
            return value
        if not isinstance(value, (str, list)):
            raise Refused(f"{type(value).__name__} is not in the language")
        if len(value) > MAX_LENGTH:
            raise Refused("memory")
        if isinstance(value, list) and not all(isinstance(item, (int, str)) for item in value):
            raise Refused("lists of lists are not in the language")  # comparing nested lists can take forever
        return value

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(int() | str() as value):
                return value
            case ast.Name(id=name):
                if name not in self.names:
                    raise Refused("NameError")
                return self.names[name]
            case ast.List(elements):
                return [self.value(element) for element in elements]
            case ast.UnaryOp(ast.USub(), operand):
                return -self.value(operand)
            case ast.BinOp(left, operation, right) if type(operation) in _BINARY:
                return self._binary(type(operation), self.value(left), self.value(right))
            case ast.ListComp(element, [ast.comprehension(ast.Name(id=name), source, [], 0)]):
                return self._each(name, self.value(source), element)
            case ast.Subscript(owner, index):
                return self._item(owner, index)
            case ast.Call(function, arguments, []):
                return self._call(function, arguments)
        raise Refused(f"{type(node).__name__} is not in the language")

    def _item(self, owner: ast.expr, index: ast.expr) -> Any:
        if isinstance(index, ast.Slice):
            bounds = [None if bound is None else self.value(bound) for bound in (index.lower, index.upper, index.step)]
            return self.value(owner)[slice(*bounds)]
        return self.value(owner)[self.value(index)]

    def _call(self, function: ast.expr, arguments: list[ast.expr]) -> Any:
        match function:
            case ast.Name(id=name) if name in _CALLS:
                return _CALLS[name](*[self.value(argument) for argument in arguments])
            case ast.Attribute(owner, name) if name in _METHODS:
                return self._method(name, self.value(owner), [self.value(argument) for argument in arguments])
        raise Refused("Call is not in the language")

    @staticmethod
    def _binary(operation: type, left: Any, right: Any) -> Any:
        if operation is ast.Mod and isinstance(left, str):
            raise Refused("formatting is not in the language")
        if operation is ast.Mult:  # before it is made
            length = next((len(side) for side in (left, right) if isinstance(side, (str, list))), 0)
            times = next((side for side in (left, right) if isinstance(side, int)), 0)
            if length * times > MAX_LENGTH:
                raise Refused("memory")
        return _BINARY[operation](left, right)

    @staticmethod
    def _method(name: str, owner: Any, arguments: list[Any]) -> Any:
        if not isinstance(owner, str):
            raise TypeError
        if (
            name == "replace"
            and len(owner) * max((len(argument) for argument in arguments if isinstance(argument, str)), default=0) > 10**5
        ):
            raise Refused("memory")
        return _METHODS[name](owner, *arguments)

    def _each(self, name: str, source: Any, element: ast.expr) -> list[Any]:
        if not isinstance(source, (list, str)):
            raise TypeError
        before = dict(self.names)
        values = []
        for item in source:
            self.names[name] = item
            values.append(self.value(element))
        self.names = before
        return values
