"""Means over tokens against direct computation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dynamics.report.token_means import by_kind, forking_table, means, with_kinds


@pytest.fixture
def tokens(rng: np.random.Generator) -> pd.DataFrame:
    """A trace of two models over 12 texts of 20 tokens, of which the first has no prediction."""
    words = ["<s>", " 12", " +", " because", " the", "("]
    position = np.tile(np.arange(20), 12)
    entropy, entropy_b = rng.exponential(1.0, 240), rng.exponential(0.5, 240)
    entropy[position == 0] = entropy_b[position == 0] = math.nan
    table = {"text": np.repeat([f"t{i}" for i in range(12)], 20), "position": position, "token": [words[i % 6] for i in range(240)]}
    table |= {"prompt": position < 5, "entropy": entropy, "entropy_b": entropy_b, "surprisal": entropy + 0.1, "surprisal_b": entropy_b}
    return pd.DataFrame(table | {"kl_ab": np.abs(entropy - entropy_b), "kl_ba": np.abs(entropy - entropy_b) / 2})


def test_tokens_without_prediction_are_left_out(tokens: pd.DataFrame) -> None:
    known = with_kinds(tokens)
    assert len(known) == 228
    assert set(known["kind"]) == {"special", "number", "operator", "connective", "word", "code"}


def test_means_by_kind_with_intervals_over_texts(tokens: pd.DataFrame) -> None:
    known = with_kinds(tokens)
    table = by_kind(known).set_index("kind")
    assert list(table.index) == ["special", "number", "operator", "connective", "code", "word"]  # the order of the definition
    assert table["share"].sum() == pytest.approx(1)
    rows = known[known["kind"] == "number"]
    number = table.loc["number"]
    assert number["entropy"] == pytest.approx(rows["entropy"].mean())
    assert number["change"] == pytest.approx((rows["entropy_b"] - rows["entropy"]).mean())
    assert number["kl_ba"] == pytest.approx(rows["kl_ba"].mean())
    assert (table["change_low"] <= table["change"]).all()
    assert (table["change"] <= table["change_high"]).all()


def test_a_single_text_has_no_interval(tokens: pd.DataFrame) -> None:
    one = with_kinds(tokens[tokens["text"] == "t0"])
    assert means(one.assign(part="all"), "part")["change_low"].isna().all()


def test_forking_tokens_are_the_top_fifth(tokens: pd.DataFrame) -> None:
    known = with_kinds(tokens)
    table = forking_table(known)
    assert table["tokens"].tolist() == [46, 182]
    top, other = (set(known[name].nlargest(46).index) for name in ("entropy", "entropy_b"))
    assert table["shared"].iloc[0] == pytest.approx(len(top & other) / 46)
    assert table["entropy"].iloc[0] == pytest.approx(known.loc[list(top), "entropy"].mean())
