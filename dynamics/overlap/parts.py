"""Cut an overlap into the tensors that all checkpoints have, and put it together from their counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynamics.checkpoints import Skip
from dynamics.checkpoints.matching import Match, Pair
from dynamics.cluster.sides import rebuilt, unread
from dynamics.cluster.work import Record, Work, record
from dynamics.io.threads import Progress, cores
from dynamics.overlap.comparison import Aligned, Comparison, Counts, align, count, from_counts

MEASURE = "dynamics.overlap"


def open_work(sources: list[str], settings: dict[str, Any]) -> Work:
    """Match the updates of one base.

    Parameters
    ----------
    sources : paths, Hub ids or URLs: the base, and two or more tuned checkpoints in the order that counts.
    settings : ``rtol``, ``atol``, as for ``compare``.
    """
    first, *others = sources
    aligned = align(first, others)
    sets = list(aligned.sets.values())

    def tally(units: Sequence[int], threads: int | None, progress: Progress | None) -> list[Any]:
        counted = count([sets[unit] for unit in units], settings["rtol"], settings["atol"], threads or cores(), progress)
        return [counts.to_dict() for counts in counted]

    rest = {
        "sets": [[name, tensors[0].shape, [tensor.dtype for tensor in tensors]] for name, tensors in aligned.sets.items()],
        "compared": [sum(pair.base.numel for pair in match.pairs) for match in aligned.matches],
        "skipped_of": [[asdict(skip) for skip in match.skipped] for match in aligned.matches],
        "skipped": [asdict(skip) for skip in aligned.skipped],
    }
    roles = ["BASE", *(f"TUNED {number}" for number in range(1, len(sources)))]
    sides = list(zip(roles, [aligned.base, *aligned.tuned], strict=True))
    sizes = [sum(tensor.numel * tensor.storage.itemsize for tensor in tensors) for tensors in sets]
    return Work(record(MEASURE, settings, sides, sizes, aligned.notes, rest), [checkpoint for _, checkpoint in sides], tally)


def result(record: Record, tallies: Sequence[Any]) -> Comparison:
    """Return the comparison, as one process makes it from the counts of all tensors."""
    base, *tuned = map(rebuilt, record.sides)
    rest = record.rest
    sets = {name: [unread(name, shape, dtype) for dtype in dtypes] for name, shape, dtypes in rest["sets"]}
    matches = []
    for numel, skipped in zip(rest["compared"], rest["skipped_of"], strict=True):
        whole = unread("all that was compared", [numel], "float32")
        matches.append(Match([Pair(whole.name, whole, whole)], [Skip(**skip) for skip in skipped]))
    aligned = Aligned(base, tuned, matches, sets, [Skip(**skip) for skip in rest["skipped"]], record.places)
    counted = {name: Counts.from_dict(len(tuned), tally) for name, tally in zip(sets, tallies, strict=True)}
    return from_counts(aligned, counted, **record.settings)
