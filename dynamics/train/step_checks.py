"""What is known of the steps of an answer, each checked on its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepChecks:
    """How many steps of a scratchpad have a property.

    Attributes
    ----------
    written : all steps.
    true : whose value is that of the expression.
    on_path : that are true and are steps of the program on the input.
    repeated : that were written before in the same attempt.
    needed : operations of the program.
    covered : different steps of the program on the input that were written.
    """

    written: int
    true: int
    on_path: int
    repeated: int
    needed: int
    covered: int
