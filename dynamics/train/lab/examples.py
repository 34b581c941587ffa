"""Pre-training examples of the laboratory, with mistakes at stated rates, so that a base is competent but not certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dynamics.train.lab import notation
from dynamics.train.lab.notation import PAIRS, scratchpad, step_text
from dynamics.train.lab.operations import LETTERS, MAX_INT, MAX_ITEMS, MAX_LETTERS, Value, kind_of, write
from dynamics.train.lab.programs import KINDS, MAX_DEPTH, Program, draw_input, draw_inputs, draw_program

Steps = list[tuple[str, Value]]

#: share of the examples of each form; ``copy`` repeats a value
MIX = {
    "deduction": 0.42,
    "hinted": 0.10,
    "abduction": 0.11,
    "induction": 0.07,
    "judge": 0.10,
    "wrong step": 0.04,
    "hint": 0.03,
    "transfer": 0.07,
    "propose": 0.04,
    "copy": 0.02,
}


@dataclass(frozen=True)
class Rates:
    """How pre-training examples are drawn, and how often they are wrong.

    Attributes
    ----------
    depths : relative frequency of programs of 1, 2, ... operations.
    induction_depths : the same, of the programs of induction.
    scratchpad : share of solutions with steps.
    omitted, wrong, repeated : probability, for each step of a scratchpad, that it is left out, has a wrong value, stands twice.
    carried : probability that what follows a wrong step uses its value; otherwise the true one.
    direct_wrong : share of direct answers that are wrong.
    hint_right : share of hints that are true.
    hint_followed : share of solutions under a wrong hint that use it.
    failed_try : share of solutions with steps, in abduction and induction, that first try an answer that fails.
    step_right : share of true steps to be judged.
    unneeded : share of transfer problems with an assignment that is not needed.
    """

    depths: tuple[float, ...] = (3, 3, 2, 1)
    induction_depths: tuple[float, ...] = (6, 3, 1)
    scratchpad: float = 0.6
    omitted: float = 0.12
    wrong: float = 0.10
    repeated: float = 0.08
    carried: float = 0.6
    direct_wrong: float = 0.05
    hint_right: float = 0.7
    hint_followed: float = 0.5
    failed_try: float = 0.3
    step_right: float = 0.5
    unneeded: float = 0.5


@dataclass
class _Drawn:
    """What has been written of a scratchpad: steps, and the value they end with."""

    steps: list[str] = field(default_factory=list)
    value: Value = None


#: the first examples of a base: copying, and single operations without mistakes, from which the others are composed
PRACTICE = {"copy": 0.4, "deduction": 0.6}
PRACTICE_RATES = Rates(depths=(1,), scratchpad=0.7, omitted=0, wrong=0, repeated=0, direct_wrong=0)


def example(rng: np.random.Generator, rates: Rates = Rates(), mix: Mapping[str, float] = MIX) -> tuple[str, str, str]:
    """Draw an example from the programs of the split ``pretraining``.

    Parameters
    ----------
    rng : random numbers.
    rates : of mistakes.
    mix : share of each form.

    Returns
    -------
    Form, prompt, completion.
    """
    forms = list(mix)
    while True:
        form = forms[_index(rng, list(mix.values()))]
        drawn = _draw(rng, form, rates)
        if drawn is not None:
            return form, *drawn


def _index(rng: np.random.Generator, weights: Sequence[float]) -> int:
    sums = np.cumsum(weights)
    return min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(weights) - 1)


def _draw(rng: np.random.Generator, form: str, rates: Rates) -> tuple[str, str] | None:
    """Draw prompt and completion of a form; None if the drawn program has too few inputs."""
    if form == "copy":
        value = _any_value(rng, KINDS[rng.integers(len(KINDS))])
        return f"<C>{write(value)}<sep>", write(value)
    depth = _index(rng, rates.induction_depths if form == "induction" else rates.depths) + 1
    program = draw_program(rng, depth, split="pretraining", only="int" if form == "transfer" else None)
    inputs = draw_inputs(rng, program, PAIRS if form in ("induction", "propose") else 2 if form == "abduction" else 1)
    return None if inputs is None else _FORMS[form](rng, program, inputs, rates)


def _any_value(rng: np.random.Generator, kind: str) -> Value:
    """Draw a value of any length and size, also with repetitions."""
    if kind == "int":
        return int(rng.integers(MAX_INT + 1))
    if kind == "list":
        return [int(item) for item in rng.integers(0, MAX_INT + 1, rng.integers(1, MAX_ITEMS + 1))]
    letters = LETTERS if rng.random() < 0.7 else LETTERS.upper()
    return "".join(letters[index] for index in rng.integers(0, len(letters), rng.integers(1, MAX_LETTERS + 1)))


def solve(rng: np.random.Generator, program: Program, value: Value, rates: Rates, hint: tuple[int, Value] | None = None) -> str:
    """Write the solution of a deduction problem, with mistakes.

    Parameters
    ----------
    rng : random numbers.
    program, value : the problem, for which the program is defined.
    rates : of mistakes.
    hint : number of a step, and the value it is said to have, which the solution uses.
    """
    if rng.random() < rates.scratchpad:
        drawn = _noisy_steps(rng, program, value, rates, hint)
        return "".join(f"<s>{text}" for text in drawn.steps) + f"<ans>{write(drawn.value)}"
    output = _after(program, *hint) if hint else program(value)
    if output is None or rng.random() < rates.direct_wrong:
        output = wrong_value(rng, program(value))
    return f"<ans>{write(output)}"


def _after(program: Program, number: int, value: Value) -> Value | None:
    """Return the output if step ``number`` gave ``value``."""
    rest = program.stages[number + 1 :]
    return Program(rest)(value) if rest else value


def _noisy_steps(rng: np.random.Generator, program: Program, value: Value, rates: Rates, hint: tuple[int, Value] | None = None) -> _Drawn:
    drawn = _Drawn(value=value)
    for number, (operation, constants) in enumerate(program.stages):
        expression = operation.text(write(drawn.value), constants)
        result = hint[1] if hint and hint[0] == number else operation(drawn.value, constants)
        shown = result
        if result is None:  # undefined after a mistake that was carried on: the model guesses
            result = shown = wrong_value(rng, drawn.value if kind_of(drawn.value) == operation.gives else draw_input(rng, operation.gives))
        elif rng.random() < rates.wrong:
            shown = wrong_value(rng, result)
            result = shown if rng.random() < rates.carried else result
        if rng.random() >= rates.omitted:
            drawn.steps += [f"{expression}={write(shown)}"] * (2 if rng.random() < rates.repeated else 1)
        drawn.value = result
    return drawn


def wrong_value(rng: np.random.Generator, value: Value) -> Value:
    """Draw another value of the same kind that is near."""
    while True:
        other = _near(rng, value)
        if kind_of(other) == kind_of(value) and other != value:
            return other


def _near(rng: np.random.Generator, value: Value) -> Value:
    if isinstance(value, int):
        near = rng.random() < 0.7
        return value + int(rng.choice((-10, -2, -1, 1, 2, 10))) if near else int(rng.integers(min(2 * value + 10, MAX_INT) + 1))
    items = list(value)
    place = int(rng.integers(len(items)))
    change = rng.integers(3)
    if change == 0 and len(items) > 1:
        other = (place + 1) % len(items)
        items[place], items[other] = items[other], items[place]
    elif change == 1 and len(items) > 1:
        del items[place]
    elif isinstance(value, list):
        items[place] = _near(rng, items[place])
    else:
        letter = LETTERS[rng.integers(len(LETTERS))]
        items[place] = letter.upper() if items[place].isupper() else letter
    return items if isinstance(value, list) else "".join(items)


def _deduction(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    return notation.deduction_prompt(program, inputs[0]), solve(rng, program, inputs[0], rates)


def _steps(program: Program, value: Value) -> Steps:
    steps = program.steps(value)
    assert steps is not None  # inputs are drawn so that the program is defined
    return steps


def _hinted(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    steps = _steps(program, inputs[0])
    number = int(rng.integers(len(steps)))
    expression, value = steps[number]
    used = None
    if rng.random() >= rates.hint_right:
        value = wrong_value(rng, value)
        used = (number, value) if rng.random() < rates.hint_followed else None
    hint = step_text((expression, value))
    return notation.deduction_prompt(program, inputs[0], hint), solve(rng, program, inputs[0], rates, used)


def _abduction(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    value, other = inputs
    prompt = notation.abduction_prompt(program, program(value))
    if rng.random() < rates.scratchpad:
        tries = [other] if rng.random() < rates.failed_try and program(other) != program(value) else []
        written = [f"<try>{write(tried)}{scratchpad(_steps(program, tried))}" for tried in [*tries, value]]
        return prompt, "".join(written) + f"<ans>{write(value)}"
    answer = wrong_value(rng, value) if rng.random() < rates.direct_wrong else value
    return prompt, f"<ans>{write(answer)}"


def _induction(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    outputs = [program(value) for value in inputs]
    text = ""
    if rng.random() < rates.scratchpad:
        tried = [program]
        if rng.random() < rates.failed_try:
            other = draw_program(rng, program.depth, program.takes, split="pretraining")
            tried = [other, program] if other(inputs[0]) is not None and other(inputs[0]) != outputs[0] else tried
        text = "".join(f"<try>{candidate}{scratchpad(_steps(candidate, inputs[0]))}" for candidate in tried)
    return notation.induction_prompt(inputs, outputs), f"{text}<ans>{program}"


def _some_steps(rng: np.random.Generator, program: Program, value: Value) -> tuple[Steps, tuple[str, Value]]:
    """Return some first steps, and the next one."""
    steps = _steps(program, value)
    number = int(rng.integers(len(steps)))
    return steps[:number], steps[number]


def _judge(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    before, (expression, value) = _some_steps(rng, program, inputs[0])
    shown = value if rng.random() < rates.step_right else wrong_value(rng, value)
    return notation.judge_prompt(program, inputs[0], [*before, (expression, shown)]), scratchpad([(expression, value)])


def _wrong_step(rng: np.random.Generator, program: Program, inputs: list[Value], _: Rates) -> tuple[str, str]:
    before, (expression, value) = _some_steps(rng, program, inputs[0])
    return notation.wrong_step_prompt(program, inputs[0], before), scratchpad([(expression, wrong_value(rng, value))])


def _hint(rng: np.random.Generator, program: Program, inputs: list[Value], _: Rates) -> tuple[str, str]:
    steps = _steps(program, inputs[0])
    return notation.hint_prompt(program, inputs[0]), f"<hint>{step_text(steps[rng.integers(len(steps))])}"


def _transfer(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str]:
    return draw_transfer_prompt(rng, program, inputs[0], rates.unneeded), solve(rng, program, inputs[0], rates)


def draw_transfer_prompt(rng: np.random.Generator, program: Program, value: Value, unneeded: float) -> str:
    """Tell a program as assignments, with random names, and with an assignment that is not needed with probability ``unneeded``."""
    names = [notation.NAMES[index] for index in rng.permutation(len(notation.NAMES))[: MAX_DEPTH + 2]]
    other = draw_input(rng, "int") if rng.random() < unneeded else None
    return notation.transfer_prompt(program, value, names, other, int(rng.integers(program.depth + 1)))


def _propose(rng: np.random.Generator, program: Program, inputs: list[Value], rates: Rates) -> tuple[str, str] | None:
    form = ("PD", "PA", "PI")[rng.integers(3)]
    if form == "PI":
        return notation.inputs_prompt(program), "<in>".join(write(value) for value in inputs)
    reference = draw_program(rng, _index(rng, rates.depths) + 1, split="pretraining")
    given = draw_inputs(rng, reference, 1)
    if given is None:
        return None
    return notation.proposal_prompt(form, [(reference, given[0])]), f"{program}<in>{write(inputs[0])}"


_FORMS = {
    "deduction": _deduction,
    "hinted": _hinted,
    "abduction": _abduction,
    "induction": _induction,
    "judge": _judge,
    "wrong step": _wrong_step,
    "hint": _hint,
    "transfer": _transfer,
    "propose": _propose,
}

__all__ = ["MIX", "PRACTICE", "PRACTICE_RATES", "Rates", "draw_transfer_prompt", "example", "solve", "wrong_value"]
