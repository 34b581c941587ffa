"""Run the programs of tasks and answers, by the interpreter or in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from dynamics.train.sandbox.expressions import Expressions, Outcome, as_function
from dynamics.train.sandbox.host import Job, Sandbox


@runtime_checkable
class Runner(Protocol):
    """Interface of ``Expressions``, ``Sandbox`` and ``ProgramRunner``."""

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Call ``entry`` with each tuple of arguments, for at most ``timeout`` seconds."""


class ProgramRunner:
    """Runs programs by the interpreter of expressions if ``notation``, else in the sandbox.

    Attributes
    ----------
    executor : name of the execution mechanism, for ``run.json``.
    """

    def __init__(self, notation: bool, allow_unconfined: bool):
        self.expressions = Expressions()
        self.sandbox = None if notation else Sandbox(allow_unconfined=allow_unconfined)
        self.executor = "expressions, nothing executed" if self.sandbox is None else self.sandbox.confinement

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Call ``entry`` with each tuple of arguments, for at most ``timeout`` seconds."""
        if self.sandbox is None:
            return self.expressions.run(source, inputs, entry, timeout)
        return self.sandbox.run(as_function(source), inputs, entry, timeout)

    def run_deterministic(self, programs: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> list[Outcome]:
        """Run each (source, inputs), in the sandbox under two hash seeds; values that differ are an error."""
        if self.sandbox is None:
            return [self.expressions.run(source, inputs) for source, inputs in programs]
        return self.sandbox.run_all_deterministic([Job(as_function(source), inputs) for source, inputs in programs])

    def close(self) -> None:
        """Stop the processes of the sandbox."""
        if self.sandbox is not None:
            self.sandbox.close()
