"""What a game believes against what is true: claimed answers, majority answers, and agreement, each beside the executor's verdict.

A game without a verifier trains on its own beliefs. Where an executor can check them, as in this project's laboratory, the difference is
measured: the share of claimed answers that are right (R-Zero's label accuracy, 30 to 40 % when reproduced), and agreement minus accuracy
(arXiv 2605.22217, by notes on its text), which rises when a solver grows sure of wrong answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dynamics.bootstrap import LEVEL
from dynamics.errors import InputError
from dynamics.games.intervals import Estimate, difference, share
from dynamics.passk.estimators import maj_at_k

#: marks after or within which an answer stands, by which it can be read without a judge
_MARKS = (re.compile(r"<ans>(.*)", re.DOTALL), re.compile(r"<answer>(.*?)</answer>", re.DOTALL))


def claim_accuracy(confirmed: ArrayLike, level: float = LEVEL) -> Estimate:
    """Compute the share of claimed answers that the executor confirms.

    Parameters
    ----------
    confirmed : (claims,) 1 if the executor gives the claimed answer, 0 if it gives another, NaN if it gives none; these are left out and
        must be told beside the number: a claim about a program that fails is no right claim either.

    Notes
    -----
    A proposer can raise it by easy tasks. It is about the tasks that were admitted, not about the proposer's ability.
    """
    return share(confirmed, level)


def agreement(answers: Sequence[Hashable | None]) -> float:
    """Compute the share of a group's answers that equal its most frequent one; an answer that could not be read agrees with nothing.

    NaN without answers. This is the solver's reward where the majority is taken as truth. Of n answers that all differ it is 1 / n, not 0:
    compare groups of one size.
    """
    if not answers:
        return float("nan")
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes.values(), default=0) / len(answers)


def pair_agreement(answers: Sequence[Hashable | None]) -> float:
    """Compute the share of the pairs of a group that have the same answer; NaN for fewer than two.

    Unbiased for the chance that two answers agree, whatever the size of the group; ``agreement`` is not.
    """
    count = len(answers)
    if count < 2:
        return float("nan")
    votes = Counter(answer for answer in answers if answer is not None)
    return sum(number * (number - 1) for number in votes.values()) / (count * (count - 1))


@dataclass(frozen=True)
class Beliefs:
    """Agreement and accuracy of the answers to some problems, each averaged over problems.

    Attributes
    ----------
    accuracy : mean share of right answers.
    agreement : mean ``agreement``.
    gap : agreement - accuracy, paired by problem: the intrinsic-grounded gap. 0 for a solver that is always right where one answer is;
        negative where several different answers are right, as in abduction, so compare problems of one kind.
    label_accuracy : share of problems whose most frequent answer is right; ties share. The accuracy of majority labels.
    """

    accuracy: Estimate
    agreement: Estimate
    gap: Estimate
    label_accuracy: Estimate


def beliefs(groups: Sequence[Sequence[Hashable | None]], correct: Sequence[Sequence[bool]], level: float = LEVEL) -> Beliefs:
    """Compare agreement with accuracy.

    Parameters
    ----------
    groups : the answers to each problem in one form, so that equal answers are equal; None for one that could not be read.
    correct : the executor's verdict on each.

    Raises
    ------
    InputError : a group has another number of verdicts than of answers.
    """
    if [len(group) for group in groups] != [len(verdicts) for verdicts in correct]:
        raise InputError("each answer needs a verdict: some group has another number of verdicts than of answers")
    accurate = [float(np.mean(verdicts)) if verdicts else np.nan for verdicts in correct]
    agreed = [agreement(group) for group in groups]
    labels = [maj_at_k(group, verdicts, len(group)) if group else np.nan for group, verdicts in zip(groups, correct, strict=True)]
    return Beliefs(share(accurate, level), share(agreed, level), difference(accurate, agreed, level), share(np.clip(labels, 0, 1), level))


def read_answer(completion: str) -> str | None:
    r"""Read the answer of a completion by its mark: after the last ``<ans>``, in the last ``<answer>...</answer>`` or ``\boxed{...}``.

    None if there is no such mark. Two answers that mean the same in other words (1/2, 0.5) count as different, so agreement is too low
    where answers are not literals.
    """
    for mark in _MARKS:
        found = mark.findall(completion[completion.rfind("<ans>") :] if "<ans>" in completion else completion)
        if found:
            return str(found[-1]).strip()
    return _boxed(completion)


def _boxed(text: str) -> str | None:
    r"""Return the contents of the last ``\boxed{...}``, whose brackets match."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : place].strip()
    return None
