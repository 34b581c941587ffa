"""Problems made of programs: verdicts, splits."""

from __future__ import annotations

from collections import Counter

import pytest

from dynamics.train.sandbox.expressions import Expressions
from dynamics.train.tasks import TASK_TYPES, Problem, programs
from dynamics.train.tasks.triplets import Triplets, verify

BOX = Expressions()


def problem(kind: str) -> Problem:
    inputs = ((3,),) if kind != "induction" else ((1,), (2,), (3,), (4,), (5,))
    return Problem(kind, "x%3", inputs, tuple(arguments[0] % 3 for arguments in inputs), "p")


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
    verdict = verify(problem(kind), answer, BOX)
    assert verdict.correct is right
    assert verdict.score == right
    assert bool(verdict.reason) is not right


def test_induction_needs_the_pairs_that_were_not_shown() -> None:
    listing = "[1,2,0,0,0][x-1]"  # right on the two that are shown
    assert not verify(problem("induction"), listing, BOX).correct


@pytest.mark.parametrize("plain", [False, True])
def test_answers_of_the_questions_are_right(plain: bool) -> None:
    source = Triplets(plain=plain)
    for split in ("training", "validation", "test"):
        for question in source.questions(split, 60, 1):
            assert question.verify(str(question.answer)).correct, question


def test_splits_share_no_program() -> None:
    source = Triplets(["deduction"])
    programs_of = {
        split: {q.prompt[3 : q.prompt.index("<in>")] for q in source.questions(split, 150, 0)}
        for split in ("training", "validation", "pretraining")
    }
    test = source.questions("test", 150, 0)
    for part in ("seen", "unseen", "ood"):
        programs_of[part] = {q.prompt[3 : q.prompt.index("<in>")] for q in test if q.split == part}
        assert len([q for q in test if q.split == part]) == 50
    seen = programs_of.pop("seen")
    names = list(programs_of)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not programs_of[name] & programs_of[other] or {name, other} == {"unseen", "ood"}
    assert {programs.split_of(program) for program in seen} == {"pretraining"}


def test_no_program_counts_as_seen_for_a_model_that_was_not_pretrained_on_them() -> None:
    test = Triplets(plain=True).questions("test", 60, 0)
    counts = Counter((question.split, question.task) for question in test)
    assert counts == {(split, kind): 10 for split in ("unseen", "ood") for kind in TASK_TYPES}


def test_questions_are_the_first_of_one_stream() -> None:
    source = Triplets()
    few, many = source.questions("training", 20, 3), source.questions("training", 50, 3)
    assert [q.id for q in few] == [q.id for q in many[:20]]
    assert len({q.id for q in many}) == 50
    assert [q.id for q in few] != [q.id for q in source.questions("training", 20, 4)]
