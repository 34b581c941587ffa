"""The kind of each token of a completion, and its place in it: by both, entropy is averaged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dynamics.entropy.kinds import kind_of_token

#: parts of a completion of equal length, by which entropy is averaged
PARTS = 10
END, STEP_MARK, ANSWER_MARK, RESULT, ANSWER = "end", "step_mark", "answer_mark", "result", "answer"


@dataclass(frozen=True)
class Scheme:
    """The kinds of the tokens of a notation with scratchpads.

    Attributes
    ----------
    kinds : by token.
    marks : tokens that begin a step, an attempt or the answer.
    equals : token between the two sides of a step.
    answer : token before the answer.
    """

    kinds: Mapping[str, str]
    marks: Collection[str]
    equals: str
    answer: str


class TokenKinds:
    """Tells the kinds of tokens of a tokenizer.

    Those of most tokenizers are told by the text of the token alone, see ``dynamics.entropy.kinds.KINDS``. In a notation with scratchpads
    they also depend on what is before it in the completion: what is behind the answer mark is ``answer``, and what is behind the equals
    sign of a step is its ``result``.

    Parameters
    ----------
    tokenizer : of transformers.
    eos : token ids that end a completion; their kind is ``end``.
    scheme : of the notation that the tokenizer is made for, if it has scratchpads.

    Attributes
    ----------
    answer_mark : token id that separates the scratchpad from the answer; None if the notation has none.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int], scheme: Scheme | None = None):
        self.tokenizer = tokenizer
        self._known: dict[int, str] = dict.fromkeys(eos, END)
        self._marks: list[int] = []
        self._equals = -1
        self.answer_mark: int | None = None
        if scheme is not None:
            ids = tokenizer.get_vocab()
            self._known = {ids[token]: kind for token, kind in scheme.kinds.items()} | self._known
            self._marks = [ids[token] for token in scheme.marks]
            self._equals, self.answer_mark = ids[scheme.equals], ids[scheme.answer]

    def of(self, completions: Sequence[Int[np.ndarray, " _"]]) -> tuple[list[str], Int[np.ndarray, " tokens"]]:
        """Return the names of kinds, and for each token of the completions, one after another, the index of its kind."""
        ids = np.concatenate([np.zeros(0, np.int64), *completions])
        different, place = np.unique(ids, return_inverse=True)
        kinds = [self._kind(int(token)) for token in different]
        names = sorted({*kinds, *((ANSWER, RESULT) if self.answer_mark is not None else ())})
        index = np.array([names.index(kind) for kind in kinds], np.int64)[place]
        if self.answer_mark is not None and len(ids):
            self._by_context(ids, completions, names, index)
        return names, index

    def _kind(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = kind_of_token(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return self._known[token]

    def _by_context(
        self, ids: Int[np.ndarray, " tokens"], completions: Sequence[Int[np.ndarray, " _"]], names: list[str], index: Int[np.ndarray, " _"]
    ) -> None:
        """Enter the kinds ``answer`` and ``result``, in which no mark and no end is."""
        lengths = [len(completion) for completion in completions]
        start = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        inside = np.isin(index, [names.index(name) for name in names if name not in (END, ANSWER_MARK, STEP_MARK)])
        since_mark = _last(np.isin(ids, self._marks))
        since_equals = _last(ids == self._equals)
        index[inside & (since_equals >= np.maximum(start, since_mark)) & (ids != self._equals)] = names.index(RESULT)
        index[inside & (_last(ids == self.answer_mark) >= start)] = names.index(ANSWER)

    def scratchpad_length(self, completion: Int[np.ndarray, " tokens"]) -> int:
        """Return the number of tokens before the answer mark; of a completion without one, of all but its end."""
        if self.answer_mark is not None and (found := np.flatnonzero(completion == self.answer_mark)).size:
            return int(found[0])
        return int(sum(self._known.get(int(token)) != END for token in completion))


def _last(is_one: np.ndarray[Any, np.dtype[np.bool_]]) -> Int[np.ndarray, " tokens"]:
    """Return for each token the position of the last one, itself included, that is marked; -1 if there is none."""
    return np.maximum.accumulate(np.where(is_one, np.arange(len(is_one)), -1)) if len(is_one) else np.zeros(0, np.int64)


def entropy_by_kind(
    values: Float[np.ndarray, " tokens"], completions: Sequence[Int[np.ndarray, " _"]], kinds: TokenKinds, prefix: str
) -> dict[str, float]:
    """Average the entropy of tokens by their kind, and by their place in the completion.

    Parameters
    ----------
    values : (tokens,) entropies of the tokens of all completions, one after another, nats.
    completions : token ids, (tokens,) each.
    kinds : of the tokenizer.
    prefix : of the names, such as ``solver``.

    Returns
    -------
    ``PREFIX/entropy/kind=KIND``, ``PREFIX/tokens/kind=KIND``, the share of the tokens that are of the kind, ``PREFIX/entropy/part=N``, for
    tenths of the completion from 1 to 10, and ``PREFIX/entropy/part=first``, of first tokens alone.

    Notes
    -----
    Completions differ in length: a completion of three tokens has tokens in the first, fourth and seventh tenth only, so that with short
    ones neighbouring tenths hold tokens of other completions. Long completions have more tokens, and count more, in every tenth.
    """
    names, kind = kinds.of(completions)
    lengths = np.array([len(completion) for completion in completions], np.int64)
    position = np.concatenate([np.zeros(0, np.int64), *map(np.arange, lengths)])
    part = position * PARTS // np.repeat(lengths, lengths)
    metrics: dict[str, float] = {}
    for labels, index in ((names, kind), ([str(number) for number in range(1, PARTS + 1)], part)):
        counts = np.bincount(index, minlength=len(labels))
        sums = np.bincount(index, values, minlength=len(labels))
        by = "kind" if labels is names else "part"
        for label, count, total in zip(labels, counts.tolist(), sums.tolist(), strict=True):
            if count:
                metrics[f"{prefix}/entropy/{by}={label}"] = total / count
            if count and by == "kind":
                metrics[f"{prefix}/tokens/kind={label}"] = count / len(values)
    if (position == 0).any():
        metrics[f"{prefix}/entropy/part=first"] = float(values[position == 0].mean())
    return metrics
