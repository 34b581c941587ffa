"""Cut a comparison, or a series of them, into the pairs of tensors that it consists of, and put it together from their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynamics.checkpoints import Checkpoint, Skip, open_base, open_checkpoint
from dynamics.checkpoints.matching import Match, Pair
from dynamics.cluster.sides import rebuilt, unread
from dynamics.cluster.work import Record, Work, record
from dynamics.io.paths import repeated
from dynamics.io.threads import Progress
from dynamics.sparsity.accumulate import DiffStats, accumulate_pairs
from dynamics.sparsity.comparison import from_statistics, match_applied, pairs_of_series, steps_of, thresholds_of
from dynamics.sparsity.results import Comparison, Step

MEASURE = "dynamics.sparsity"


def open_work(sources: list[str], settings: dict[str, Any]) -> Work:
    """Match two checkpoints, or the pairs of a series of more.

    Parameters
    ----------
    sources : paths, Hub ids or URLs; of a series in its order.
    settings : ``rtol``, ``atol``, ``like``, as for ``compare``.
    """
    thresholds = thresholds_of(**settings)
    first, *later = sources
    opened = [open_base(first), *map(open_checkpoint, later)]
    sides: list[tuple[str, Checkpoint]] = []
    places: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    pairs: list[Pair] = []
    for start, end, before, after in pairs_of_series(opened):
        applied, adapters, match = match_applied(before, after)
        sides += [(_role(start, sources), before), (_role(end, sources), applied)]
        places.append({"notes": match.notes, "adapters": adapters})
        skipped = [asdict(skip) for skip in match.skipped]
        of_pairs = [[pair.name, pair.base.shape, pair.base.dtype, pair.tuned.dtype] for pair in match.pairs]
        rest.append({"start": start, "end": end, "pairs": of_pairs, "skipped": skipped})
        pairs += match.pairs
    sizes = [sum(side.numel * side.storage.itemsize for side in (pair.base, pair.tuned)) for pair in pairs]

    def tally(units: Sequence[int], threads: int | None, progress: Progress | None) -> list[Any]:
        return [stats.to_dict() for stats in accumulate_pairs([pairs[unit] for unit in units], thresholds, threads, progress)]

    located = {"paths": [checkpoint.path for checkpoint in opened], "repeated": repeated(sources), "comparisons": places}
    return Work(record(MEASURE, settings, sides, sizes, located, rest), [checkpoint for _, checkpoint in sides], tally)


def _role(number: int, sources: Sequence[str]) -> str:
    return f"checkpoint {number + 1}" if len(sources) > 2 else ("BASE", "TUNED")[number]


def result(record: Record, tallies: Sequence[Any]) -> tuple[Comparison, list[Step]]:
    """Return the comparison, and of a series its steps, as one process makes them from the statistics of all pairs."""
    statistics = iter(tallies)
    paths: list[str] = record.places["paths"]
    comparisons: dict[tuple[int, int], Comparison] = {}
    for number, (place, of) in enumerate(zip(record.places["comparisons"], record.rest, strict=True)):
        base, tuned = (rebuilt(side) for side in record.sides[2 * number : 2 * number + 2])
        pairs = [Pair(name, unread(name, shape, a), unread(name, shape, b)) for name, shape, a, b in of["pairs"]]
        match = Match(pairs, [Skip(**skip) for skip in of["skipped"]], place["notes"])
        stats = [(pair, DiffStats.from_dict(next(statistics))) for pair in pairs]
        comparisons[of["start"], of["end"]] = from_statistics(base, tuned, match, stats, place["adapters"], **record.settings)
    if len(paths) > 2:
        steps = steps_of(comparisons, paths, record.places["repeated"])
        return comparisons[0, len(paths) - 1], steps
    comparisons[0, 1].notes.extend(record.places["repeated"])
    return comparisons[0, 1], []
