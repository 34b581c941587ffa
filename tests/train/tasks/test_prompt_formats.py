"""How proposals are written and read."""

from __future__ import annotations

import pytest

from dynamics.train.sandbox.expressions import Refused
from dynamics.train.tasks.problem import TASK_TYPES, ProposedTask
from dynamics.train.tasks.prompt_formats import Notation, PlainText
from dynamics.train.tasks.proposals import Proposals

NOTATION, PLAIN_TEXT = Notation(), PlainText()


@pytest.mark.parametrize("kind", TASK_TYPES)
@pytest.mark.parametrize("prompt_format", [NOTATION, PLAIN_TEXT])
def test_what_is_written_is_read(prompt_format, kind: str) -> None:
    program = "x+1" if prompt_format is NOTATION else "def f(x):\n    return x+1"
    inputs = tuple((number,) for number in range(5)) if kind == "induction" else ((3,),)
    proposed = ProposedTask(program, inputs)
    assert prompt_format.parse_proposal(kind, prompt_format.format_proposal(kind, proposed), program) == proposed


def test_plain_text_refuses() -> None:
    for text in ("", "<program>def f(x): return x</program>", "<program>def f(x): return x\ndef g(x): return x</program><input>1</input>"):
        with pytest.raises(Refused):
            PLAIN_TEXT.parse_proposal("deduction", text, None)


def test_the_warm_start_teaches_the_form() -> None:
    for plain in (True, False):
        for question in Proposals(plain).questions("training", 9, 0):
            assert question.verify(question.answer or "").correct
            assert not question.verify("nothing").correct
