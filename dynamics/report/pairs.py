"""The overlaps of the updates of several runs: which runs have one base, and how to count while the weights are in memory anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dynamics.errors import printable
from dynamics.report import cache
from dynamics.report.labels import run_labels
from dynamics.report.section import Options
from dynamics.report.updates import Base, base_of
from dynamics.runs import Run, SavedCheckpoint

if TYPE_CHECKING:
    from dynamics.overlap import Comparison
    from dynamics.overlap.comparison import Aligned, Counts
    from dynamics.sparsity.accumulate import Chunk


@dataclass(frozen=True)
class Pairs:
    """The overlaps of all pairs of runs.

    Attributes
    ----------
    rows : as of ``dynamics.overlap.comparison.table``.
    headline : what to know before any number; empty if there is nothing.
    incomplete : which parameters could not be compared; empty if all were.
    """

    rows: list[dict[str, Any]]
    headline: str
    incomplete: str


@dataclass(frozen=True)
class Sameness:
    """Whether two bases have the same weights."""

    same: bool


@dataclass(frozen=True)
class OfOneBase:
    """The runs whose updates are compared.

    Attributes
    ----------
    base : of all of them.
    labels, last : name and last checkpoint of each, two or more.
    left_out : which other runs are left out, and why, a line each.
    """

    base: Base
    labels: list[str]
    last: list[SavedCheckpoint]
    left_out: list[str]


def of_one_base(runs: Sequence[Run], options: Options) -> OfOneBase | str:
    """Choose the runs whose base is that of the first run that has one; a line if there are fewer than two."""
    found: list[tuple[Base, str, SavedCheckpoint]] = []
    left_out: list[str] = []
    for run, label in zip(runs, run_labels(runs), strict=True):
        base, problem = base_of(run, options)
        if base is None or not run.checkpoints:
            left_out.append(f"{label}: left out of the overlap: {problem or 'has no complete checkpoint'}")
        elif found and not same_base(base, found[0][0], options):
            left_out.append(f"{label}: left out of the overlap: its base is {printable(base.name)}, not {printable(found[0][0].name)}")
        else:
            found.append((base, label, run.checkpoints[-1]))
    if len(found) < 2:
        return "; ".join(left_out) + "; runs of one base are compared, and --base names it for all"
    return OfOneBase(found[0][0], [label for _, label, _ in found], [saved for *_, saved in found], left_out)


def same_base(one: Base, other: Base, options: Options) -> bool:
    """Tell whether two runs start from the same weights: by their files, or by comparing the weights as stored."""
    from dynamics.sparsity import compare

    if one.name == other.name or (one.files is not None and one.files == other.files):
        return True
    shapes = [{name: (tensor.shape, tensor.dtype) for name, tensor in base.checkpoint.tensors.items()} for base in (one, other)]
    if shapes[0] != shapes[1]:
        return False
    place = cache.entry(options, "sameness", [one.source, other.source], {}, Sameness)
    return cache.measured(place, lambda: Sameness(not compare(one.checkpoint, other.checkpoint).total.changed["exact"])).same


def entry(of: OfOneBase, options: Options) -> cache.Entry[Pairs]:
    """Make the entry of the overlaps in the cache."""
    return cache.entry(options, "overlap", [of.base.source, *(saved.path for saved in of.last)], {}, Pairs)


def measured(of: OfOneBase, options: Options) -> Pairs:
    """Return the overlaps that this report or an earlier one counted, or read all checkpoints and count them.

    Raises
    ------
    InputError : a checkpoint cannot be read or matched.
    """
    from dynamics.overlap import compare

    def measure() -> Pairs:
        tell = options.progress
        progress = (lambda done, weights: tell("comparing the updates of the runs", done, weights)) if tell is not None else None
        return _plain(compare(of.base.checkpoint, [str(saved.path) for saved in of.last], progress=progress))

    return cache.measured(entry(of, options), measure)


def _plain(comparison: Comparison) -> Pairs:
    from dynamics.overlap import table

    return Pairs(table(comparison).to_dict("records"), comparison.headline, comparison.incomplete)  # type: ignore[arg-type]


class Collector:
    """Counts the overlaps of the last checkpoints of several runs as their weights are seen.

    Parameters
    ----------
    aligned : the last checkpoints.
    numbers : of each, the number by which ``see`` gets it.
    """

    def __init__(self, aligned: Aligned, numbers: Sequence[int]):
        from dynamics.overlap.comparison import Counts

        self.aligned, self.numbers = aligned, list(numbers)
        self.counts: dict[str, Counts] = {name: Counts.empty(len(self.numbers)) for name in aligned.sets}

    @staticmethod
    def is_possible(aligned: Aligned) -> bool:
        """Tell whether all updates of a tensor are seen together: they are updates of the same bytes of the base."""
        bases = [{pair.name: pair.base for pair in match.pairs} for match in aligned.matches]
        return all(
            members[0].source is not None
            and all((of[name].source, of[name].dtype) == (members[0].source, members[0].dtype) for of in bases)
            for name, members in aligned.sets.items()
        )

    @property
    def pairs(self) -> Pairs:
        """The overlaps, when all weights were seen."""
        from dynamics.overlap.comparison import from_counts

        return _plain(from_counts(self.aligned, self.counts))

    def see(self, chunk: Chunk) -> Callable[[], object] | None:
        """Count the weights of a chunk, on any thread; return what adds the counts, to be called in the order of the chunks."""
        from dynamics.overlap.comparison import chunk_length, count_masks

        by_name: dict[str, dict[int, tuple[str, Any]]] = {}
        for number, pair, stored in chunk.tuned:
            if number in self.numbers and pair.name in self.counts:
                by_name.setdefault(pair.name, {})[number] = (pair.tuned.dtype, stored)
        parts: list[tuple[str, list[Counts]]] = []
        for name, of in by_name.items():
            dtypes = [self.aligned.sets[name][0].dtype, *(of[number][0] for number in self.numbers)]
            sides = [chunk.base, *(of[number][1] for number in self.numbers)]
            step = chunk_length(dtypes)
            starts = range(0, chunk.base.size, step)
            parts.append((name, [count_masks([side[start : start + step] for side in sides], dtypes) for start in starts]))
        return partial(self._add, parts) if parts else None

    def _add(self, parts: Sequence[tuple[str, Sequence[Counts]]]) -> None:
        for name, counts in parts:
            for each in counts:
                self.counts[name] += each
