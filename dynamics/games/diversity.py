"""Diversity against earlier phases: how much the tasks of a phase repeat those before it, in their words and in their structure.

Diversity within a batch can stay high while the proposer goes round in a circle (the "diversity illusion", arXiv 2602.13103, 2604.03472):
every task of a step differs from the others of the step, and all were there before. So a phase is compared with all earlier phases.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dynamics.errors import InputError
from dynamics.passk.estimators import pass_at_k

#: a word, a number, or a single other character
TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
#: earlier tasks that are compared with at a time
BLOCK = 512


def tokens(text: str) -> frozenset[str]:
    """Return the set of tokens of a text: words in lower case, numbers, and other characters one by one."""
    return frozenset(TOKEN.findall(text.lower()))


def jaccard(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> Float[np.ndarray, "first second"]:
    """Compute the Jaccard index, common tokens / tokens of either, of each text with each other text; 1 for two texts without tokens.

    Parameters
    ----------
    first, second : token sets, see ``tokens``.

    Notes
    -----
    PasoDoble's public code counts a question as new if the index with each of the last 100 is at most 0.8. A set forgets order and number:
    ``x-y`` and ``y-x`` have index 1, and among programs of few operations most pairs are similar by their brackets and commas alone.
    """
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}

    def matrix(texts: Sequence[frozenset[str]]) -> Any:
        columns = [vocabulary.setdefault(token, len(vocabulary)) for text in texts for token in sorted(text)]
        ends = np.cumsum([0, *map(len, texts)])
        return columns, ends

    parts = [matrix(first), matrix(second)]
    rows, others = (csr_matrix((np.ones(len(columns)), columns, ends), (len(ends) - 1, len(vocabulary))) for columns, ends in parts)
    common = np.asarray((rows @ others.T).todense())
    sizes = [np.array([len(text) for text in texts], float) for texts in (first, second)]
    either = sizes[0][:, None] + sizes[1][None, :] - common
    return np.where(either > 0, common / np.where(either > 0, either, 1), 1.0)


def similarity_to_earlier(
    texts: Sequence[str], phases: Sequence[int], pool: int | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, " texts"], Float[np.ndarray, " texts"]]:
    """Compare each text with those of all earlier phases.

    Parameters
    ----------
    texts : tasks.
    phases : (texts,) phase of each, from 0.
    pool : number of earlier texts that a phase is compared with, drawn evenly over them; all if None. By default as many as the smallest
        first phase would have: pass the size of the first phase, so that later phases do not look less new because more is before them.
    seed : of the drawing.

    Returns
    -------
    nearest : (texts,) largest Jaccard index with an earlier text; NaN in the first phase.
    mean : (texts,) mean Jaccard index with earlier texts; NaN in the first phase.

    Notes
    -----
    ``nearest`` grows with the number of earlier texts even if nothing repeats; compare phases at one ``pool`` only.
    """
    if len(texts) != len(phases):
        raise InputError(f"{len(texts)} texts but {len(phases)} phases: expected one of each per task")
    of = np.asarray(phases, int)
    sets = [tokens(text) for text in texts]
    nearest, mean = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for phase in np.unique(of):
        now, before = np.flatnonzero(of == phase), np.flatnonzero(of < phase)
        if pool is not None and len(before) > pool:
            before = np.sort(np.random.default_rng([seed, int(phase)]).permutation(before)[:pool])
        if not len(before):
            continue
        best, total = np.zeros(len(now)), np.zeros(len(now))
        for start in range(0, len(before), BLOCK):
            found = jaccard([sets[index] for index in now], [sets[index] for index in before[start : start + BLOCK]])
            best, total = np.maximum(best, found.max(axis=1)), total + found.sum(axis=1)
        nearest[now], mean[now] = best, total / len(before)
    return nearest, mean


def is_new(skeletons: Sequence[Hashable], phases: Sequence[int]) -> Float[np.ndarray, " tasks"]:
    """Tell whether the skeleton of each task is in no earlier phase: 1 or 0, NaN in the first phase.

    Parameters
    ----------
    skeletons : of each task, see ``structure.Structure``; or normal forms, or anything that equal tasks share.
    phases : (tasks,) phase of each, from 0.

    Notes
    -----
    The share of new ones falls as more is before, as in any finite space; programs of at most four operations have few skeletons.
    """
    first: dict[Hashable, int] = {}
    for skeleton, phase in zip(skeletons, phases, strict=True):
        first[skeleton] = min(phase, first.get(skeleton, phase))
    start = min(phases, default=0)
    return np.array(
        [np.nan if phase == start else float(first[skeleton] == phase) for skeleton, phase in zip(skeletons, phases, strict=True)]
    )


def cumulative(skeletons: Sequence[Hashable]) -> Int[np.ndarray, " tasks"]:
    """Count the distinct skeletons among the first n tasks, for each n; in the order in which they were proposed."""
    seen: set[Hashable] = set()
    counts = []
    for skeleton in skeletons:
        seen.add(skeleton)
        counts.append(len(seen))
    return np.array(counts, np.int64)


def rarefied(skeletons: Sequence[Hashable], size: int) -> float:
    """Compute the expected number of distinct skeletons among ``size`` of these tasks drawn without replacement; NaN if there are fewer.

    It compares phases with different numbers of valid tasks, whose plain counts are not comparable (rarefaction, Hurlbert 1971). The
    expectation is exact: the sum over skeletons of the chance that at least one of its tasks is drawn.
    """
    if size < 1:
        raise InputError(f"size={size}: must be at least 1")
    if len(skeletons) < size:
        return float("nan")
    counts = np.unique(np.unique([str(skeleton) for skeleton in skeletons], return_inverse=True)[1], return_counts=True)[1]
    return float(np.sum(pass_at_k(np.full(len(counts), len(skeletons)), counts, np.full(len(counts), size))))
