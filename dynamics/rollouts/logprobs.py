"""Reader of token log-probabilities from inference servers.

A list of the k likeliest tokens bounds every token that it leaves out: none is likelier than the last. What servers return is often not
such a list. vLLM's chat begins with the sampled token and leaves one of the k out for it; text completions have the sampled token as a
(k+1)th entry; and they name tokens by their text, so that two tokens of one text share an entry and one of them is lost, be it the
likeliest. The ceiling of a token is what is certain in spite of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.validation import within_bounds
from dynamics.rollouts.responses import Row, failed, is_chunk, rows

#: relative distance of two log-probabilities that are taken for one value
SAME = 1e-5
#: number and share of the lists that must agree on how many tokens were asked for
AGREEING, MOST = 4, 0.8
#: error of log-probabilities computed in float32, relative to 1 + abs(log-probability)
FLOAT32 = 2.0**-22
#: number of distinct values that show how values were rounded, and how many tokens are examined for that
ENOUGH, EXAMINED = 32, 2000


@dataclass(frozen=True)
class TokenLogprobs:
    """What is known about the distribution of one token.

    Attributes
    ----------
    values : log-probabilities of different tokens, natural logarithms.
    ceiling : no other token has a larger log-probability; 0 if nothing is certain about them.
    prompt : whether the token belongs to the prompt.
    rounding : error of a value, relative to 1 + abs(value).
    """

    values: list[float]
    ceiling: float
    prompt: bool = False
    rounding: float = 0.0


def read_logprobs(path: str) -> list[list[float]]:
    """Read the top log-probabilities of each generated token from JSON lines of responses, for example of vLLM.

    Reads what ``read_token_logprobs`` reads. A sampled token that may not be among the k likeliest is left out, because ``bounds`` without
    a ceiling needs the k largest values.

    Returns
    -------
    A list of natural logarithms per token; lists can differ in length.

    Raises
    ------
    InputError : the file is not JSON, or a record has no log-probabilities.
    """
    tokens, _ = read_token_logprobs(path)
    generated = [token for token in tokens if not token.prompt] or tokens
    return [[value for value in token.values if value >= token.ceiling] for token in generated]


def read_token_logprobs(path: str) -> tuple[list[TokenLogprobs], list[str]]:
    """Read what a server said about the distribution of each token, from JSON lines of its responses.

    Reads responses of OpenAI (chat, completions, Responses, batch files), vLLM (also ``prompt_logprobs`` and its offline outputs), SGLang
    (``meta_info``), text-generation-inference (``details``), llama.cpp (``completion_probabilities``), Ollama and Gemini; also inside the
    fields response, body, raw_response, result, output and data of a log.

    Returns
    -------
    The tokens, in order, and remarks.

    Raises
    ------
    InputError : the file is not JSON, a record has no log-probabilities, or they are too coarse for any bound.
    """
    where = printable(path)
    with within_bounds(path):
        groups, lost, errors = _groups(path)
        if not groups:
            raise InputError(f"{where}: holds {plural(errors, 'failed request')} and no response" if errors else f"{where}: is empty")
        return _tokens(groups, lost, errors, where)


def _groups(path: str) -> tuple[list[list[Row]], int, int]:
    """Read the tokens of each response; return them, the number of tokens that are left out, and the number of failed requests."""
    from pathlib import Path

    from dynamics.io.json_lines import read_json_lines

    where = printable(path)
    groups: list[list[Row]] = []
    lost, errors = 0, 0
    for number, record in read_json_lines(Path(path)):
        if failed(record):
            errors += 1
            continue
        try:
            found = list(rows(record))
        except InputError as error:
            raise InputError(f"{where}, line {number}{error}") from None
        kept = [row for row in found if row is not None]
        if not kept and is_chunk(record):
            continue
        if not kept:
            raise InputError(f"{where}, line {number}: has no top log-probabilities; ask the server for them (top_logprobs, or logprobs=k)")
        lost += len(found) - len(kept)
        groups.append(kept)
    return groups, lost, errors


def _tokens(groups: list[list[Row]], lost: int, errors: int, where: str) -> tuple[list[TokenLogprobs], list[str]]:
    """Find the ceiling and the rounding of each token."""
    every = [row for group in groups for row in group]
    rounding = _rounding([value for row in every[:EXAMINED] for _, value in row.entries], where)
    pooled = Asked.of(every)
    tokens = []
    for group in groups:
        own = Asked.of(group)
        asked = pooled if own.count is None else own
        for row in group:
            values = [value for _, value in row.entries]
            tokens.append(TokenLogprobs(values, ceiling(row, asked), row.prompt, max(rounding, row.rounding)))
    return tokens, _notes(every, tokens, lost, errors, where)


@dataclass(frozen=True)
class Asked:
    """How many of the likeliest tokens a server was asked for, as far as its lists show.

    Attributes
    ----------
    count : the number; None if the lists do not show it.
    uniform : whether all lists have one length.
    adds : whether some list has one more, the sampled token.
    """

    count: int | None
    uniform: bool
    adds: bool

    @classmethod
    def of(cls, group: Sequence[Row]) -> Asked:
        """Find the number from lists whose sampled token is not the last.

        The sampled token of such a list is one of the k likeliest, so that the list has k entries, or fewer where tokens share an entry.
        """
        lengths: Counter[int] = Counter()
        for row in group:
            if row.sampled is not None and row.ranks is None and _is_inside(row):
                lengths[row.listed] += 1
        most = max(lengths, default=0)
        count = most if most and lengths[most] >= max(AGREEING, MOST * sum(lengths.values())) else None
        sizes = {row.listed for row in group}
        return cls(count, len(sizes) == 1, count is not None and count + 1 in sizes)

    def complete(self, row: Row, sampled_last: bool) -> bool:
        """Whether no token of a list has been lost to another of its text; ``sampled_last`` if the least likely may be the sampled one."""
        if row.merged is False:
            return True
        if self.count is None:
            return row.merged is None and self.uniform
        if not sampled_last:
            return row.listed == self.count
        if row.listed == self.count + 1:
            return True
        return row.listed == self.count and row.merged is None and not self.adds  # vLLM's chat leaves one of the k likeliest out


def _is_inside(row: Row) -> bool:
    """Whether the sampled token is in the list and not the least likely of it."""
    assert row.sampled is not None
    name, value = row.sampled
    least = min(number for _, number in row.entries)
    named = [number for other, number in row.entries if other == name]
    if value is None:
        return len(named) == 1 and named[0] > least
    return any(_same(number, value) and number > least for number in named)


def ceiling(row: Row, asked: Asked) -> float:
    """Return the largest log-probability that a token outside of the list can have, 0 if nothing is certain."""
    values = [value for _, value in row.entries]
    if row.ranks is not None:
        return _ceiling_by_rank(values, row.ranks)
    last = values.index(min(values))
    sampled_last = row.extra and _may_be_sampled(row, last)
    rest = values[:last] + values[last + 1 :] if sampled_last else values
    complete = asked.complete(row, sampled_last)
    if not rest or not complete or not _descending(row, last) or _contradicted(row):
        return 0.0
    return min(rest)


def _ceiling_by_rank(values: list[float], ranks: list[int]) -> float:
    """Return the value of the last of the ranks 1, 2, 3, ... that are all there."""
    last, bound = 0, 0.0
    for rank, number in sorted(zip(ranks, values, strict=True), key=lambda pair: (pair[0], -pair[1])):
        if rank > last + 1 or number > bound:
            break
        last, bound = rank, number
    return bound


def _may_be_sampled(row: Row, index: int) -> bool:
    """Whether an entry may be the sampled token, by its name or by its value."""
    if row.sampled is None:
        return row.merged is True or not _is_descending([value for _, value in row.entries])
    name, value = row.entries[index]
    return name == row.sampled[0] or (row.sampled[1] is not None and _same(value, row.sampled[1]))


def _same(value: float, other: float) -> bool:
    return abs(value - other) <= SAME * (1 + abs(other))


def _is_descending(values: Sequence[float]) -> bool:
    return all(values[index + 1] <= values[index] + SAME * (1 + abs(values[index])) for index in range(len(values) - 1))


def _descending(row: Row, last: int) -> bool:
    """Whether the list is in the order of its values, as lists of the likeliest are, the sampled token aside.

    A list of tokens that were asked for by their ids (vLLM's ``logprob_token_ids``) is not, and bounds nothing.
    """
    if row.sorted_names:
        return True
    values = [value for _, value in row.entries]
    aside = {0, last} | {index for index in range(len(values)) if row.sampled is not None and row.entries[index][0] == row.sampled[0]}
    return any(_is_descending(values[:index] + values[index + 1 :]) for index in aside)


def _contradicted(row: Row) -> bool:
    """Whether the sampled token is likelier than the last of the list and not in it, or is in it with another value."""
    name, value = row.sampled or (None, None)
    if value is None:
        return False
    named = [number for other, number in row.entries if other == name]
    if named:
        return not any(_same(number, value) for number in named)
    values = [number for _, number in row.entries]
    return value > min(values) + SAME * (1 + abs(value)) and not any(_same(number, value) for number in values)


def _rounding(values: Sequence[float], where: str) -> float:
    """Find the error of the values from their digits: of float64, of float32, or of decimals that were cut.

    Values of 8 or 11 significant bits come from a softmax in bfloat16 or float16, whose error is that of the logits: nothing bounds it.
    """
    distinct = np.unique(np.asarray(values, float))
    distinct = distinct[distinct != 0]
    if not len(distinct):
        return FLOAT32
    narrow = distinct.astype(np.float32)
    exact = narrow == distinct
    digits = [np.format_float_scientific(value, trim="-").partition("e")[0].replace(".", "").lstrip("-") for value in distinct.tolist()]
    short = np.array([len(one) <= 9 for one in digits])
    if (exact | short).sum() * 2 < len(distinct):
        return 0.0
    if len(distinct) >= ENOUGH:
        bits = narrow.view(np.uint32)
        with np.errstate(over="ignore"):
            half = narrow.astype(np.float16).astype(np.float32)
        for name, coarse in (("bfloat16", (bits & 0xFFFF) == 0), ("float16", half == narrow)):
            if (exact & coarse).all():
                raise InputError(
                    f"{where}: the log-probabilities are in {name}, too coarse for bounds; have the server compute them in float32"
                )
    decimals = max(len(np.format_float_positional(value, trim="-").partition(".")[2]) for value in distinct.tolist())
    if len(distinct) < 8 and max(map(len, digits)) <= 2:  # written by hand
        return 0.0
    return max(FLOAT32, 10.0**-decimals) if decimals <= 6 else FLOAT32


def _notes(every: Sequence[Row], tokens: Sequence[TokenLogprobs], lost: int, errors: int, where: str) -> list[str]:
    notes = []
    if errors:
        notes.append(f"{where}: {plural(errors, 'failed request')} left out")
    if lost:
        notes.append(f"{where}: {plural(lost, 'token')} without top log-probabilities left out")
    notes += [f"{where}: {remark}" for remark in dict.fromkeys(row.remark for row in every) if remark]
    unknown = [row for row, token in zip(every, tokens, strict=True) if token.ceiling == 0 and max(token.values) < 0]
    merged = sum(row.merged is True for row in unknown)
    if merged:
        notes.append(
            f"{where}: tokens are named by their text, and tokens of one text share an entry: for {merged:,} of {len(every):,} tokens "
            "the list may lack one of the likeliest, which makes the lower bound smaller"
        )
    if len(unknown) > merged:
        notes.append(
            f"{where}: for {len(unknown) - merged:,} of {len(every):,} tokens the list is not certain to be that of the likeliest, "
            "which makes the lower bound smaller"
        )
    return notes
