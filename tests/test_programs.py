"""Programs, the interpreter that runs them, and the problems made of them."""

from __future__ import annotations

import contextlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics import InputError
from dynamics.train import order, programs, tasks
from dynamics.train.expressions import Expressions, Refused, literal, same
from dynamics.train.streams import stream

BOX = Expressions()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_interpreter_agrees_with_python(depth: int) -> None:
    rng = np.random.default_rng(depth)
    for _ in range(1500):
        family, program = programs.draw(rng, depth)
        value = family.inputs(rng, depth == 3)
        outcome = BOX.run(program, [(value,)])
        try:
            expected, failed = eval(program, {"x": value}), None
        except Exception as error:
            expected, failed = None, type(error).__name__
        if failed:
            assert outcome.error == failed, program
            continue
        assert outcome.values is not None, (program, value, outcome)
        assert same(outcome.values[0], expected), (program, value, outcome)


def test_a_function_is_an_expression_with_names() -> None:
    assert BOX.run("def f(a, b):\n    return a + b * 2", [(1, 2), (3, 4)]).values == [5, 11]
    assert BOX.run("x+1", [(1,)]).values == [2]
    assert BOX.run("def g(x): return x", [(1,)]).values is None


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__.__mro__",
        "x.__class__",
        "open('a')",
        "lambda: 1",
        "[y for y in x for z in x]",
        "9**9**9",
        "'a'*10**9",
        "x" * 2000,
        "(" * 500,
        "exec('1')",
        "x:=1",
        "'%s' % x",
        "x if x else x",
        "41) or (True",
        "-" * 900 + "1",
        "def f(x=[]):\n return x",
        "\ud800",
    ],
)
def test_what_is_not_in_the_language_has_no_value(text: str) -> None:
    outcome = BOX.run(text, [(3,)])
    assert outcome.values is None
    assert outcome.error


def test_growth_is_stopped() -> None:
    assert BOX.run("[[x]*99]*99", [(1,)]).error == "lists of lists are not in the language"
    assert BOX.run("[sum([z for z in x]) for y in x]", [([1] * 150,)]).error == "timeout"
    assert BOX.run("x", [((1, 2),)]).error == "tuple is not in the language"
    assert BOX.run("x.replace('a',x).replace('a',x)", [("a" * 150,)]).error == "memory"
    assert BOX.run("x*999999*999999", [(9,)]).error == "memory"


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_gets_through(text: str) -> None:
    BOX.run(text, [(3,)])
    with contextlib.suppress(Refused):
        literal(text)


def test_equality_is_of_types_too() -> None:
    assert same([1, "a"], [1, "a"])
    assert not same(1, True)
    assert not same(1, 1.0)
    assert not same([1], (1,))
    assert not same([1, 2], [1])


def problem(kind: str) -> tasks.Problem:
    inputs = ((3,),) if kind != "induction" else ((1,), (2,), (3,), (4,), (5,))
    return tasks.Problem(kind, "x%3", inputs, tuple(one[0] % 3 for one in inputs), "p")


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("deduction", "0", True),
        ("deduction", " 0\n", True),
        ("deduction", "False", False),
        ("deduction", "0.0", False),
        ("deduction", "3%3", False),
        ("deduction", "", False),
        ("abduction", "3", True),
        ("abduction", "9", True),
        ("abduction", "4", False),
        ("abduction", "41) or (True", False),
        ("abduction", "'a'", False),
        ("induction", "x%3", True),
        ("induction", "x-x//3*3", True),
        ("induction", "x", False),
        ("induction", "[1,2,0,1,2][x-1]", True),
        ("induction", "", False),
    ],
)
def test_verdicts(kind: str, answer: str, right: bool) -> None:
    verdict = tasks.verify(problem(kind), answer, BOX)
    assert verdict.correct is right
    assert verdict.score == right
    assert bool(verdict.reason) is not right


def test_induction_needs_the_pairs_that_were_not_shown() -> None:
    listing = "[1,2,0,0,0][x-1]"  # right on the two that are shown
    assert not tasks.verify(problem("induction"), listing, BOX).correct


@pytest.mark.parametrize("plain", [False, True])
def test_answers_of_the_questions_are_right(plain: bool) -> None:
    source = tasks.Triplets(plain=plain)
    for split in ("training", "validation", "test"):
        for question in source.questions(split, 60, 1):
            assert question.verify(str(question.answer)).correct, question


def test_splits_share_no_program() -> None:
    source = tasks.Triplets(["deduction"])
    found = {
        split: {q.prompt[3 : q.prompt.index("<in>")] for q in source.questions(split, 150, 0)}
        for split in ("training", "validation", "pretraining")
    }
    test = source.questions("test", 150, 0)
    for part in ("seen", "unseen", "ood"):
        found[part] = {q.prompt[3 : q.prompt.index("<in>")] for q in test if q.split == part}
        assert len([q for q in test if q.split == part]) == 50
    seen = found.pop("seen")
    names = list(found)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            assert not found[one] & found[other] or {one, other} == {"unseen", "ood"}
    assert {programs.split_of(program) for program in seen} == {"pretraining"}


def test_no_program_counts_as_seen_for_a_model_that_was_not_pretrained_on_them() -> None:
    test = tasks.Triplets(plain=True).questions("test", 60, 0)
    counts = Counter((one.split, one.task) for one in test)
    assert counts == {(split, kind): 10 for split in ("unseen", "ood") for kind in tasks.KINDS}


def test_a_mixture_takes_turns(tmp_path) -> None:
    file = tmp_path / "a+b.jsonl"  # a file's name is taken as it is
    file.write_text("".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(20)))
    few = tasks.source(str(file))
    assert few.name == "a+b.jsonl"
    mixed = tasks.source("proposals+deduction")
    alone = [tasks.source(name).questions("training", 3, 0) for name in ("proposals", "deduction")]
    assert [one.id for one in mixed.questions("training", 5, 0)] == [one.id for pair in zip(*alone, strict=True) for one in pair][:5]
    twice = tasks.source("code+deduction+deduction").questions("test", 12, 0)
    assert len({one.id for one in twice}) == len(twice)
    assert len({one.prompt for one in twice if one.task == "deduction"}) > 4  # of streams of their own
    short = tasks.Mixture([few, tasks.source("code")]).questions("test", 10, 0)  # the file has two rows for a test
    assert [one.task for one in short].count("data") == 2
    assert len(short) == 7
    with pytest.raises(InputError, match="unknown; there are code"):
        tasks.source("code+nothing_like_it")


def test_questions_are_the_first_of_one_stream() -> None:
    source = tasks.Triplets()
    few, many = source.questions("training", 20, 3), source.questions("training", 50, 3)
    assert [q.id for q in few] == [q.id for q in many[:20]]
    assert len({q.id for q in many}) == 50
    assert [q.id for q in few] != [q.id for q in source.questions("training", 20, 4)]


def test_every_problem_comes_before_any_comes_again() -> None:
    seen = [place for step in range(1, 8) for place in order.chosen(0, step, 3, 7)]
    for start in range(0, 21, 7):
        assert sorted(seen[start : start + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_streams_depend_on_their_place_alone() -> None:
    assert stream(0, "a", 1, 2).random() == stream(0, "a", 1, 2).random()
    values = {stream(seed, name, place).random() for seed in (0, 1) for name in ("a", "b") for place in (0, 1)}
    assert len(values) == 8


def test_unknown_tasks_and_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"unknown; there are code, deduction"):
        tasks.source("nothing_like_it")
    with pytest.raises(InputError, match="no such file"):
        tasks.source(str(tmp_path / "a.jsonl"))
    file = tmp_path / "b.jsonl"
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"row 1: has neither completion nor answer; it has prompt"):
        tasks.source(str(file))
    file.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match="no text field prompt; it has question, answer"):
        tasks.source(str(file))
    file.write_text("{\n")
    with pytest.raises(InputError, match="line 1: is not JSON"):
        tasks.source(str(file))


def test_a_task_of_reasoning_gym_is_judged_by_its_own_scorer() -> None:
    pytest.importorskip("reasoning_gym")
    source = tasks.source("chain_sum")
    for question in source.questions("training", 5, 0):
        assert question.verify(str(question.answer)).score == 1
        assert question.verify("<answer>nonsense</answer>").score < 1
        assert question.verify(str(question.answer)[8:-9]).score == 1  # without tags
    easy = tasks.source("chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1").questions("training", 20, 0)
    assert all(abs(int(str(one.answer)[8:-9])) < 20 for one in easy)
    with pytest.raises(InputError, match="settings are not understood"):
        tasks.source("chain_sum:no_such_thing=2")
    assert source.questions("training", 3, 0)[0].prompt != source.questions("test", 3, 0)[0].prompt


def test_free_form_mathematics(tmp_path) -> None:
    pytest.importorskip("math_verify")
    file = tmp_path / "m.jsonl"
    file.write_text("".join(f'{{"prompt": "half of {n}?", "answer": "{n}/2"}}\n' for n in range(20)))
    questions = tasks.source(str(file)).questions("training", 100, 0)
    assert len(questions) == 16
    assert questions[5].verify("<answer>2.5</answer>").correct
    assert not questions[5].verify("<answer>3</answer>").correct
