"""How a proposer is asked, and how what it writes is read: the notation of the embedded default, and plain words for other models.

Both turn a text into a ``Draft``, or refuse it with a reason in a few words. Nothing is run here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynamics.train import programs, tasks
from dynamics.train.expressions import Refused, literal

#: inputs are at most this long as text
MAX_INPUT = 200


@dataclass(frozen=True)
class Draft:
    """A program and argument tuples that a text proposes; ``message`` may describe the program to whoever has to guess it."""

    program: str
    inputs: tuple[tuple[Any, ...], ...]
    message: str = ""


class Dialect(Protocol):
    identity: str

    def ask(self, kind: str, references: Sequence[Draft], program: str | None) -> str: ...

    def read(self, kind: str, text: str, program: str | None) -> Draft: ...

    def write(self, kind: str, draft: Draft) -> str: ...


class Notation:
    """``<PD><ref>program<in>input<sep>`` -> ``program<in>input``; ``<PI>program<sep>`` -> inputs with <in> between them."""

    identity = "x"

    def ask(self, kind: str, references: Sequence[Draft], program: str | None) -> str:
        if kind == "induction":
            return f"<PI>{program}<sep>"
        shown = "".join(f"<ref>{one.program}<in>{programs.compact(one.inputs[0][0])}" for one in references)
        return f"<{'PD' if kind == 'deduction' else 'PA'}>{shown}<sep>"

    def read(self, kind: str, text: str, program: str | None) -> Draft:
        parts = text.split("<in>")
        if kind == "induction":
            return Draft(str(program), _distinct([(_value(part),) for part in parts]))
        if len(parts) != 2:
            raise Refused("form")
        return Draft(parts[0], ((_value(parts[1]),),))

    def write(self, kind: str, draft: Draft) -> str:
        given = "<in>".join(programs.compact(one[0]) for one in draft.inputs)
        return given if kind == "induction" else f"{draft.program}<in>{given}"


class Words:
    """Programs in full Python, between tags."""

    identity = "def f(x):\n    return x"

    def ask(self, kind: str, references: Sequence[Draft], program: str | None) -> str:
        if kind == "induction":
            return (
                f"<program>\n{program}\n</program>\n\nWrite {tasks.PAIRS} different inputs for f, each one Python literal between <input> "
                "and </input>, from which one can tell what f does, and say what it does between <message> and </message>."
            )
        examples = "\n\n".join(f"Example:\n{self.write(kind, one)}" for one in references)
        hard = "its output for the input" if kind == "deduction" else "an input that gives its output"
        return (
            f"{examples}\n\nWrite a new Python function f with one argument x, between <program> and </program>, and an input for it, one "
            f"Python literal between <input> and </input>. It should take some thought to find {hard}."
        ).strip()

    def read(self, kind: str, text: str, program: str | None) -> Draft:
        inputs = [(_value(one),) for one in re.findall(r"<input>(.*?)</input>", text, re.DOTALL)]
        message = " ".join(re.findall(r"<message>(.*?)</message>", text, re.DOTALL))[:300].strip()
        if kind == "induction":
            return Draft(str(program), _distinct(inputs), message)
        found = re.findall(r"<program>(.*?)</program>", text, re.DOTALL)
        if len(found) != 1 or len(inputs) != 1:
            raise Refused("form")
        source = found[0].strip()
        if len(re.findall(r"^def ", source, re.MULTILINE)) != 1 or not re.search(r"^def f\(", source, re.MULTILINE):
            raise Refused("not one function f")
        return Draft(source, (inputs[0],))

    def write(self, kind: str, draft: Draft) -> str:
        given = "\n".join(f"<input>{one[0]!r}</input>" for one in draft.inputs)
        if kind == "induction":
            return f"{given}\n<message>{draft.message}</message>"
        return f"<program>\n{tasks.function(draft.program)}\n</program>\n{given}"


def _value(text: str) -> Any:
    if len(text) > MAX_INPUT:
        raise Refused("input too long")
    try:
        return literal(text)
    except Refused:
        raise Refused("input is no literal") from None


def _distinct(inputs: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    if len({repr(one) for one in inputs}) < tasks.PAIRS:
        raise Refused(f"fewer than {tasks.PAIRS} different inputs")
    return tuple({repr(one): one for one in inputs}.values())[: tasks.PAIRS]
