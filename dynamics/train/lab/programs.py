"""Programs of the laboratory: one to four operations in a row, each on the result of the one before.

``x+3;max(x,12);x%5`` is the Python function ``x = x+3; x = max(x,12); return x%5``. Two programs are the same if they agree on a fixed list
of inputs. This normal form, not the text, determines the split, so a program in other words (``x+1;x+2`` for ``x+3``) is in the same split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dynamics.train.lab.operations import LETTERS, OPERATIONS, Operation, Value, read_stage, write

#: fraction of the programs in each split; the normal form of a program determines its split
SPLITS = {"pretraining": 0.6, "training": 0.15, "validation": 0.1, "test": 0.15}
#: deepest programs, in operations
MAX_DEPTH = 4
KINDS = ("int", "list", "str")
#: share of the inputs of the normal form on which a drawn program must be defined
DEFINED = 0.7

Stage = tuple[Operation, tuple[int | str, ...]]


@dataclass(frozen=True)
class Program:
    """A program.

    Attributes
    ----------
    stages : operations with their constants, in the order of evaluation.
    """

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        """Write the program, e.g. ``x+3;x*2``."""
        return ";".join(operation.text("x", constants) for operation, constants in self.stages)

    @property
    def depth(self) -> int:
        """Number of operations."""
        return len(self.stages)

    @property
    def takes(self) -> str:
        """Kind of its input."""
        return self.stages[0][0].takes

    @property
    def label(self) -> str:
        """The program with the kind of its input, which its text alone leaves open: ``list: x[1:];x[0]``."""
        return f"{self.takes}: {self}"

    def expression(self) -> str:
        """Write the program as one Python expression over ``x``."""
        text = "x"
        for operation, constants in self.stages:
            text = operation.text(text if text == "x" else f"({text})", constants)
        return text

    def __call__(self, value: Value) -> Value | None:
        """Return the output; None if it is undefined."""
        for operation, constants in self.stages:
            value = operation(value, constants)
            if value is None:
                return None
        return value

    def steps(self, value: Value) -> list[tuple[str, Value]] | None:
        """Evaluate step by step.

        Returns
        -------
        Of each operation: the expression with the literal that it is applied to, and its value; None if the output is undefined.
        """
        steps = []
        for operation, constants in self.stages:
            expression = operation.text(write(value), constants)
            value = operation(value, constants)
            if value is None:
                return None
            steps.append((expression, value))
        return steps


def read_program(text: str, kind: str | None = None) -> Program | None:
    """Read a program as ``str(program)`` writes it, of at most ``MAX_DEPTH`` operations; None for any other text.

    Parameters
    ----------
    text : of the program.
    kind : of the input. If None, the first of ``KINDS`` that all operations fit: ``x[1:]`` is one of lists and of strings.
    """
    parts = text.split(";", MAX_DEPTH)
    if len(parts) > MAX_DEPTH:
        return None
    for first in KINDS if kind is None else (kind,):
        current, stages = first, []
        for part in parts:
            stage = read_stage(part, current)
            if stage is None:
                break
            stages.append(stage)
            current = stage[0].gives
        else:
            return Program(tuple(stages))
    return None


def labelled(label: str) -> Program:
    """Return the program of a ``Program.label``; raise ValueError for any other text."""
    kind, _, text = label.partition(": ")
    program = read_program(text, kind)
    if program is None:
        raise ValueError(f"{label[:80]!r} is not the label of a program")
    return program


def draw_input(rng: np.random.Generator, kind: str) -> Value:
    """Draw an input: an integer up to 30, or 2 to 4 different items or letters."""
    if kind == "int":
        return int(rng.integers(31))
    count = int(rng.integers(2, 5))
    if kind == "list":
        return [int(item) for item in rng.permutation(16)[:count]]
    return "".join(LETTERS[index] for index in rng.permutation(len(LETTERS))[:count])


_rng = np.random.default_rng(20261127)
#: inputs of the normal form, of each kind
PROBES: dict[str, list[Value]] = {
    "int": list(range(31)),
    "list": [draw_input(_rng, "list") for _ in range(24)],
    "str": [draw_input(_rng, "str") for _ in range(36)],
}


@lru_cache(maxsize=1 << 17)
def _outputs(stages: tuple[Stage, ...], kind: str) -> tuple[Value, ...]:
    """Return the outputs for the inputs of the normal form; an empty program is the identity."""
    if not stages:
        return tuple(PROBES[kind])
    operation, constants = stages[-1]
    return tuple(None if value is None else operation.of_valid(value, constants) for value in _outputs(stages[:-1], kind))


def normal_form(program: Program) -> str:
    """Return a text that two programs share exactly if they take the same kind and agree on the fixed inputs of that kind.

    Programs that differ elsewhere only, on larger numbers say, count as the same. So two splits share fewer programs than their texts say,
    never more.
    """
    return _digest(program.takes, _outputs(program.stages, program.takes))


def _digest(kind: str, outputs: Sequence[Value]) -> str:
    return hashlib.sha256(f"{kind} {outputs}".encode()).hexdigest()


def split_of(program: Program) -> str:
    """Return the split of a program, whatever its depth."""
    fraction = int(normal_form(program)[:16], 16) / 2**64
    for name, share in SPLITS.items():
        if fraction < share:
            return name
        fraction -= share
    return name


def is_proper(program: Program) -> bool:
    """Whether a program is defined on enough inputs, not constant, and another one without any of its operations, or some in a row."""
    outputs = _outputs(program.stages, program.takes)
    defined = [value for value in outputs if value is not None]
    if len(defined) < DEFINED * len(outputs) or all(value == defined[0] for value in defined):
        return False
    for first, last in itertools.combinations_with_replacement(range(program.depth), 2):
        if program.stages[first][0].takes == program.stages[last][0].gives:
            rest = program.stages[:first] + program.stages[last + 1 :]
            if _agree(outputs, _outputs(rest, program.takes)):
                return False
    return True


def _agree(outputs: Iterable[Value], others: Iterable[Value]) -> bool:
    """Whether two programs agree wherever the first is defined."""
    return all(a is None or a == b for a, b in zip(outputs, others, strict=True))


_BY_KIND = {kind: [operation for operation in OPERATIONS if operation.takes == kind] for kind in KINDS}
_CUMULATED = {kind: np.cumsum([operation.weight for operation in found]) for kind, found in _BY_KIND.items()}


def draw_program(
    rng: np.random.Generator, depth: int, kind: str | None = None, only: str | None = None, split: str | None = None
) -> Program:
    """Draw a proper program.

    Parameters
    ----------
    rng : random numbers.
    depth : number of operations.
    kind : of its input; any if None.
    only : kind of all its values; any if None.
    split : that it belongs to; any if None. There is no end if no program of the split is as asked.
    """
    while True:
        current = only or kind or KINDS[rng.integers(len(KINDS))]
        stages: list[Stage] = []
        for _ in range(depth):
            weights = _CUMULATED[current]
            operation = _BY_KIND[current][int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
            stages.append((operation, _draw_constants(rng, operation)))
            current = operation.gives
        if only and any(operation.gives != only for operation, _ in stages):
            continue
        program = Program(tuple(stages))
        if (split is None or split_of(program) == split) and is_proper(program):
            return program


def _draw_constants(rng: np.random.Generator, operation: Operation) -> tuple[int | str, ...]:
    letters = iter(rng.permutation(len(LETTERS))[:2])
    fields = (part for part in operation.template if part in "#$")
    return tuple(int(rng.integers(operation.low, operation.high + 1)) if part == "#" else LETTERS[next(letters)] for part in fields)


def draw_inputs(rng: np.random.Generator, program: Program, count: int) -> list[Value] | None:
    """Draw different inputs for which the program is defined; None if a hundred draws for each did not do."""
    found: dict[str, Value] = {}
    for _ in range(100 * count):
        value = draw_input(rng, program.takes)
        if program(value) is not None:
            found.setdefault(write(value), value)
        if len(found) == count:
            return list(found.values())
    return None
