"""Claims, agreement and the gap, with values computed by hand."""

from __future__ import annotations

import math

import pytest

from dynamics.errors import InputError
from dynamics.games import agreement, beliefs, claim_accuracy, pair_agreement, read_answer


def test_claim_accuracy_leaves_out_what_was_not_checked() -> None:
    found = claim_accuracy([1, 0, 1, math.nan, 1])
    assert (found.value, found.count) == (0.75, 4)
    assert 0 <= found.low < 0.75 < found.high <= 1
    assert claim_accuracy([]).count == 0


def test_agreement_is_the_share_of_the_most_frequent_answer() -> None:
    assert agreement(["7", "7", "8", None]) == 0.5
    assert agreement([None, None]) == 0
    assert math.isnan(agreement([]))


def test_pair_agreement_counts_pairs() -> None:
    assert pair_agreement(["7", "7", "7", "8"]) == 3 / 6
    assert pair_agreement(["7", None, None]) == 0
    assert math.isnan(pair_agreement(["7"]))


def test_gap_is_agreement_minus_accuracy() -> None:
    found = beliefs([["1", "1", "1", "2"], ["3", "4", "5", "3"]], [[False, False, False, True], [True, False, False, True]])
    assert found.accuracy.value == (0.25 + 0.5) / 2
    assert found.agreement.value == (0.75 + 0.5) / 2
    assert found.gap.value == 0.25
    assert found.gap.low <= 0.25 <= found.gap.high
    assert found.label_accuracy.value == pytest.approx(0.5)


def test_ties_of_the_majority_share() -> None:
    assert beliefs([["1", "2"]], [[True, False]]).label_accuracy.value == pytest.approx(0.5)


def test_verdicts_must_be_as_many_as_answers() -> None:
    with pytest.raises(InputError, match="each answer needs a verdict"):
        beliefs([["1", "2"]], [[True]])


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<s>7+3=10<ans>12", "12"),
        ("<ans>1<ans>2", "2"),
        ("x <answer> 4 </answer> y <answer>5</answer>", "5"),
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", None),
        ("42", None),
    ],
)
def test_answers_are_read_by_their_marks(completion: str, answer: str | None) -> None:
    assert read_answer(completion) == answer
