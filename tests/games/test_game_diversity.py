"""Diversity against earlier phases, with values computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.games import cumulative, is_new, jaccard, rarefied, similarity_to_earlier, tokens


def test_tokens_are_words_numbers_and_single_signs() -> None:
    assert tokens("Max(x, 12) + x_y") == {"max", "(", "x", ",", "12", ")", "+", "_", "y"}


def test_jaccard_is_common_over_either() -> None:
    found = jaccard([tokens("a b c"), tokens("")], [tokens("b c d"), tokens("e"), tokens("")])
    assert found.tolist() == [[2 / 4, 0, 0], [0, 0, 1]]


def test_similarity_is_to_earlier_phases_only() -> None:
    nearest, mean = similarity_to_earlier(["a b", "c", "a b", "c d"], [0, 0, 1, 2])
    assert np.isnan(nearest[:2]).all()
    assert nearest[2:].tolist() == [1.0, 0.5]
    assert mean[2:].tolist() == [0.5, pytest.approx(0.5 / 3)]


def test_a_pool_limits_the_earlier_texts() -> None:
    texts, phases = [f"word{number}" for number in range(20)] + ["other"], [0] * 10 + [1] * 10 + [2]
    drawn = [similarity_to_earlier([*texts[:-1], "word 3"], phases, 5, seed)[1][-1] for seed in range(8)]
    allowed = {0.0, *(np.round(count / 5, 12) for count in (0.2, 0.4, 0.6, 0.8, 1.0))}
    every = similarity_to_earlier([*texts[:-1], "word 3"], phases)[1][-1]
    assert len(drawn) == 8
    assert all(0 <= value <= 1 for value in drawn)
    assert len(allowed) > 1
    assert every == pytest.approx(np.mean([1 if number == 3 else 1 / 3 for number in range(20)]))


def test_texts_and_phases_must_agree() -> None:
    with pytest.raises(InputError, match="2 texts but 1 phases"):
        similarity_to_earlier(["a", "b"], [0])


def test_new_skeletons_are_in_no_earlier_phase() -> None:
    found = is_new(["s", "t", "s", "u", "u", "t"], [0, 0, 1, 1, 2, 1])
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [0, 1, 0, 0]


def test_cumulative_counts() -> None:
    assert cumulative(["s", "s", "t", "s", "u"]).tolist() == [1, 1, 2, 2, 3]


def test_rarefaction_is_the_mean_over_all_subsets() -> None:
    skeletons = ["s", "s", "s", "t", "u", "u"]
    for size in range(1, 7):
        subsets = list(itertools.combinations(skeletons, size))
        assert rarefied(skeletons, size) == pytest.approx(np.mean([len(set(subset)) for subset in subsets]))
    assert np.isnan(rarefied(skeletons, 7))
