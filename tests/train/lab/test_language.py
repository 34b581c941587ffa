"""The laboratory's language: programs against plain Python, splits, what completions say, and the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.train.lab import examples, notation
from dynamics.train.lab.notation import Step, check_completion, check_steps, read_completion, read_verdict
from dynamics.train.lab.operations import OPERATIONS, evaluate, kind_of, read, write
from dynamics.train.lab.programs import (
    KINDS,
    SPLITS,
    Program,
    draw_input,
    draw_inputs,
    draw_program,
    is_proper,
    normal_form,
    read_program,
    split_of,
)

seeds = st.integers(0, 2**32 - 1)


def python(expression: str, x: object = None) -> object:
    """What Python makes of an expression, None for an exception and for a value outside of the language."""
    try:
        value = eval(expression, {"x": x})
    except (ZeroDivisionError, IndexError, ValueError):
        return None
    return value if kind_of(value) else None


@given(seeds, st.integers(1, 4))
def test_programs_and_their_steps_are_those_of_python(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    program = draw_program(rng, depth)
    value = draw_input(rng, program.takes)
    by_stage = value
    for stage in str(program).split(";"):
        by_stage = None if by_stage is None else python(stage, by_stage)
    assert program(value) == by_stage
    assert by_stage is None or python(program.expression(), value) == by_stage
    steps = program.steps(value)
    assert (steps is None) == (by_stage is None)
    for expression, result in steps or ():
        assert python(expression) == result
        assert Step(notation.step_text((expression, result))).is_true
    assert steps is None or steps[-1][1] == by_stage


@settings(max_examples=25)
@given(seeds)
def test_every_operation_is_that_of_python_on_any_value(seed: int) -> None:
    """Also where it is undefined, and for constants that are never drawn."""
    rng = np.random.default_rng(seed)
    for operation in OPERATIONS:
        constants = tuple(int(rng.integers(100)) if part == "#" else "abc"[rng.integers(3)] for part in operation.template if part in "#$")
        operand = {
            "int": int(rng.integers(100)),
            "list": [int(item) for item in rng.integers(0, 100, rng.integers(1, 7))],
            "str": "".join("abcABC"[index] for index in rng.integers(0, 6, rng.integers(1, 9))),
        }[operation.takes]
        expression = operation.text(write(operand), constants)
        expected = python(expression)
        assert operation(operand, constants) == expected
        assert evaluate(expression) == expected
        assert read_program(operation.text("x", constants), operation.takes) == Program(((operation, constants),))


@given(seeds, st.integers(1, 4))
def test_a_program_is_read_as_it_was_written(seed: int, depth: int) -> None:
    program = draw_program(np.random.default_rng(seed), depth)
    assert read_program(str(program), program.takes) == program
    assert str(read_program(str(program))) == str(program)
    assert program.depth == depth


HOSTILE = [
    "",
    "x",
    ";",
    "x+3;",
    "x+",
    "x+03",
    "x+100",
    "x+-3",
    "__import__('os')",
    "x[0];x[0]",
    "x+3\n",
    "x+3;" * 9,
    "x" * 10**6,
    "max(x,٣)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_other_texts_are_no_programs(text: str) -> None:
    assert read_program(text) is None
    assert evaluate(text) is None


@pytest.mark.parametrize(
    "text", ["", "100", "01", "-1", "[]", "[1, 2]", "[1,2,3,4,5,6,7]", "''", "'abcdefghi'", "'m'", "a", "True", "1\n", "1.0"]
)
def test_other_texts_are_no_values(text: str) -> None:
    assert read(text) is None


@given(
    st.one_of(st.integers(0, 99), st.lists(st.integers(0, 99), min_size=1, max_size=6), st.text("abcdefghijklABCL", min_size=1, max_size=8))
)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert read(write(value)) == value
    assert eval(write(value)) == value


def test_a_program_in_other_words_is_the_same_program() -> None:
    for a, b in [("x+1;x+2", "x+3"), ("sorted(x);len(x)", "len(x)"), ("x[::-1];x[0]", "x[-1]"), ("x[1:];x[:-1]", "x[:-1];x[1:]")]:
        first, second = read_program(a, None), read_program(b, None)
        assert normal_form(first) == normal_form(second)
        assert split_of(first) == split_of(second)
    assert normal_form(read_program("x[1:]", "list")) != normal_form(read_program("x[1:]", "str"))


@pytest.mark.parametrize(
    "text", ["x+3;x-3", "x[::-1];x[::-1]", "sorted(x);sum(x)", "x%2;max(x,5)", "x-12;12-x", "sorted(x);sorted(x)", "x-1;x+1"]
)
def test_programs_with_useless_operations_are_not_drawn(text: str) -> None:
    assert not is_proper(read_program(text))


def test_splits_have_their_shares() -> None:
    rng = np.random.default_rng(0)
    programs = {normal_form(program): program for program in (draw_program(rng, 2 + index % 3) for index in range(600))}
    counts = {name: sum(split_of(program) == name for program in programs.values()) / len(programs) for name in SPLITS}
    assert sum(counts.values()) == 1
    for name, share in SPLITS.items():
        assert abs(counts[name] - share) < 0.07
    assert split_of(draw_program(rng, 2, split="test")) == "test"


def test_completions() -> None:
    program = read_program("x+3;max(x,12)")
    read_back = read_completion("<s>7+3=10<s>7+3=10<s>10+1=11<s>max(10,12)=10<s>nonsense<ans>12")
    assert read_back.answer == "12"
    assert [step.is_true for step in read_back.steps] == [True, True, True, False, False]
    checks = check_steps(program, 7, read_back.steps)
    assert (checks.written, checks.true, checks.on_path, checks.repeated, checks.needed, checks.covered) == (5, 3, 2, 1, 2, 1)
    for text in ("", "12", "<ans>1<ans>2", "<ans>12<s>7+3=10", "<s>" * 1000 + "<ans>1"):
        assert read_completion(text).answer is None
    assert read_completion("<ans>").answer == ""


@settings(max_examples=40)
@given(st.text(max_size=30) | st.lists(st.sampled_from(["<s>", "<ans>", "<try>", "=", "7", "[", "'a", "+"]), max_size=30).map("".join))
def test_any_text_is_read(text: str) -> None:
    for step in read_completion(text).steps:
        assert step.is_true in (True, False)


@given(seeds)
def test_wrong_values_are_others_of_the_same_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        value = draw_input(rng, kind)
        other = examples.wrong_value(rng, value)
        assert other != value
        assert kind_of(other) == kind


NO_MISTAKES = examples.Rates(omitted=0, wrong=0, repeated=0, direct_wrong=0, hint_right=1)


@settings(max_examples=40)
@given(seeds, st.booleans())
def test_solutions_without_mistakes_are_right(seed: int, steps: bool) -> None:
    rng = np.random.default_rng(seed)
    program = draw_program(rng, 1 + seed % 4)
    drawn = draw_inputs(rng, program, 1)
    if drawn is None:
        return
    rates = examples.Rates(omitted=0, wrong=0, repeated=0, direct_wrong=0, scratchpad=float(steps))
    completion = read_completion(examples.solve(rng, program, drawn[0], rates))
    assert read(completion.answer) == program(drawn[0])
    checks = check_steps(program, drawn[0], completion.steps)
    assert checks.written == checks.on_path == checks.true == (program.depth if steps else 0)


@settings(max_examples=10)
@given(seeds)
def test_mistakes_have_their_rates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = read_program("x+3;x*2;x-4")
    rates = examples.Rates(scratchpad=1, omitted=0.3, wrong=0.2, repeated=0.25, carried=0)
    found = [check_steps(program, 7, read_completion(examples.solve(rng, program, 7, rates)).steps) for _ in range(400)]
    different = sum(checks.written - checks.repeated for checks in found)
    assert abs(different / 1200 - 0.7) < 0.08
    assert abs(sum(checks.repeated for checks in found) / different - 0.25) < 0.09
    assert abs(sum(checks.covered for checks in found) / different - 0.8) < 0.08


def test_a_mistake_that_is_carried_on_changes_the_answer() -> None:
    rng = np.random.default_rng(0)
    program = read_program("x+3;x*2")
    for carried in (0.0, 1.0):
        rates = examples.Rates(scratchpad=1, omitted=0, wrong=1, repeated=0, carried=carried)
        completions = [read_completion(examples.solve(rng, program, 7, rates)) for _ in range(50)]
        right = sum(completion.answer == "20" for completion in completions)
        assert right == 50 if carried == 0 else right < 10  # two mistakes may cancel
        assert not any(step.is_true for completion in completions for step in completion.steps)


def test_a_wrong_hint_that_is_followed_misleads() -> None:
    program = read_program("x+3;x*2")
    rng = np.random.default_rng(1)
    rates = examples.Rates(scratchpad=1, omitted=0, wrong=0, repeated=0)
    assert examples.solve(rng, program, 7, rates, (0, 11)) == "<s>7+3=11<s>11*2=22<ans>22"
    assert examples.solve(rng, program, 7, examples.Rates(scratchpad=0, direct_wrong=0), (0, 11)) == "<ans>22"


@pytest.mark.parametrize("form", examples.MIX)
def test_examples_of_each_form(form: str) -> None:
    """Their programs are of the split, and each text survives the tokenizer without an unknown token."""
    pytest.importorskip("transformers")
    from dynamics.train.lab.tokenizer import TOKENS, build_tokenizer

    assert len(set(TOKENS)) == len(TOKENS)
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(5)
    for _ in range(25):
        name, prompt, completion = examples.example(rng, NO_MISTAKES, {form: 1.0})
        assert name == form
        assert prompt.endswith("<sep>")
        ids = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == prompt + completion
        text = prompt.replace("<ref>", "").split(">", 1)[1].split("<in>")[0].split("<out>")[0].removesuffix("<sep>")
        if form not in ("copy", "induction", "transfer"):
            given_value = read(prompt.split("<in>")[1].split("<")[0]) if "<in>" in prompt else None
            kinds = [kind_of(given_value)] if given_value is not None else KINDS
            programs = [program for kind in kinds if (program := read_program(text, kind))]
            assert "pretraining" in {split_of(program) for program in programs}


def test_judgements_and_wrong_steps() -> None:
    rng = np.random.default_rng(2)
    said = []
    for _ in range(60):
        program = draw_program(rng, 2)
        drawn = draw_inputs(rng, program, 1)
        prompt, completion = examples._judge(rng, program, drawn, examples.Rates())
        last = Step(prompt.removesuffix("<sep>").split("<s>")[-1])
        said.append(read_verdict(last.text, completion))
        assert last.is_true is said[-1]
        prompt, completion = examples._wrong_step(rng, program, drawn, examples.Rates())
        (step,) = read_completion(completion).steps
        assert step.value is not None
        assert not step.is_true
        prompt, completion = examples._hint(rng, program, drawn, examples.Rates())
        assert Step(completion.removeprefix("<hint>")).is_true
    assert 15 < sum(said) < 45


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<s>7+3=10", True),
        ("<s>7+3=10<s>7+3=11", True),
        ("<s>7+3=11", False),
        ("<s>7+4=10", False),
        ("<s>7+3=10x", None),
        ("<s>7+3", None),
        ("<ans>10", None),
        ("", None),
        ("7+3=10", None),
        ("<s>" * 5000, None),
    ],
)
def test_a_verdict_is_whether_the_judge_writes_the_step_again(text: str, verdict: bool | None) -> None:
    assert read_verdict("7+3=10", text) is verdict


def test_transfer_tells_the_same_program() -> None:
    program = read_program("x+3;max(x,12)")
    assert notation.transfer_prompt(program, 7, "acbd", None) == "<T>a=7;c=a+3;b=max(c,12);b?<sep>"
    assert notation.transfer_prompt(program, 7, "acbd", 20, 1) == "<T>a=7;d=20;c=a+3;b=max(c,12);b?<sep>"


@pytest.mark.parametrize(
    ("form", "text", "counts"),
    [
        ("deduction", "<s>7+3=10<s>max(10,12)=12<ans>12", (2, 2, 2, 0, 2, 2)),
        ("deduction", "<s>7+3=11<s>max(11,12)=12<s>max(11,12)=12<ans>12", (3, 2, 0, 1, 2, 0)),
        ("transfer", "<s>max(10,12)=12<ans>12", (1, 1, 1, 0, 2, 1)),
        ("deduction", "<ans>12", (0, 0, 0, 0, 2, 0)),
        ("abduction", "<try>20<s>20+3=23<s>max(23,12)=23<try>7<s>7+3=10<s>max(10,12)=12<ans>7", (4, 4, 4, 0, 2, 2)),
        ("abduction", "<try>20<s>20+3=23<try>7<s>20+3=23<ans>7", (2, 2, 1, 0, 2, 0)),  # the second attempt repeats a step of the first
        ("abduction", "<s>7+3=10<try>99<s>99+3=10<ans>7", (2, 1, 0, 0, 2, 0)),  # before any attempt; 99+3 is undefined
        ("induction", "<try>x+1<s>7+1=8<try>x+3;max(x,12)<s>7+3=10<ans>x+3;max(x,12)", (2, 2, 2, 0, 2, 1)),
        ("induction", "<try>x+<s>7+1=8<ans>x+1", (1, 1, 0, 0, 2, 0)),
        ("induction", "<try><try><ans><ans>", (0, 0, 0, 0, 2, 0)),
    ],
)
def test_checks_of_steps_follow_what_is_tried(form: str, text: str, counts: tuple[int, ...]) -> None:
    program = read_program("x+3;max(x,12)")
    assert program is not None
    assert tuple(vars(check_completion(form, program, 7, text)).values()) == counts
