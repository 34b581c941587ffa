"""How problems of the laboratory, scratchpads and answers are written, and what a completion says.

Prompts end with ``<sep>``. A scratchpad is a list of steps ``<s>expression=value``, then comes the answer after ``<ans>``; a direct answer
has no steps:

=================  ==========================================  =======================================================
form               prompt                                      completion
=================  ==========================================  =======================================================
deduction          ``<D>program<in>input``, perhaps a hint     ``<s>7+3=10<s>max(10,12)=12<ans>12``
abduction          ``<A>program<out>output``                   ``<try>input<s>...<ans>input``
induction          ``<I><in>input<out>output<in>...``          ``<try>program<s>...<ans>program``
judge              ``<J>program<in>input<s>step<s>step``       ``<s>step``: the last one as it should be
wrong step         ``<W>program<in>input<s>step``              ``<s>step``: the next one, with a wrong value
hint               ``<H>program<in>input``                     ``<hint>step``
propose deduction  ``<PD><ref>program<in>input``               ``program<in>input``; ``<PA>`` for abduction
propose induction  ``<PI>program``                             ``input<in>input<in>...``
transfer           ``<T>a=7;c=20;b=a+3;d=max(b,12);d?``        as in deduction
=================  ==========================================  =======================================================

Completions are hostile: nothing of them is run, and all that is read has a bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dynamics.train.lab.operations import Value, evaluate, read, write
from dynamics.train.lab.programs import Program, read_program
from dynamics.train.step_checks import StepChecks

#: forms whose answer is graded against a program
SOLVED = ("deduction", "abduction", "induction", "transfer")
#: pairs shown to the solver of induction; as many more are hidden
SHOWN_PAIRS = 3
#: inputs of a problem
PAIRS = 2 * SHOWN_PAIRS
#: marks of prompts; each is a token of the vocabulary
SPECIAL_TOKENS = (
    *("<pad>", "<eos>", "<unk>", "<D>", "<A>", "<I>", "<J>", "<W>", "<H>", "<PD>", "<PA>", "<PI>", "<T>", "<C>"),
    *("<in>", "<out>", "<ref>", "<sep>"),
)
#: those of completions
MARKS = ("<s>", "<ans>", "<try>", "<hint>")
#: names of variables in the transfer form
NAMES = "abcdefghijkl"
#: why an answer cannot be read
NO_ANSWER, NO_PROGRAM, NO_VALUE = "no answer", "not a program", "not a literal"
#: longest completion that is read, in characters
MAX_TEXT = 2000

_MARK = re.compile(r"(<(?:s|ans|try|hint)>)")


@dataclass(frozen=True)
class Step:
    """A step as it was written.

    Attributes
    ----------
    text : ``expression=value``.
    """

    text: str

    @property
    def expression(self) -> str:
        """What stands on the left."""
        return self.text.partition("=")[0]

    @property
    def value(self) -> Value | None:
        """The value on the right; None if there is none."""
        return read(self.text.partition("=")[2])

    @property
    def is_true(self) -> bool:
        """Whether the expression is an operation on a literal and has the value."""
        value = self.value
        return value is not None and same(evaluate(self.expression), value)


@dataclass(frozen=True)
class Completion:
    """What a completion says.

    Attributes
    ----------
    steps : of the scratchpad.
    answer : the text after ``<ans>``; None unless exactly one ``<ans>`` ends the scratchpad.
    attempts : what was tried, None before the first ``<try>``, with the steps that follow, if there is either.
    """

    steps: tuple[Step, ...]
    answer: str | None
    attempts: tuple[tuple[str | None, tuple[Step, ...]], ...] = ()


def same(a: Value | None, b: Value | None) -> bool:
    """Whether two values are equal and of one kind."""
    return a is not None and type(a) is type(b) and bool(a == b)


def step_text(step: tuple[str, Value]) -> str:
    """Write a step as ``expression=value``."""
    return f"{step[0]}={write(step[1])}"


def scratchpad(steps: Sequence[tuple[str, Value]]) -> str:
    """Write steps, each after its mark."""
    return "".join(f"<s>{step_text(step)}" for step in steps)


def read_completion(text: str) -> Completion:
    """Read a completion; never raises, whatever the text."""
    parts = _MARK.split(text[:MAX_TEXT])
    marks, texts = parts[1::2], parts[2::2]
    steps = tuple(Step(body) for mark, body in zip(marks, texts, strict=True) if mark == "<s>")
    answered = len(text) <= MAX_TEXT and marks.count("<ans>") == 1 and marks[-1] == "<ans>"
    attempts: list[tuple[str | None, list[Step]]] = [(None, [])]
    for mark, body in zip(marks, texts, strict=True):
        if mark == "<try>":
            attempts.append((body, []))
        elif mark == "<s>":
            attempts[-1][1].append(Step(body))
    made = tuple((tried, tuple(written)) for tried, written in attempts if tried is not None or written)
    return Completion(steps, texts[-1] if answered else None, made)


def read_verdict(shown: str, text: str) -> bool | None:
    """Read a judgement: whether the judge wrote the shown step again.

    Parameters
    ----------
    shown : the step that was judged, ``expression=value``.
    text : the completion.

    Returns
    -------
    True if its first step is the shown one, False if it is another, None if it has no step with a value: no judgement.
    """
    steps = read_completion(text).steps
    return None if not steps or steps[0].value is None else steps[0].text == shown


def check_steps(program: Program, value: Value, steps: Sequence[Step]) -> StepChecks:
    """Check the steps of a scratchpad, each on its own, against the program on an input; none counts if it is undefined for that."""
    truth = {step_text(step) for step in program.steps(value) or ()}
    texts = [step.text for step in steps]
    return StepChecks(
        written=len(steps),
        true=sum(step.is_true for step in steps),
        on_path=sum(text in truth for text in texts),
        repeated=len(texts) - len(set(texts)),
        needed=program.depth,
        covered=len(truth & set(texts)),
    )


def check_completion(form: str, program: Program, value: Value, text: str) -> StepChecks:
    """Check the steps of an answer to a problem of ``SOLVED``; never raises, whatever the text.

    Parameters
    ----------
    form : deduction and transfer follow the program on the input. An attempt of abduction follows it on the input that it tries, one of
        induction follows the program that it tries on the first input shown.
    program, value : the program and the input of the problem, for which it is defined.
    text : the completion.

    Returns
    -------
    Sums over attempts; ``needed`` and ``covered`` are those of the last one with steps. Steps that stand before an attempt, or belong to
    one that cannot be read or is not defined, are on no path.
    """
    completion = read_completion(text)
    if form in ("deduction", "transfer"):
        return check_steps(program, value, completion.steps)
    found = []
    for tried, steps in completion.attempts:
        if steps:
            followed = read_program(tried or "", program.takes) if form == "induction" else program
            given = read(tried or "") if form == "abduction" else value
            found.append(check_steps(program, None, steps) if followed is None else check_steps(followed, given, steps))
    sums = {name: sum(getattr(check, name) for check in found) for name in ("written", "true", "on_path", "repeated")}
    last = found[-1] if found else check_steps(program, value, ())
    return StepChecks(**sums, needed=last.needed, covered=last.covered)


def deduction_prompt(program: Program, value: Value, hint: str | None = None) -> str:
    """Ask for the output; ``hint`` is a step, true or not."""
    return f"<D>{program}<in>{write(value)}" + (f"<hint>{hint}" if hint else "") + "<sep>"


def abduction_prompt(program: Program, output: Value) -> str:
    """Ask for an input that gives an output."""
    return f"<A>{program}<out>{write(output)}<sep>"


def induction_prompt(inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """Ask for a program from ``SHOWN_PAIRS`` inputs and outputs, the first of those given."""
    pairs = list(zip(inputs, outputs, strict=True))[:SHOWN_PAIRS]
    return "<I>" + "".join(f"<in>{write(given)}<out>{write(output)}" for given, output in pairs) + "<sep>"


def judge_prompt(program: Program, value: Value, steps: Sequence[tuple[str, Value]]) -> str:
    """Ask whether the last of some steps is true; the completion writes it as it should be, see ``read_verdict``."""
    return f"<J>{program}<in>{write(value)}{scratchpad(steps)}<sep>"


def wrong_step_prompt(program: Program, value: Value, steps: Sequence[tuple[str, Value]]) -> str:
    """Ask for a wrong step after some steps."""
    return f"<W>{program}<in>{write(value)}{scratchpad(steps)}<sep>"


def hint_prompt(program: Program, value: Value) -> str:
    """Ask for a hint."""
    return f"<H>{program}<in>{write(value)}<sep>"


def proposal_prompt(form: str, references: Sequence[tuple[Program | str, Value]]) -> str:
    """Ask for a proposal, ``form`` PD or PA, after references: programs with an input."""
    return f"<{form}>" + "".join(f"<ref>{program}<in>{write(value)}" for program, value in references) + "<sep>"


def inputs_prompt(program: Program | str) -> str:
    """Ask for inputs of a program."""
    return f"<PI>{program}<sep>"


def transfer_prompt(program: Program, value: Value, names: Sequence[str], other: int | None, place: int = 1) -> str:
    """Tell a program of integers as assignments.

    Parameters
    ----------
    program, value : what is told.
    names : a name for the input and each operation, then one for an assignment that is not needed.
    other : the number in this assignment; None to leave it out.
    place : where it stands among the assignments.
    """
    lines = [f"{names[0]}={write(value)}"]
    for index, (operation, constants) in enumerate(program.stages):
        lines.append(f"{names[index + 1]}={operation.text(names[index], constants)}")
    if other is not None:
        lines.insert(place, f"{names[program.depth + 1]}={other}")
    return f"<T>{';'.join(lines)};{names[program.depth]}?<sep>"
