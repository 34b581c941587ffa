"""An interpreter of small Python expressions that walks their syntax tree; code written by a model is never executed.

It supports the language of ``dynamics.train.tasks.programs`` (arithmetic of ints, lists, strings, a few built-ins) with the results of
Python. Everything else is an error, as are values that are too large and evaluations with too many steps, so it is safe on any text
without a separate process. Programs in full Python need the sandbox.
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
    """Raised for texts that cannot be evaluated, with a short reason."""


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


def literal(text: str, size: int = MAX_TEXT) -> Any:
    """Evaluate a Python literal of at most ``size`` characters; raise ``Refused`` for any other text, also for inf and nan."""
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
    """Return a hashable form that is equal for two values exactly if they are equal and have the same types, recursively.

    Raises ValueError for values other than literals.
    """
    type_ = type(value)
    if type_ in (list, tuple):
        return type_.__name__, tuple(map(canonical, value))
    if type_ is dict:
        return "dict", frozenset((canonical(key), canonical(item)) for key, item in value.items())
    if type_ in (set, frozenset):
        return type_.__name__, frozenset(map(canonical, value))
    if type_ not in (int, bool, str, bytes, float, complex, type(None)) or (type_ in (float, complex) and not abs(value) < float("inf")):
        raise ValueError("not a plain value")
    return type_.__name__, value


def same(a: Any, b: Any) -> bool:
    """Whether two literal values are equal and have the same types, recursively: 1 is neither True nor 1.0."""
    if type(a) is not type(b):
        return False
    return bool(canonical(a) == canonical(b))


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
