"""Compare two checkpoints, or a series of checkpoints, weight by weight."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints import Checkpoint, Source, open_base, open_checkpoint
from dynamics.checkpoints.parameter_names import OUTSIDE, module_order
from dynamics.errors import InputError, did_you_mean, printable
from dynamics.io.paths import natural_order, repeated
from dynamics.sparsity.definitions import PAPERS, Thresholds, mukherjee_threshold
from dynamics.sparsity.notes import explain
from dynamics.sparsity.results import STEPS, Comparison, Row, Step, flat_record

if TYPE_CHECKING:
    import pandas as pd

    from dynamics.checkpoints.matching import Match, Pair
    from dynamics.io.threads import Progress
    from dynamics.sparsity.accumulate import Chunk, DiffStats, Seen


def compare(
    base: Source,
    tuned: Source,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    like: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    digest: bool = False,
) -> Comparison:
    """Compare two checkpoints weight by weight, in one pass over their files.

    Parameters
    ----------
    base, tuned : see ``dynamics.checkpoints.open_checkpoint``; ``tuned`` may be a LoRA adapter folder.
    rtol, atol : thresholds of the rules of the same names.
    like : a key of ``definitions.PAPERS``; also compute the sparsity as that paper does, in ``Comparison.like``.
    threads : number of threads; one per core if None.
    progress : called with (weights done, total weights).
    digest : whether to compute the digests of both sides' weights from what is read, see ``dynamics.checkpoints.digest``. This takes
        several times as long as the comparison. Tensors that are not compared, or not as a whole, are read for it afterwards.

    Raises
    ------
    InputError : a checkpoint that cannot be read, two that have nothing in common, or a shape that differs.

    Examples
    --------
    >>> import numpy as np
    >>> before = {"w": np.array([1.0, 2.0, 3.0, 4.0], np.float32)}
    >>> after = {"w": np.array([1.0, 2.0, 3.0, 4.5], np.float32)}
    >>> compare(before, after).total.sparsity["exact"]
    0.75
    """
    return compare_all(base, [tuned], rtol=rtol, atol=atol, like=like, threads=threads, progress=progress, digest=digest)[0]


def compare_all(
    base: Source,
    tuned: Sequence[Source],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    like: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    seen: Seen | None = None,
    of: Collection[int] = (),
    digest: bool = False,
) -> list[Comparison]:
    """Compare several checkpoints with one base, in one pass over all files: the base is read once.

    Parameters
    ----------
    base, rtol, atol, like, threads, progress, digest : as for ``compare``.
    tuned : the other checkpoints, each as for ``compare``.
    seen, of : what else is done with the weights while they are in memory, for the checkpoints with these indices; see
        ``accumulate.Chunk``.

    Returns
    -------
    The comparison that ``compare`` makes of each, in order.
    """
    before, opened = open_base(base), [open_checkpoint(source) for source in tuned]
    jobs = [(before, other) for other in opened]
    comparisons = _compare_jobs(jobs, rtol, atol, like, threads, progress, digest, seen, of)
    for source, comparison in zip(tuned, comparisons, strict=True):
        comparison.notes.extend(repeated([base, source]))
    return comparisons


def _compare_jobs(
    jobs: Sequence[tuple[Checkpoint, Checkpoint]],
    rtol: float,
    atol: float,
    like: str | None,
    threads: int | None,
    progress: Progress | None,
    digest: bool,
    seen: Seen | None = None,
    of: Collection[int] = (),
) -> list[Comparison]:
    """Compare pairs of checkpoints in one pass in which every tensor is read once; see ``compare_all``."""
    from dynamics.sparsity.accumulate import accumulate_pairs
    from dynamics.sparsity.hashing import Digests

    thresholds = thresholds_of(rtol, atol, like)
    matched = [match_applied(before, other) for before, other in jobs]
    numbers = [number for number, (*_, match) in enumerate(matched) for _ in match.pairs]
    pairs_of_all = [pair for *_, match in matched for pair in match.pairs]
    wanted = {index for index, number in enumerate(numbers) if number in of}
    digests = Digests([side for job in jobs for side in job], pairs_of_all) if digest else None

    def seen_by_all(chunk: Chunk) -> Callable[[], object]:
        of_checkpoints = [(numbers[index], pair, stored) for index, pair, stored in chunk.tuned if index in wanted]
        steps = [seen(replace(chunk, tuned=of_checkpoints))] if seen is not None and of_checkpoints else []
        steps += [digests.see(chunk)] if digests is not None else []
        return lambda: [step() for step in steps]

    made = accumulate_pairs(
        pairs_of_all,
        thresholds,
        threads,
        progress if digests is None else digests.counted_by(progress),
        seen=seen_by_all if seen is not None or digests is not None else None,
        of=wanted if digests is None else range(len(pairs_of_all)),
    )
    if digests is not None:
        digests.finish(threads)
    stats = iter(made)
    comparisons = []
    for (before, other), (after, adapters, match) in zip(jobs, matched, strict=True):
        pairs = [(pair, next(stats)) for pair in match.pairs]
        comparison = from_statistics(before, after, match, pairs, adapters, rtol, atol, like)
        if digests is not None:
            digests.enter(comparison, before, other)
        comparisons.append(comparison)
    return comparisons


def thresholds_of(rtol: float, atol: float, like: str | None) -> Thresholds:
    """Check the settings of ``compare`` and return what the kernels need of them; an ``InputError`` for settings that no rule has."""
    if like is not None and like not in PAPERS:
        raise InputError(f"like={like!r}: there are {', '.join(PAPERS)}{did_you_mean(like, PAPERS)}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name}={value}: must be a number of at least 0")
    return Thresholds(rtol, atol, mukherjee_threshold(atol) if like == "mukherjee" else None)


def match_applied(base: Checkpoint, tuned: Checkpoint) -> tuple[Checkpoint, list[dict[str, Any]], Match]:
    """Match a checkpoint with its base; of an adapter, what it makes of the base, with a record of each of its factors."""
    from dynamics.checkpoints.matching import match

    adapters: list[dict[str, Any]] = []
    if tuned.adapter is not None:
        tuned, adapters = tuned.adapter.apply_to_base(base)
    return tuned, adapters, match(base, tuned)


def from_statistics(
    base: Checkpoint,
    tuned: Checkpoint,
    matched: Match,
    pairs: list[tuple[Pair, DiffStats]],
    adapters: list[dict[str, Any]],
    rtol: float,
    atol: float,
    like: str | None,
) -> Comparison:
    """Derive the comparison from the statistics of each pair of a match; the other arguments are those that they were made with."""
    from dynamics.checkpoints import parameter_names
    from dynamics.sparsity.accumulate import total

    stats_of_pairs = [stats for _, stats in pairs]
    total_stats = total(stats_of_pairs)
    comparison = Comparison(
        base,
        tuned,
        row("total", total_stats),
        _groups(pairs, lambda pair: parameter_names.layer(pair.name) or OUTSIDE, parameter_names.layer_order),
        _groups(pairs, lambda pair: parameter_names.kind(pair.name), module_order),
        [row(pair.name, stats, pair) for pair, stats in pairs],
        matched.skipped,
        list(matched.notes),
        rtol,
        atol,
        _paper_number(like, total_stats) if like else None,
        adapters,
    )
    comparison.notes.extend(explain(comparison))
    return comparison


def row(name: str, stats: DiffStats, pair: Pair | None = None) -> Row:
    """Derive the public numbers from the statistics of a set of weights."""
    from dynamics.sparsity import kernels

    counts, sums = stats.counts.tolist(), stats.sums.tolist()
    numel = counts[kernels.NUMEL]
    exact, bf16, rtol, atol = counts[kernels.EXACT], counts[kernels.BF16], counts[kernels.RTOL], counts[kernels.ATOL]
    changed = {"exact": exact, "bf16": bf16, "rtol": rtol, "atol": atol}
    base, tuned, update = math.sqrt(sums[kernels.BASE]), math.sqrt(sums[kernels.TUNED]), math.sqrt(sums[kernels.UPDATE])
    distance = _cosine_distance(base, tuned, sums[kernels.UPDATE], sums[kernels.CROSS])
    return Row(
        name,
        numel,
        changed,
        {rule: 1 - count / numel if numel else math.nan for rule, count in changed.items()},
        dict(zip(STEPS, stats.ulp_bins.tolist(), strict=True)),
        base,
        update,
        update / base if base else math.nan,
        1 - distance,
        distance,
        float(stats.peak[0]),
        counts[kernels.NONFINITE],
        pair.base.shape if pair else None,
        pair.base.dtype if pair else None,
        pair.tuned.dtype if pair else None,
    )


def _cosine_distance(base: float, tuned: float, update_squared: float, cross: float) -> float:
    """1 - cos = (|d|^2 - (|b| - |a|)^2) / (2 |a| |b|), with |b| - |a| = (2 a.d + |d|^2) / (|a| + |b|): no cancellation when b is near a."""
    if not base or not tuned:
        return math.nan
    longer = (2 * cross + update_squared) / (base + tuned)
    return min(2.0, max(0.0, (update_squared - longer * longer) / (2 * base * tuned)))


def _paper_number(like: str, stats: DiffStats) -> dict[str, Any]:
    from dynamics.sparsity import kernels

    numel = int(stats.counts[kernels.NUMEL])
    changed = stats.beyond_bf16 if like == "mukherjee" else int(stats.counts[kernels.BF16])
    paper = PAPERS[like]
    return {"paper": paper.title, "rule": paper.text, "changed": changed, "sparsity": 1 - changed / numel if numel else math.nan}


def _groups(pairs: list[tuple[Pair, DiffStats]], of: Callable[[Pair], str], order: Callable[[str], Any]) -> list[Row]:
    from dynamics.sparsity.accumulate import total

    groups: dict[str, list[DiffStats]] = {}
    for pair, stats in pairs:
        groups.setdefault(of(pair), []).append(stats)
    return [row(name, total(groups[name])) for name in sorted(groups, key=order)]


def series(
    sources: Sequence[Source],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    like: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    digest: bool = False,
) -> list[Step]:
    """Compare each checkpoint with the first, and each with its predecessor, in one pass in which every file is read once.

    Parameters
    ----------
    sources : the base, then the later checkpoints. Of more than two, paths that differ only in their numbers are sorted in natural
        order (``checkpoint-50`` before ``checkpoint-1000``), the base too; with mappings among them the order is kept.
    rtol, atol, like, threads, progress, digest : as for ``compare``.

    Returns
    -------
    The steps against the first checkpoint, then those against the predecessor. The first step appears in both parts and is computed once.
    """
    if len(sources) < 2:
        raise InputError(f"a series needs two checkpoints or more, got {len(sources)}")
    paths = [source for source in sources if isinstance(source, (str, os.PathLike))]
    ordered = natural_order(paths) if len(paths) == len(sources) > 2 else sources
    opened = [open_checkpoint(source) for source in ordered]
    pairs = pairs_of_series(opened)
    made = _compare_jobs([(before, after) for _, _, before, after in pairs], rtol, atol, like, threads, progress, digest)
    comparisons = {(start, end): comparison for (start, end, *_), comparison in zip(pairs, made, strict=True)}
    for (_, _, before, after), comparison in zip(pairs, made, strict=True):
        comparison.notes.extend(repeated([before, after]))
    return steps_of(comparisons, [checkpoint.path for checkpoint in opened], repeated(ordered))


def pairs_of_series(opened: Sequence[Checkpoint]) -> list[tuple[int, int, Checkpoint, Checkpoint]]:
    """List what a series compares: the numbers of two checkpoints, and the checkpoints, with adapters applied where that is needed."""
    first, *later = opened
    applied = [first, *(other if other.adapter is None else other.adapter.apply_to_base(first)[0] for other in later)]
    return [
        *((0, end, first, opened[end]) for end in range(1, len(opened))),
        *((end - 1, end, applied[end - 1], applied[end]) for end in range(2, len(opened))),
    ]


def steps_of(comparisons: Mapping[tuple[int, int], Comparison], paths: Sequence[str], remarks: Sequence[str]) -> list[Step]:
    """Arrange the comparisons of ``pairs_of_series`` as ``series`` returns them, with remarks on the whole series."""
    last = len(paths) - 1
    jobs = [("first", 0, end) for end in range(1, last + 1)] + [("previous", end - 1, end) for end in range(1, last + 1)]
    unchanged = [
        f"{printable(paths[end])}: identical to the checkpoint before it, {printable(paths[start])}"
        for against, start, end in jobs
        if against == "previous" and comparisons[start, end].headline.startswith("identical") and not repeated([paths[start], paths[end]])
    ]
    comparisons[0, last].notes.extend([*remarks, *unchanged])
    return [Step(against, paths[start], paths[end], comparisons[start, end]) for against, start, end in jobs]


def series_dict(steps: Sequence[Step]) -> dict[str, Any]:
    """Build the JSON document of a series: the full comparison of the last checkpoint with the first, and the total of each step."""
    document = last_against_first(steps).to_dict()
    document["series"] = [
        {"from": step.start, "to": step.end, "against": step.against, "total": step.comparison.total.to_dict()}
        | ({"digests": step.comparison.digests} if step.comparison.digests else {})
        for step in steps
    ]
    return document


def last_against_first(steps: Sequence[Step]) -> Comparison:
    """Return the comparison of the last checkpoint of a series with the first."""
    return [step.comparison for step in steps if step.against == "first"][-1]


def headline(comparison: Comparison, steps: Sequence[Step] = ()) -> str:
    """Return the headline of a comparison; of a series, it says that it is about the last checkpoint against the first."""
    about = "the last checkpoint of the series against its first: " if steps and comparison.headline else ""
    return about + comparison.headline


def incomplete(comparison: Comparison, steps: Sequence[Step] = ()) -> str:
    """Name the first comparison that left parameters out, of a series or alone; return an empty text if there is none."""
    for step in steps:
        if step.comparison.incomplete:
            return f"{printable(step.start)} -> {printable(step.end)}: {step.comparison.incomplete}"
    return comparison.incomplete


def table(comparison: Comparison, steps: Sequence[Step] = ()) -> pd.DataFrame:
    """Return all rows of a comparison as one tidy table; ``level`` is total, layer, module, tensor or, for a series, step."""
    import pandas as pd

    parts = (("total", [comparison.total]), ("layer", comparison.layers), ("module", comparison.modules), ("tensor", comparison.rows))
    records = [flat_record(level, row) for level, rows in parts for row in rows]
    for step in steps:
        name = f"{step.start} -> {step.end}"
        records.append(flat_record("step", step.comparison.total) | {"name": name, "against": step.against})
    return pd.DataFrame(records)
