"""Completions of prompts, each with the weight that its log-likelihood gets, and how they are packed into rows of forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Batch:
    """Completions with their prompts; completions of one prompt are computed together.

    Attributes
    ----------
    prompts : token ids, (tokens,) each.
    completions : token ids, (tokens,) each, the end-of-sequence token with them; every token counts in the loss.
    prompt_of : (samples,) index of the prompt of each completion.
    advantages : (samples,) float64; 1 for text that is simply to be imitated.
    roles, tasks, names : (samples,) each; by these metrics are split and errors say which sample.
    behaviour : log-probability of every completion token under what sampled it, at ``temperature``; None for text that nobody sampled.
    temperature : of sampling; the objective is of the distribution at this temperature.
    """

    prompts: Sequence[Int[np.ndarray, " _"]]
    completions: Sequence[Int[np.ndarray, " _"]]
    prompt_of: Int[np.ndarray, " samples"]
    advantages: Float[np.ndarray, " samples"]
    roles: Sequence[str]
    tasks: Sequence[str]
    names: Sequence[str]
    behaviour: Sequence[Float[np.ndarray, " _"]] | None = None
    temperature: float = 1.0

    @property
    def lengths(self) -> Int[np.ndarray, " samples"]:
        """Tokens of each completion."""
        return np.array([len(completion) for completion in self.completions], np.int64)


@dataclass(frozen=True)
class PackedRows:
    """Rows of one forward pass. A row is a prompt followed by several of its completions, none of which sees another.

    Attributes
    ----------
    ids, positions : (rows, length). Every completion's positions begin where the prompt's end.
    segments : (rows, length) 0 prompt, 1.. completion, -1 padding; None if no row has more than one completion.
    row, column : (tokens,) where the hidden state stands that predicts each completion token.
    targets, sample : (tokens,) the token, and the sample that it is of. In the order of samples, then of tokens.
    """

    ids: Int[np.ndarray, "rows length"]
    positions: Int[np.ndarray, "rows length"]
    segments: Int[np.ndarray, "rows length"] | None
    row: Int[np.ndarray, " tokens"]
    column: Int[np.ndarray, " tokens"]
    targets: Int[np.ndarray, " tokens"]
    sample: Int[np.ndarray, " tokens"]


def pack_rows(batch: Batch, samples: Sequence[int], tokens: int, share: bool = True) -> list[PackedRows]:
    """Pack samples into micro-batches of rows of similar shape.

    Attention pads the completions of all rows of a micro-batch to the longest, so rows go together if the longest completions differ by
    less than a factor of two; rows of one completion need no such padding and go apart.

    Parameters
    ----------
    batch : where the samples are from.
    samples : indices of the samples to pack.
    tokens : the most that a micro-batch may have, padding included; a row that has more is one by itself.
    share : completions of one prompt share its row.
    """
    rows = _rows(batch, samples, tokens, share)
    rows.sort(key=lambda row: (len(row) == 1, -_longest(batch, row), -_length(batch, row)))
    microbatches: list[list[list[int]]] = []
    shape = (0, 0, 0)  # of the micro-batch in work
    for row in rows:
        row_shape = _shape(batch, row)
        grown = _maximum(shape, row_shape)
        if microbatches and _similar(batch, microbatches[-1][0], row) and (len(microbatches[-1]) + 1) * _area(grown) <= tokens:
            microbatches[-1].append(row)
            shape = grown
        else:
            microbatches.append([row])
            shape = row_shape
    return [_packed(batch, microbatch) for microbatch in microbatches]


def _similar(batch: Batch, longer: Sequence[int], row: Sequence[int]) -> bool:
    return (len(longer) == 1) == (len(row) == 1) and _longest(batch, longer) < 2 * _longest(batch, row)


def _rows(batch: Batch, samples: Sequence[int], tokens: int, share: bool) -> list[list[int]]:
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    for sample in samples:
        prompt = int(batch.prompt_of[sample])
        row = open_rows.get(prompt)
        if row is None or not share or _area(_shape(batch, [*row, sample])) > tokens:
            row = open_rows[prompt] = []
            rows.append(row)
        row.append(sample)
    return rows


def _length(batch: Batch, row: Sequence[int]) -> int:
    """Tokens of a row: the prompt and its completions one after another."""
    return len(batch.prompts[batch.prompt_of[row[0]]]) + sum(len(batch.completions[sample]) for sample in row)


def _longest(batch: Batch, row: Sequence[int]) -> int:
    """Length to which a row is padded: that of its longest completion; of all the row where there is but one completion."""
    return max(len(batch.completions[sample]) for sample in row) if len(row) > 1 else _length(batch, row)


def _shape(batch: Batch, row: Sequence[int]) -> tuple[int, int, int]:
    """Tokens of the prompt, completions, and tokens of the longest; with one completion all its tokens and nothing else."""
    if len(row) == 1:
        return _length(batch, row), 0, 0
    return len(batch.prompts[batch.prompt_of[row[0]]]), len(row), _longest(batch, row)


def _maximum(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])


def _area(shape: tuple[int, int, int]) -> int:
    """Tokens that a row of this shape takes up with its completions padded to the longest."""
    return shape[0] + shape[1] * shape[2]


def _packed(batch: Batch, rows: Sequence[Sequence[int]]) -> PackedRows:
    width = max(_length(batch, row) for row in rows)
    ids, positions = np.zeros((2, len(rows), width), np.int64)
    segments = np.full((len(rows), width), -1, np.int64)
    parts: list[tuple[int, Int[np.ndarray, " _"], Int[np.ndarray, " _"]]] = []  # sample, row and column of each of its tokens
    for index, row in enumerate(rows):
        prompt = batch.prompts[batch.prompt_of[row[0]]]
        end = len(prompt)
        ids[index, :end], positions[index, :end], segments[index, :end] = prompt, np.arange(end), 0
        for number, sample in enumerate(row, start=1):
            completion = batch.completions[sample]
            stretch = slice(end, end + len(completion))
            ids[index, stretch], segments[index, stretch] = completion, number
            positions[index, stretch] = len(prompt) + np.arange(len(completion))
            column = np.arange(0)
            if len(completion):  # the first token is predicted at the end of the prompt, each other one at the token before it
                column = np.concatenate([[len(prompt) - 1], np.arange(end, end + len(completion) - 1)])
            parts.append((sample, np.full(len(completion), index), column))
            end += len(completion)
    parts.sort(key=lambda part: part[0])
    return PackedRows(
        ids,
        positions,
        segments if any(len(row) > 1 for row in rows) else None,
        np.concatenate([row for _, row, _ in parts]),
        np.concatenate([column for _, _, column in parts]),
        np.concatenate([batch.completions[sample] for sample, _, _ in parts]),
        np.concatenate([np.full(len(row), sample) for sample, row, _ in parts]),
    )


def completion_offsets(batch: Batch) -> Int[np.ndarray, " offsets"]:
    """Find where each sample's tokens begin among all completion tokens; (samples + 1,), at last their number."""
    return np.concatenate([[0], np.cumsum(batch.lengths)])


def token_indices(rows: PackedRows, offsets: Int[np.ndarray, " offsets"]) -> Int[np.ndarray, " tokens"]:
    """Find where the tokens of ``rows`` stand among all completion tokens of the batch, given its ``completion_offsets``."""
    starts = np.concatenate([[True], rows.sample[1:] != rows.sample[:-1]]) if len(rows.sample) else np.zeros(0, bool)
    first = np.flatnonzero(starts)
    inside = np.arange(len(rows.sample)) - np.repeat(first, np.diff(np.append(first, len(rows.sample))))
    return np.asarray(offsets[rows.sample] + inside)


def pad_left(
    prompts: Sequence[Int[np.ndarray, " _"]],
) -> tuple[Int[np.ndarray, "prompts width"], Int[np.ndarray, "prompts width"], Int[np.ndarray, "prompts width"]]:
    """Pad prompts on the left to the longest.

    Returns
    -------
    Token ids, 0 where there is padding; the attention mask, 1 on tokens; positions, from 0 at the first token. All int64.
    """
    width = max(map(len, prompts))
    ids = np.stack([np.pad(np.asarray(prompt, np.int64), (width - len(prompt), 0)) for prompt in prompts])
    mask = np.array([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], np.int64)
    return ids, mask, np.maximum(mask.cumsum(1) - 1, 0)
