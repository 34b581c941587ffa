"""Kinds of tokens in completions, and entropy by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from dynamics.entropy.kinds import KINDS
from dynamics.train import tiny
from dynamics.train.lab import tokenizer as laboratory
from dynamics.train.token_kinds import TokenKinds, entropy_by_kind

LAB = laboratory.build_tokenizer()
OF_LAB = TokenKinds(LAB, [LAB.eos_token_id], laboratory.SCHEME)


def encoded(text: str) -> np.ndarray:
    return np.array(LAB(text, add_special_tokens=False)["input_ids"])


def test_every_token_of_the_laboratory_has_a_kind() -> None:
    assert set(laboratory.SCHEME.kinds) == set(laboratory.TOKENS)


def test_kinds_in_a_scratchpad_depend_on_what_is_before() -> None:
    texts = ["<s>7+3=10<s>max(10,12)=12<ans>12<eos>", "x+3<in>7<eos>", "<ans>12<eos>", ""]
    completions = [encoded(text) for text in texts]
    names, index = OF_LAB.of(completions)
    told = [(LAB.convert_ids_to_tokens(int(token)), names[kind]) for token, kind in zip(np.concatenate(completions), index, strict=True)]
    assert told[:6] == [
        ("<s>", "step_mark"),
        ("7", "number"),
        ("+", "operator"),
        ("3", "number"),
        ("=", "sign"),
        ("10", "result"),
    ]
    assert told[6:12] == [
        ("<s>", "step_mark"),
        ("max(", "operator"),
        ("10", "number"),
        ("12", "number"),
        (")", "sign"),
        ("=", "sign"),
    ]
    assert told[12:16] == [("12", "result"), ("<ans>", "answer_mark"), ("12", "answer"), ("<eos>", "end")]
    assert told[16:] == [
        ("x", "variable"),  # a mark in the completion before says nothing of this one
        ("+", "operator"),
        ("3", "number"),
        ("<in>", "special"),
        ("7", "number"),
        ("<eos>", "end"),
        ("<ans>", "answer_mark"),
        ("12", "answer"),
        ("<eos>", "end"),
    ]


def test_length_of_a_scratchpad() -> None:
    for text, length in {"<s>7+3=10<ans>10<eos>": 6, "<ans>10<eos>": 0, "<s>7+3<eos>": 4, "<s>7<s>": 3, "": 0}.items():
        assert OF_LAB.scratchpad_length(encoded(text)) == length


def test_other_tokenizers_have_kinds_by_text() -> None:
    tokenizer = tiny.build_tokenizer()
    kinds = TokenKinds(tokenizer, [tokenizer.eos_token_id])
    assert kinds.answer_mark is None
    ids = np.array(tokenizer("7+(x<eos>", add_special_tokens=False)["input_ids"])
    names, index = kinds.of([ids])
    assert [names[kind] for kind in index] == ["number", "operator", "code", "word", "end"]
    assert set(names) <= {*KINDS, "end"}


@given(st.lists(st.lists(st.integers(0, len(laboratory.TOKENS) - 1), max_size=30), max_size=6), st.integers(0, 10**6))
def test_every_token_counts_once(completions: list[list[int]], seed: int) -> None:
    """Means weighted with shares give the mean over all tokens, whatever was written."""
    arrays = [np.array(ids, np.int64) for ids in completions]
    values = np.random.default_rng(seed).random(sum(map(len, completions)))
    metrics = entropy_by_kind(values, arrays, OF_LAB, "solver")
    if not len(values):
        assert metrics == {}
        return
    kinds = {name.partition("=")[2]: value for name, value in metrics.items() if "/tokens/kind=" in name}
    assert sum(kinds.values()) == pytest.approx(1)
    assert sum(share * metrics[f"solver/entropy/kind={kind}"] for kind, share in kinds.items()) == pytest.approx(values.mean())
    firsts = np.cumsum([0, *map(len, completions)])[:-1][[len(ids) > 0 for ids in completions]]
    assert metrics["solver/entropy/part=first"] == pytest.approx(values[firsts].mean())


def test_parts_are_tenths_of_each_completion() -> None:
    values = np.concatenate([np.arange(20.0), np.arange(3.0)])
    metrics = entropy_by_kind(values, [np.full(20, 30), np.full(3, 30)], OF_LAB, "solver")
    parts = {name.partition("part=")[2]: value for name, value in metrics.items() if "part=" in name}
    assert parts == {
        "first": 0.0,
        "1": (0 + 1 + 0) / 3,
        "2": 2.5,
        "3": 4.5,
        "4": (6 + 7 + 1) / 3,
        "5": 8.5,
        "6": 10.5,
        "7": (12 + 13 + 2) / 3,
        "8": 14.5,
        "9": 16.5,
        "10": 18.5,
    }
