"""Batches of completions with their advantages, and how completions are packed into rows of forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Batch:
    """Prompts and completions of a training step.

    Attributes
    ----------
    prompts : token ids, (tokens,) each.
    completions : token ids, (tokens,) each, including the end-of-sequence token; every token counts in the loss.
    prompt_of : (samples,) index of the prompt of each completion.
    advantages : (samples,) float64; 1 for supervised data.
    roles, tasks : (samples,) each; metrics are reported by role and task.
    names : (samples,), to identify samples in error messages.
    behaviour : log-probability of each completion token under the sampling policy, at ``temperature``; None for supervised data.
    temperature : sampling temperature; log-probabilities in the objective are taken at the same temperature.
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
        """Length of each completion in tokens."""
        return np.array([len(completion) for completion in self.completions], np.int64)


@dataclass(frozen=True)
class PackedRows:
    """Rows of one forward pass: each is a prompt followed by one or more of its completions, which do not attend to each other.

    Attributes
    ----------
    ids, positions : (rows, length). The positions of each completion continue those of the prompt.
    segments : (rows, length) 0 for the prompt, 1, 2, ... for completions, -1 for padding; None if no row has more than one completion.
    row, column : (tokens,) position of the hidden state that predicts each completion token.
    targets, sample : (tokens,) completion tokens and the index of their sample, ordered by sample, then by token.
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

    Attention pads the completions of all rows of a micro-batch to the longest, so rows are grouped if their longest completions differ by
    less than a factor of two. Rows with a single completion need no such padding and are packed separately.

    Parameters
    ----------
    batch : contains the samples.
    samples : indices of the samples to pack.
    tokens : maximum number of tokens of a micro-batch, padding included; a longer row is a micro-batch by itself.
    share : whether completions of one prompt share a row.
    """
    rows = _rows(batch, samples, tokens, share)
    rows.sort(key=lambda row: (len(row) == 1, -_longest(batch, row), -_length(batch, row)))
    microbatches: list[list[list[int]]] = []
    shape = (0, 0, 0)  # of the current micro-batch
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
    """Count the tokens of a row: the prompt and all its completions."""
    return len(batch.prompts[batch.prompt_of[row[0]]]) + sum(len(batch.completions[sample]) for sample in row)


def _longest(batch: Batch, row: Sequence[int]) -> int:
    """Length of the longest completion of a row; of the whole row if it has a single completion."""
    return max(len(batch.completions[sample]) for sample in row) if len(row) > 1 else _length(batch, row)


def _shape(batch: Batch, row: Sequence[int]) -> tuple[int, int, int]:
    """Prompt length, number of completions and longest completion; (row length, 0, 0) for a row with a single completion."""
    if len(row) == 1:
        return _length(batch, row), 0, 0
    return len(batch.prompts[batch.prompt_of[row[0]]]), len(row), _longest(batch, row)


def _maximum(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])


def _area(shape: tuple[int, int, int]) -> int:
    """Count the tokens of a row of this shape when its completions are padded to the longest."""
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
    """Compute the offset of each sample among all completion tokens; (samples + 1,), ending with the total."""
    return np.concatenate([[0], np.cumsum(batch.lengths)])


def token_indices(rows: PackedRows, offsets: Int[np.ndarray, " offsets"]) -> Int[np.ndarray, " tokens"]:
    """Compute the indices of the tokens of ``rows`` among all completion tokens of the batch, given its ``completion_offsets``."""
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
    Token ids, 0 for padding; the attention mask, 1 for tokens; positions, starting with 0 at the first token. All int64.
    """
    width = max(map(len, prompts))
    ids = np.stack([np.pad(np.asarray(prompt, np.int64), (width - len(prompt), 0)) for prompt in prompts])
    mask = np.array([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], np.int64)
    return ids, mask, np.maximum(mask.cumsum(1) - 1, 0)
