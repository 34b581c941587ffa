"""Values of small Python expressions, worked out by walking their syntax tree: nothing that a model wrote is ever executed.

What it knows is what the programs of ``dynamics.train.tasks.programs`` are made of - arithmetic of ints, lists, strings, a few built-ins -
with the results that Python gives. All else is an error, and so is a value that grows too large or takes too many steps; so it is safe
on any text, and needs no process. Programs in full Python need a sandbox instead.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: characters of a program or a literal, steps of one evaluation, magnitude of an int, length of a list or str
MAX_TEXT, MAX_STEPS, MAX_INT, MAX_LENGTH = 1000, 1000, 10**9, 200


class Refused(Exception):
    """Why a text has no value."""


@dataclass(frozen=True)
class Outcome:
    """``values`` of all calls, type-exact, or None with a short reason in ``error``."""

    values: list[Any] | None
    error: str | None


def as_function(program: str) -> str:
    """A program as a Python function ``f``; an expression over x becomes its body."""
    return program if re.search(r"^def ", program, re.MULTILINE) else f"def f(x):\n    return {program}"


def literal(text: str, size: int = MAX_TEXT) -> Any:
    """The value of a Python literal of at most ``size`` characters. Raises ``Refused``, whatever the text; inf and nan are not literals."""
    text = text.strip()
    if len(text) > size:
        raise Refused("too long")
    try:
        value = ast.literal_eval(text)
        canonical(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Refused("not a literal") from None
    return value


def canonical(value: Any) -> Any:
    """A hashable form that is equal for two values if they are equal and of the same types all the way down; ValueError if not plain."""
    kind = type(value)
    if kind in (list, tuple):
        return kind.__name__, tuple(map(canonical, value))
    if kind is dict:
        return "dict", frozenset((canonical(key), canonical(one)) for key, one in value.items())
    if kind in (set, frozenset):
        return kind.__name__, frozenset(map(canonical, value))
    if kind not in (int, bool, str, bytes, float, complex, type(None)) or (kind in (float, complex) and not abs(value) < float("inf")):
        raise ValueError("not a plain value")
    return kind.__name__, value


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal, and of the same types all the way down: 1 is neither True nor 1.0."""
    if type(a) is not type(b):
        return False
    return bool(canonical(a) == canonical(b))


class Expressions:
    """Runs programs of the small language, with the interface of a sandbox."""

    def __enter__(self) -> Expressions:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Values of ``entry`` for each tuple of arguments. ``source``: ``def f(x): return EXPRESSION``, or an expression over x."""
        try:
            names, body = _parsed(source, entry)
            values = []
            for arguments in inputs:
                if len(arguments) != len(names):
                    raise Refused(f"{entry} takes {len(names)} arguments, got {len(arguments)}")
                values.append(_Walk(dict(zip(names, arguments, strict=True))).value(body))
        except Refused as error:
            return Outcome(None, str(error))
        except (TypeError, ValueError, ZeroDivisionError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            return Outcome(None, type(error).__name__)
        return Outcome(values, None)


@lru_cache(maxsize=4096)
def _parsed(source: str, entry: str) -> tuple[tuple[str, ...], ast.expr]:
    if len(source) > MAX_TEXT:
        raise Refused("too long")
    try:
        tree = ast.parse(source.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Refused("SyntaxError") from None
    match tree.body:
        case [ast.Expr(value)]:
            return ("x",), value
        case [ast.FunctionDef(name=name, args=arguments, body=[ast.Return(value)], decorator_list=[])] if name == entry and value:
            if arguments.defaults or arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
                raise Refused("only plain arguments")
            return tuple(one.arg for one in arguments.args), value
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


class _Walk:
    def __init__(self, names: dict[str, Any]):
        self.names = names
        self.steps = 0

    def value(self, node: ast.expr) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refused("timeout")
        found = self._value(node)
        if isinstance(found, int):
            if abs(found) > MAX_INT:
                raise Refused("memory")
            return found
        if not isinstance(found, (str, list)):
            raise Refused(f"{type(found).__name__} is not in the language")
        if len(found) > MAX_LENGTH:
            raise Refused("memory")
        if isinstance(found, list) and not all(isinstance(one, (int, str)) for one in found):
            raise Refused("lists of lists are not in the language")  # comparing two of them can take for ever
        return found

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(int() | str() as value):
                return value
            case ast.Name(id=name):
                if name not in self.names:
                    raise Refused("NameError")
                return self.names[name]
            case ast.List(elements):
                return [self.value(one) for one in elements]
            case ast.UnaryOp(ast.USub(), operand):
                return -self.value(operand)
            case ast.BinOp(left, operation, right) if type(operation) in _BINARY:
                return self._binary(type(operation), self.value(left), self.value(right))
            case ast.Call(ast.Name(id=name), arguments, []) if name in _CALLS:
                return _CALLS[name](*[self.value(one) for one in arguments])
            case ast.Call(ast.Attribute(owner, name), arguments, []) if name in _METHODS:
                return self._method(name, self.value(owner), [self.value(one) for one in arguments])
            case ast.Subscript(owner, ast.Slice(start, stop, step)):
                bounds = [None if one is None else self.value(one) for one in (start, stop, step)]
                return self.value(owner)[slice(*bounds)]
            case ast.Subscript(owner, index):
                return self.value(owner)[self.value(index)]
            case ast.ListComp(element, [ast.comprehension(ast.Name(id=name), source, [], 0)]):
                return self._each(name, self.value(source), element)
        raise Refused(f"{type(node).__name__} is not in the language")

    @staticmethod
    def _binary(kind: type, left: Any, right: Any) -> Any:
        if kind is ast.Mod and isinstance(left, str):
            raise Refused("formatting is not in the language")
        if kind is ast.Mult:  # before it is made
            length = next((len(one) for one in (left, right) if isinstance(one, (str, list))), 0)
            times = next((one for one in (left, right) if isinstance(one, int)), 0)
            if length * times > MAX_LENGTH:
                raise Refused("memory")
        return _BINARY[kind](left, right)

    @staticmethod
    def _method(name: str, owner: Any, arguments: list[Any]) -> Any:
        if not isinstance(owner, str):
            raise TypeError
        if name == "replace" and len(owner) * max((len(one) for one in arguments if isinstance(one, str)), default=0) > 10**5:
            raise Refused("memory")
        return _METHODS[name](owner, *arguments)

    def _each(self, name: str, source: Any, element: ast.expr) -> list[Any]:
        if not isinstance(source, (list, str)):
            raise TypeError
        before = dict(self.names)
        made = []
        for one in source:
            self.names[name] = one
            made.append(self.value(element))
        self.names = before
        return made
