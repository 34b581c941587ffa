"""Kinds of tokens by their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.entropy.kinds import KINDS, kind_of_token


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("special", ["<|im_end|>", "<s>", "</s>", "<|endoftext|>", "<think>", "[PAD]"]),
        ("whitespace", ["", " ", "\n\n", "\t", "\r\n", "\u00a0"]),
        ("number", ["1", " 42", "3.14", "1,000", "50%", "2e-5", ".5", "-7", "%"]),
        ("operator", ["+", " =", "==", "<=", "\\frac", "\\cdot", "×", " →", "**", "&&", "√", "//"]),
        ("connective", [" because", "So", " Wait", "But", " therefore", "however,", " if", "Then", "Alternatively"]),
        (
            "code",
            ["def", " return", "import", "(", "])", "```", "();", "my_name", "_", "camelCase", "\\begin", "None", "self", "#", "print("],
        ),
        ("punctuation", [",", ".", "?", ' "', "...", "—", "’"]),
        ("word", [" the", "Paris", "été", "数学", "don", "n't", "token123", "Iffy"]),
        ("other", ["\ufffd", "\U0001f600", "\x00", "\u2665\ufe0f\u200d"]),
    ],
)
def test_examples(kind: str, tokens: list[str]) -> None:
    assert {token: kind_of_token(token) for token in tokens} == dict.fromkeys(tokens, kind)


@given(st.text(max_size=12))
def test_every_text_has_a_kind_and_spaces_around_do_not_change_it(text: str) -> None:
    kind = kind_of_token(text)
    assert kind in KINDS
    assert kind_of_token(f" {text} ") == kind


def test_a_long_text_takes_no_time() -> None:
    for text in ("(" * 50_000 + "x", "_a" * 50_000 + "!", "<|" * 50_000, "1." * 50_000 + "x", "\\a" * 50_000):
        assert kind_of_token(text) in KINDS
