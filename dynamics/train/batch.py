"""Batches of completions with their advantages, and how completions are packed into rows of forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


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
    trained : (samples,) whether a sample has a gradient of any term of the objective; None if all have. Others count for the metrics, and
        in the denominators of ``objectives.token_weights``, so that leaving them out does not change the gradient of the rest.
    supervised : (samples,) whether a sample is imitated: its loss is the log-likelihood weighted by its advantage, without a probability
        ratio. None if none is, and for supervised data, where all are.
    sequence_ratio : whether the probability ratio is that of whole completions, against ``behaviour``, which is then that of a fixed
        reference; see ``objectives.sequence_coefficients``.
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
    trained: Bool[np.ndarray, " samples"] | None = None
    supervised: Bool[np.ndarray, " samples"] | None = None
    sequence_ratio: bool = False

    @property
    def lengths(self) -> Int[np.ndarray, " samples"]:
        """Length of each completion in tokens."""
        return np.array([len(completion) for completion in self.completions], np.int64)


def select(batch: Batch, samples: Sequence[int]) -> Batch:
    """Take samples of a batch, in their order, with the prompts that they need."""
    chosen = np.asarray(samples, np.int64)
    needed, prompt_of = np.unique(batch.prompt_of[chosen], return_inverse=True)
    return replace(
        batch,
        prompts=[batch.prompts[prompt] for prompt in needed],
        completions=[batch.completions[sample] for sample in chosen],
        prompt_of=prompt_of,
        advantages=batch.advantages[chosen],
        roles=[batch.roles[sample] for sample in chosen],
        tasks=[batch.tasks[sample] for sample in chosen],
        names=[batch.names[sample] for sample in chosen],
        behaviour=None if batch.behaviour is None else [batch.behaviour[sample] for sample in chosen],
        trained=None if batch.trained is None else batch.trained[chosen],
        supervised=None if batch.supervised is None else batch.supervised[chosen],
    )


class Segment(NamedTuple):
    """Tokens from ``start`` to ``end`` of a packed row, a prompt, a completion or both.

    They attend causally to each other and to all tokens from ``prompt_start`` to ``prompt_end``; these are equal if there are none.
    """

    start: int
    end: int
    prompt_start: int = 0
    prompt_end: int = 0


@dataclass(frozen=True)
class PackedRows:
    """Tokens of one forward pass: either one row of prompts, each followed by its completions, or padded rows of a prompt and a completion.

    Attributes
    ----------
    ids, positions : (rows, length). The positions of each completion continue those of its prompt.
    segments : of the one packed row, in order; None for padded rows, which are padded on the right.
    row, column : (tokens,) position of the hidden state that predicts each completion token.
    targets, sample : (tokens,) completion tokens and the index of their sample, ordered by sample, then by token.
    token : (tokens,) index of each token within its completion.
    """

    ids: Int[np.ndarray, "rows length"]
    positions: Int[np.ndarray, "rows length"]
    segments: Sequence[Segment] | None
    row: Int[np.ndarray, " tokens"]
    column: Int[np.ndarray, " tokens"]
    targets: Int[np.ndarray, " tokens"]
    sample: Int[np.ndarray, " tokens"]
    token: Int[np.ndarray, " tokens"]

    def piece(self, start: int, end: int) -> PackedRows:
        """Take the tokens from ``start`` to ``end`` of one sequence, and the completion tokens that they predict."""
        chosen = (self.column >= start) & (self.column < end)
        return PackedRows(
            self.ids[:, start:end],
            self.positions[:, start:end],
            [Segment(0, end - start)],
            self.row[chosen],
            self.column[chosen] - start,
            self.targets[chosen],
            self.sample[chosen],
            self.token[chosen],
        )


def pack_rows(batch: Batch, samples: Sequence[int], tokens: int, share: bool = True, window: int | None = None) -> list[PackedRows]:
    """Pack samples into micro-batches.

    Parameters
    ----------
    batch : contains the samples.
    samples : indices of the samples to pack.
    tokens : maximum number of tokens of a micro-batch, padding included; a longer sequence is a micro-batch by itself.
    share : whether a micro-batch is one row without padding, in which the completions of a prompt share it. Otherwise each completion has
        a row with its prompt, and rows are padded to the longest; those of a micro-batch are of similar length.
    window : longest prompt and completion that can be packed; longer ones get a padded row each. None if there is no limit.
    """
    fits = [share and (window is None or _length(batch, [sample]) <= window) for sample in samples]
    packed = [sample for sample, fit in zip(samples, fits, strict=True) if fit]
    padded = [[sample] for sample, fit in zip(samples, fits, strict=True) if not fit]
    padded.sort(key=lambda row: -_length(batch, row))
    microbatches = [_packed(batch, rows) for rows in _fill(batch, _shared_rows(batch, packed, tokens), tokens)]
    return microbatches + [_padded(batch, [sample for (sample,) in rows]) for rows in _fill(batch, padded, tokens, padded=True)]


def _shared_rows(batch: Batch, samples: Sequence[int], tokens: int) -> list[list[int]]:
    """Group samples of one prompt whose tokens, with the prompt's once, are at most ``tokens``."""
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    for sample in samples:
        prompt = int(batch.prompt_of[sample])
        row = open_rows.get(prompt)
        if row is None or _length(batch, [*row, sample]) > tokens:
            row = open_rows[prompt] = []
            rows.append(row)
        row.append(sample)
    return rows


def _fill(batch: Batch, rows: Sequence[list[int]], tokens: int, padded: bool = False) -> list[list[list[int]]]:
    """Group rows into micro-batches of at most ``tokens`` tokens; padded rows, sorted, if they are of similar length."""
    microbatches: list[list[list[int]]] = []
    size = 0  # of the current micro-batch
    for row in rows:
        length = _length(batch, row)
        if padded and microbatches:
            longest = _length(batch, microbatches[-1][0])
            grown = longest * (len(microbatches[-1]) + 1) if longest < 2 * length else tokens + 1
        else:
            grown = size + length
        if microbatches and grown <= tokens:
            microbatches[-1].append(row)
            size = grown
        else:
            microbatches.append([row])
            size = length
    return microbatches


def _length(batch: Batch, row: Sequence[int]) -> int:
    """Count the tokens of a prompt and these completions of it."""
    return len(batch.prompts[batch.prompt_of[row[0]]]) + sum(len(batch.completions[sample]) for sample in row)


def _packed(batch: Batch, rows: Sequence[Sequence[int]]) -> PackedRows:
    """Put rows one after the other; a prompt with one completion is one segment."""
    ids, positions, segments = [], [], []
    predicted: dict[int, Int[np.ndarray, " _"]] = {}  # by sample, the column that predicts each token
    end = 0
    for row in rows:
        prompt = np.asarray(batch.prompts[batch.prompt_of[row[0]]], np.int64)
        first, last = end, end + len(prompt)
        ids.append(prompt)
        positions.append(np.arange(len(prompt)))
        end = last
        if len(row) > 1:
            segments.append(Segment(first, last))
        for sample in row:
            length = len(batch.completions[sample])
            ids.append(np.asarray(batch.completions[sample], np.int64))
            positions.append(len(prompt) + np.arange(length))
            predicted[sample] = np.concatenate([[last - 1], np.arange(end, end + length - 1)])[:length]  # none for an empty completion
            segments.append(Segment(end, end + length, first, last) if len(row) > 1 else Segment(first, end + length))
            end += length
    samples = sorted(predicted)
    return _rows(batch, samples, np.concatenate(ids)[None], np.concatenate(positions)[None], segments, [0] * len(samples), predicted)


def _padded(batch: Batch, samples: Sequence[int]) -> PackedRows:
    """Give each sample a row, padded on the right."""
    width = max(_length(batch, [sample]) for sample in samples)
    ids, positions = np.zeros((2, len(samples), width), np.int64)
    predicted: dict[int, Int[np.ndarray, " _"]] = {}
    for index, sample in enumerate(samples):
        prompt = batch.prompts[batch.prompt_of[sample]]
        end = _length(batch, [sample])
        ids[index, :end] = np.concatenate([prompt, batch.completions[sample]])
        positions[index, :end] = np.arange(end)
        predicted[sample] = np.arange(len(prompt) - 1, end - 1)
    row_of = {sample: index for index, sample in enumerate(samples)}
    ordered = sorted(samples)
    return _rows(batch, ordered, ids, positions, None, [row_of[sample] for sample in ordered], predicted)


def _rows(
    batch: Batch,
    samples: Sequence[int],
    ids: Int[np.ndarray, "rows length"],
    positions: Int[np.ndarray, "rows length"],
    segments: Sequence[Segment] | None,
    row_of: Sequence[int],
    predicted: dict[int, Int[np.ndarray, " _"]],
) -> PackedRows:
    """Join the tokens of ``samples``, which are sorted; ``row_of`` has the row of each."""
    lengths = [len(batch.completions[sample]) for sample in samples]
    return PackedRows(
        ids,
        positions,
        segments,
        np.repeat(np.array(row_of, np.int64), lengths),
        np.concatenate([predicted[sample] for sample in samples]).astype(np.int64),
        np.concatenate([np.asarray(batch.completions[sample], np.int64) for sample in samples]),
        np.repeat(np.array(samples, np.int64), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    )


def completion_offsets(batch: Batch) -> Int[np.ndarray, " offsets"]:
    """Compute the offset of each sample among all completion tokens; (samples + 1,), ending with the total."""
    return np.concatenate([[0], np.cumsum(batch.lengths)])


def token_indices(rows: PackedRows, offsets: Int[np.ndarray, " offsets"]) -> Int[np.ndarray, " tokens"]:
    """Compute the indices of the tokens of ``rows`` among all completion tokens of the batch, given its ``completion_offsets``."""
    return np.asarray(offsets[rows.sample] + rows.token)


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
