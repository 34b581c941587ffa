"""Match names of modules with the regular expressions of an adapter's settings, in bounded time.

PEFT matches them with Python's engine, which tries one way after another: a stranger's ``(a|a)*b`` never ends. Here the states that a
pattern can be in are followed all at once, one character of the name at a time. What such an automaton cannot do (to look around, or to
repeat what a group matched) is refused.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dynamics.errors import printable

if sys.version_info >= (3, 11):
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_constants as constants
    import sre_parse as parser

#: characters of a pattern, states of its automaton, and steps of all matches of an adapter
LONGEST, STATES, STEPS = 20_000, 5_000, 50_000_000
#: a pattern that is the name of a module; its dots stand for any character
NAME = re.compile(r"[\w.-]+")
#: repetitions of a part that are written out
REPEATED = 200


class UnsupportedError(ValueError):
    """A pattern that is not matched; the message says why."""


@dataclass
class Steps:
    """What is left of the steps that the patterns of one adapter may take, and those patterns, by the name of the setting."""

    left: int = STEPS
    patterns: dict[str, Patterns] = field(default_factory=dict)

    def take(self, count: int) -> None:
        """Take some; raise an ``UnsupportedError`` if there are no more."""
        self.left -= count
        if self.left < 0:
            raise UnsupportedError("takes too long to match")


@dataclass
class _State:
    """A state: the test of the next character that leads to ``next``, or a position to be at, or neither."""

    test: Any = None
    position: Any = None
    next: list[int] = field(default_factory=list)


class _Automaton:
    """The states of a pattern; the last one that was made is the end."""

    def __init__(self, pattern: str) -> None:
        self.states: list[_State] = []
        start, end = self._sequence(parser.parse(pattern))
        self.start, self.end = start, end

    def _new(self, **fields: Any) -> int:
        if len(self.states) >= STATES:
            raise UnsupportedError("is too long")
        self.states.append(_State(**fields))
        return len(self.states) - 1

    def _sequence(self, items: Any) -> tuple[int, int]:
        start = end = self._new()
        for operation, argument in items:
            first, last = self._part(operation, argument)
            self.states[end].next.append(first)
            end = last
        return start, end

    def _part(self, operation: Any, argument: Any) -> tuple[int, int]:
        if operation in (constants.LITERAL, constants.NOT_LITERAL, constants.ANY, constants.IN):
            start, end = self._new(test=_test(operation, argument)), self._new()
            self.states[start].next.append(end)
            return start, end
        if operation is constants.AT:
            if argument not in POSITIONS:
                raise UnsupportedError("asks for an unusual position")
            start, end = self._new(position=argument), self._new()
            self.states[start].next.append(end)
            return start, end
        if operation is constants.SUBPATTERN:
            _, added, removed, inner = argument
            if added or removed:
                raise UnsupportedError("changes its flags")
            return self._sequence(inner)
        if operation is constants.BRANCH:
            start, end = self._new(), self._new()
            for inner in argument[1]:
                first, last = self._sequence(inner)
                self.states[start].next.append(first)
                self.states[last].next.append(end)
            return start, end
        if operation in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            return self._repeated(*argument)
        raise UnsupportedError("looks around or back")

    def _repeated(self, least: int, most: int, inner: Any) -> tuple[int, int]:
        endless = most is constants.MAXREPEAT
        if least > REPEATED or (not endless and most > REPEATED):
            raise UnsupportedError("repeats a part too often")
        start = end = self._new()
        for _ in range(least):
            first, last = self._sequence(inner)
            self.states[end].next.append(first)
            end = last
        if endless:
            first, last = self._sequence(inner)
            loop, after = self._new(), self._new()
            self.states[end].next.append(loop)
            self.states[loop].next += [first, after]
            self.states[last].next.append(loop)
            return start, after
        after = self._new()
        for _ in range(most - least):
            first, last = self._sequence(inner)
            self.states[end].next += [first, after]
            end = last
        self.states[end].next.append(after)
        return start, after

    def matches(self, text: str, steps: Steps) -> bool:
        """Tell whether the pattern matches a prefix of the text."""
        current = self._reached([self.start], text, 0, steps)
        for index, character in enumerate(text):
            if self.end in current:
                return True
            following = [state.next[0] for state in map(self.states.__getitem__, current) if state.test and state.test(character)]
            current = self._reached(following, text, index + 1, steps)
            if not current:
                return False
        return self.end in current

    def _reached(self, states: Sequence[int], text: str, index: int, steps: Steps) -> set[int]:
        """Add the states that are reached without a character."""
        reached: set[int] = set()
        waiting = list(states)
        while waiting:
            number = waiting.pop()
            if number in reached:
                continue
            reached.add(number)
            state = self.states[number]
            if state.test is None and (state.position is None or POSITIONS[state.position](text, index)):
                waiting += state.next
        steps.take(len(reached))
        return reached


def _is_boundary(text: str, index: int) -> bool:
    before, after = (bool(re.fullmatch(r"\w", part)) for part in (text[max(0, index - 1) : index], text[index : index + 1]))
    return before != after


POSITIONS: dict[Any, Callable[[str, int], bool]] = {
    constants.AT_BEGINNING: lambda _text, index: index == 0,
    constants.AT_BEGINNING_STRING: lambda _text, index: index == 0,
    constants.AT_END: lambda text, index: index == len(text) or (index == len(text) - 1 and text[index] == "\n"),
    constants.AT_END_STRING: lambda text, index: index == len(text),
    constants.AT_BOUNDARY: _is_boundary,
    constants.AT_NON_BOUNDARY: lambda text, index: not _is_boundary(text, index),
}
CATEGORIES = {
    constants.CATEGORY_DIGIT: r"\d",
    constants.CATEGORY_NOT_DIGIT: r"\D",
    constants.CATEGORY_SPACE: r"\s",
    constants.CATEGORY_NOT_SPACE: r"\S",
    constants.CATEGORY_WORD: r"\w",
    constants.CATEGORY_NOT_WORD: r"\W",
}


def _test(operation: Any, argument: Any) -> Any:
    """Return the function that tests a character."""
    if operation is constants.LITERAL:
        return lambda character: ord(character) == argument
    if operation is constants.NOT_LITERAL:
        return lambda character: ord(character) != argument
    if operation is constants.ANY:
        return lambda character: character != "\n"
    if operation is constants.RANGE:
        return lambda character: argument[0] <= ord(character) <= argument[1]
    if operation is constants.CATEGORY:
        fits = re.compile(CATEGORIES[argument]).fullmatch
        return lambda character: bool(fits(character))
    negated = argument[0][0] is constants.NEGATE
    tests = [_test(*item) for item in argument[negated:]]
    return lambda character: any(test(character) for test in tests) != negated


@lru_cache(maxsize=1024)
def _automaton(pattern: str) -> _Automaton:
    if len(pattern) > LONGEST:
        raise UnsupportedError("is too long")
    try:
        with warnings.catch_warnings():  # of sets that may mean something else in future
            warnings.simplefilter("ignore")
            return _Automaton(pattern)
    except (RecursionError, OverflowError, KeyError):
        raise UnsupportedError("is nested too deeply, or not known") from None


class Patterns:
    r"""Patterns that are matched with the end of a module's name, from a dot on, as PEFT matches them.

    A pattern is a regular expression, as a rule the plain name of a module, and one that is not valid is compared as text. Plain names are
    looked up, however many there are: those of the same length with dots at the same positions at once, as a dot stands for any character.

    >>> Patterns([r"layers\.(0|1)\.q_proj", "q_proj"]).first("model.layers.1.q_proj", Steps())
    'layers\\.(0|1)\\.q_proj'
    """

    def __init__(self, patterns: Iterable[str]):
        self.patterns = list(patterns)
        self._names: dict[tuple[int, tuple[int, ...]], dict[str, int]] = {}
        self._others: list[int] = []
        for number, pattern in enumerate(self.patterns):
            if NAME.fullmatch(pattern):
                dots = tuple(index for index, character in enumerate(pattern) if character == ".")
                self._names.setdefault((len(pattern), dots), {}).setdefault(pattern, number)
            else:
                self._others.append(number)

    def first(self, module: str, steps: Steps) -> str | None:
        """Return the first pattern that matches; None if there is none.

        Parameters
        ----------
        module : name of a module.
        steps : what all matches together may take.

        Raises
        ------
        UnsupportedError : a pattern would take too long, or an automaton cannot match it; the message names it.
        """
        found = len(self.patterns)
        for (length, dots), numbers in self._names.items():
            steps.take(1 + len(dots))
            start = len(module) - length
            if start == 0 or (start > 0 and module[start - 1] == "." and "\n" not in module[:start]):
                end = list(module[start:])
                for dot in dots:
                    end[dot] = "." if end[dot] != "\n" else "\n"
                found = min(found, numbers.get("".join(end), found))
        for number in self._others:
            if number > found:
                break
            if self._matches(self.patterns[number], module, steps):
                return self.patterns[number]
        return self.patterns[found] if found < len(self.patterns) else None

    @staticmethod
    def _matches(pattern: str, module: str, steps: Steps) -> bool:
        steps.take(len(pattern) + 1)
        try:
            return _automaton(rf"(.*\.)?({pattern})$").matches(module, steps)
        except re.error:
            return module.endswith(pattern)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error} ({printable(pattern, 40)})") from None
