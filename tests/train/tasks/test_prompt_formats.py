"""How proposals are written and read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dynamics.train.sandbox.expressions import Refused
from dynamics.train.tasks.problem import TASK_TYPES, ProposedTask
from dynamics.train.tasks.prompt_formats import SPECIAL_TOKENS, Notation, PlainText, encode_prompts
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


class _Words:
    """A tokenizer of single characters, which counts how often its vocabulary is asked for."""

    def __init__(self, tokens: Sequence[str], chat_template: str | None = None):
        self.tokens, self.chat_template, self.asked = tokens, chat_template, 0

    def get_vocab(self) -> dict[str, int]:
        self.asked += 1
        return {token: number for number, token in enumerate(self.tokens)}

    def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        return f"[{chat[0]['role']}]{chat[0]['content']}"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(character) for character in text]}


@pytest.mark.parametrize(
    ("tokenizer", "first", "asked"),
    [
        (_Words(SPECIAL_TOKENS), [97, 98], 1),
        (_Words(["<pad>", "a"]), [0, 97, 98], 1),
        (_Words(SPECIAL_TOKENS, "a template"), [ord(character) for character in "[user]ab"], 0),
    ],
)
def test_prompts_are_encoded_for_their_tokenizer(tokenizer: _Words, first: list[int], asked: int) -> None:
    """Special tokens are added unless the prompt has its own; the vocabulary, which is made anew at each call, is asked for once."""
    encoded = encode_prompts(tokenizer, ["ab", "", "c"])
    assert encoded[0].tolist() == first
    assert [len(ids) for ids in encoded] == [len(first), len(first) - 2, len(first) - 1]
    assert all(ids.dtype == np.int64 for ids in encoded)
    assert tokenizer.asked == asked
    assert encode_prompts(tokenizer, []) == []
