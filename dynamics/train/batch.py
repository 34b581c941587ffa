"""What every method hands to the loop: completions of prompts, each with the weight that its log-likelihood gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dynamics.train.policy import Policy

Ids = np.ndarray[Any, Any]


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
    """

    prompts: Sequence[Ids]
    completions: Sequence[Ids]
    prompt_of: Ids
    advantages: Ids
    roles: Sequence[str]
    tasks: Sequence[str]
    names: Sequence[str]
    behaviour: Sequence[Ids] | None = None
    temperature: float = 1.0

    @property
    def lengths(self) -> Ids:
        return np.array([len(one) for one in self.completions], np.int64)


@dataclass(frozen=True)
class StepData:
    """A batch with what is to be recorded of how it came about."""

    batch: Batch
    metrics: dict[str, Any] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)


class Method:
    """Where batches come from. What it needs beside the step to go on is its ``state``."""

    record_every = 1

    def next_batch(self, step: int) -> StepData:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, kept: dict[str, Any]) -> None:
        """Go on from a state."""

    def probe_prompts(self) -> dict[str, tuple[list[Any], int]]:
        """Prompts that stay the same: role -> token ids, and the longest completion."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """What ``run.json`` should say of it."""
        return {}

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Measure what needs the whole run (``directory``) or the model that it began with, which ``load_base`` gives."""

    def close(self) -> None:
        """Let go of processes."""


@dataclass(frozen=True)
class Layout:
    """Rows of one forward pass. A row is a prompt followed by several of its completions, none of which sees another.

    Attributes
    ----------
    ids, positions : (rows, length). Every completion's positions begin where the prompt's end.
    segments : (rows, length) 0 prompt, 1.. completion, -1 padding; None if no row has more than one completion.
    row, source : (tokens,) where the hidden state stands that predicts each completion token.
    targets, sample : (tokens,) the token, and the sample that it is of. In the order of samples, then of tokens.
    """

    ids: Ids
    positions: Ids
    segments: Ids | None
    row: Ids
    source: Ids
    targets: Ids
    sample: Ids


def layouts(batch: Batch, samples: Sequence[int], tokens: int, share: bool = True) -> list[Layout]:
    """The given samples in micro-batches of at most about ``tokens`` tokens, padding included; rows of similar shape together.

    ``share``: completions of one prompt share its row. Attention pads the completions of all rows of a micro-batch to the longest, so
    rows go together if the longest completions differ by less than a factor of two; rows of one completion need no such padding and
    go apart.
    """
    rows = _rows(batch, samples, tokens, share)
    rows.sort(key=lambda row: (len(row) == 1, -_longest(batch, row), -_length(batch, row)))
    made: list[list[list[int]]] = []
    shape = (0, 0, 0)  # of the micro-batch in work
    for row in rows:
        mine = _shape(batch, row)
        grown = _grown(shape, mine)
        if made and _alike(batch, made[-1][0], row) and (len(made[-1]) + 1) * _area(grown) <= tokens:
            made[-1].append(row)
            shape = grown
        else:
            made.append([row])
            shape = mine
    return [_layout(batch, micro) for micro in made]


def _alike(batch: Batch, longer: Sequence[int], row: Sequence[int]) -> bool:
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
    """What a row is padded by: its longest completion; all of it where there is but one completion."""
    return max(len(batch.completions[sample]) for sample in row) if len(row) > 1 else _length(batch, row)


def _shape(batch: Batch, row: Sequence[int]) -> tuple[int, int, int]:
    """Tokens of the prompt, completions, and tokens of the longest; with one completion all its tokens and nothing else."""
    if len(row) == 1:
        return _length(batch, row), 0, 0
    return len(batch.prompts[batch.prompt_of[row[0]]]), len(row), _longest(batch, row)


def _grown(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def _area(shape: tuple[int, int, int]) -> int:
    """Tokens that a row of this shape takes up with its completions padded to the longest."""
    return shape[0] + shape[1] * shape[2]


def _layout(batch: Batch, rows: Sequence[Sequence[int]]) -> Layout:
    width = max(_length(batch, row) for row in rows)
    ids, positions = np.zeros((2, len(rows), width), np.int64)
    segments = np.full((len(rows), width), -1, np.int64)
    parts: list[tuple[int, Ids, Ids, int]] = []
    for place, row in enumerate(rows):
        prompt = batch.prompts[batch.prompt_of[row[0]]]
        end = len(prompt)
        ids[place, :end], positions[place, :end], segments[place, :end] = prompt, np.arange(end), 0
        for number, sample in enumerate(row, start=1):
            made = batch.completions[sample]
            inside = slice(end, end + len(made))
            ids[place, inside], segments[place, inside] = made, number
            positions[place, inside] = len(prompt) + np.arange(len(made))
            source = np.concatenate([[len(prompt) - 1], np.arange(end, end + len(made) - 1)]) if len(made) else np.arange(0)
            parts.append((sample, np.full(len(made), place), source, len(parts)))
            end += len(made)
    parts.sort(key=lambda part: part[0])
    return Layout(
        ids,
        positions,
        segments if any(len(row) > 1 for row in rows) else None,
        np.concatenate([row for _, row, _, _ in parts]),
        np.concatenate([source for _, _, source, _ in parts]),
        np.concatenate([batch.completions[sample] for sample, _, _, _ in parts]),
        np.concatenate([np.full(len(row), sample) for sample, row, _, _ in parts]),
    )


def starts(batch: Batch) -> Ids:
    """(samples + 1,) where each sample's tokens begin among all completion tokens."""
    return np.concatenate([[0], np.cumsum(batch.lengths)])


def places(layout: Layout, begin: Ids) -> Ids:
    """(tokens,) where the tokens of a layout stand among all completion tokens of the batch, given its ``starts``."""
    new = np.concatenate([[True], layout.sample[1:] != layout.sample[:-1]]) if len(layout.sample) else np.zeros(0, bool)
    first = np.flatnonzero(new)
    inside = np.arange(len(layout.sample)) - np.repeat(first, np.diff(np.append(first, len(layout.sample))))
    return np.asarray(begin[layout.sample] + inside)
