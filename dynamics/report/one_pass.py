"""One pass over the files of a base and of the checkpoints of all its runs, for all sections on weights.

``take`` measures what these sections will ask for, and keeps it in the store of the report and in the cache. What it cannot measure, such
as a checkpoint that cannot be read, it leaves to the sections: they measure what they do not find, and say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamics.checkpoints import open_checkpoint
from dynamics.errors import InputError
from dynamics.extras import require
from dynamics.report import cache, matrices, pairs
from dynamics.report.labels import run_labels
from dynamics.report.section import Options
from dynamics.report.updates import Base, Update, base_of, compared, entries, plain, spread
from dynamics.runs import Run, SavedCheckpoint

#: weights that are compared in the time in which one is decomposed, roughly: for the progress
DECOMPOSED = 300


@dataclass
class _Pass:
    """What is measured in one pass.

    Attributes
    ----------
    base : of all checkpoints.
    labels : of the runs.
    updates : entry and checkpoint of each comparison that is new.
    spectra : entry, checkpoint and matrices of each decomposition that is new.
    overlap : the runs whose overlaps are new, and their entry.
    """

    base: Base
    labels: list[str] = field(default_factory=list)
    updates: list[tuple[cache.Entry[Update], SavedCheckpoint]] = field(default_factory=list)
    spectra: list[tuple[cache.Entry[matrices.Spectra], SavedCheckpoint, matrices.Wanted]] = field(default_factory=list)
    overlap: tuple[cache.Entry[pairs.Pairs], pairs.OfOneBase] | None = None

    @property
    def saves_reading(self) -> bool:
        """Whether more than one measure is new, so that files would be read more than once."""
        return bool(self.updates) + len(self.spectra) + (self.overlap is not None) > 1 or (len(self.labels) > 1 and len(self.updates) > 1)

    @property
    def checkpoints(self) -> list[SavedCheckpoint]:
        """All checkpoints that are read, each once."""
        last = self.overlap[1].last if self.overlap is not None else []
        all_of_them = [*(saved for _, saved in self.updates), *(saved for _, saved, _ in self.spectra), *last]
        return list({saved.path: saved for saved in all_of_them}.values())


def take(runs: Sequence[Run], options: Options) -> None:
    """Measure what the sections on weights need of some runs, reading each file once."""
    for each in _passes(runs, options):
        if each.saves_reading:
            _measure(each, options)


def _passes(runs: Sequence[Run], options: Options) -> list[_Pass]:
    """Find out what is new, by base."""
    passes: dict[str, _Pass] = {}
    for run, label in zip(runs, run_labels(runs), strict=True):
        base, _ = base_of(run, options)
        if base is None or not (checkpoints := compared(run, base)):
            continue
        of = passes.setdefault(_key(base), _Pass(base))
        of.labels.append(label)
        chosen = spread(checkpoints)
        places = zip(entries(base, chosen, options), chosen, strict=True)
        of.updates += [(place, saved) for place, saved in places if place.read() is None]
        of.spectra += _new_spectra(base, checkpoints[-1], options)
    together = pairs.of_one_base(runs, options) if len(runs) > 1 else ""
    if isinstance(together, pairs.OfOneBase) and (of_base := passes.get(_key(together.base))) is not None:
        place = pairs.entry(together, options)
        if place.read() is None:
            of_base.overlap = place, together
    return list(passes.values())


def _key(base: Base) -> str:
    return repr(base.files or base.name)


def _new_spectra(
    base: Base, saved: SavedCheckpoint, options: Options
) -> Iterator[tuple[cache.Entry[matrices.Spectra], SavedCheckpoint, matrices.Wanted]]:
    try:
        require(("torch",), "measuring spectra")
        wanted = matrices.wanted(base, saved, options)
    except InputError:
        return  # the section says why
    place = matrices.entry(base, saved, wanted, options)
    if place.read() is None:
        yield place, saved, wanted


def _measure(of: _Pass, options: Options) -> None:
    """Take a pass; if checkpoints cannot be read, without them."""
    try:
        _read(of, options)
    except InputError:
        broken = [saved.path for saved in of.checkpoints if not _is_comparable(of.base, saved)]
        of.updates = [each for each in of.updates if each[1].path not in broken]
        of.spectra = [each for each in of.spectra if each[1].path not in broken]
        if of.overlap is not None and any(saved.path in broken for saved in of.overlap[1].last):
            of.overlap = None
        if not broken or not of.checkpoints:
            return
        try:
            _read(of, options)
        except InputError:
            return  # the sections measure each alone


def _is_comparable(base: Base, saved: SavedCheckpoint) -> bool:
    from dynamics.checkpoints.matching import match

    try:
        checkpoint = open_checkpoint(str(saved.path))
        applied = checkpoint if checkpoint.adapter is None else checkpoint.adapter.apply_to_base(base.checkpoint)[0]
        match(base.checkpoint, applied)
    except InputError:
        return False
    return True


def _read(of: _Pass, options: Options) -> None:
    from dynamics.overlap.comparison import align
    from dynamics.sparsity import compare_all
    from dynamics.sparsity.accumulate import Chunk

    checkpoints = of.checkpoints
    numbers = {saved.path: number for number, saved in enumerate(checkpoints)}
    progress = _Progress(of, options)
    decomposed = {
        numbers[saved.path]: matrices.Collector(wanted, matrices.factors_of(of.base, saved), progress.decomposed)
        for _, saved, wanted in of.spectra
    }
    overlaps: pairs.Collector | None = None
    if of.overlap is not None:
        last = of.overlap[1].last
        aligned = align(of.base.checkpoint, [str(saved.path) for saved in last])
        if pairs.Collector.is_possible(aligned):
            overlaps = pairs.Collector(aligned, [numbers[saved.path] for saved in last])

    def seen(chunk: Chunk) -> Callable[[], object]:
        steps = [decomposed[number].see(chunk, pair, stored) for number, pair, stored in chunk.tuned if number in decomposed]
        steps += [overlaps.see(chunk)] if overlaps is not None else []
        return lambda: [step() for step in steps if step is not None]

    watched = {*decomposed, *(overlaps.numbers if overlaps is not None else ())}
    comparisons = compare_all(
        of.base.checkpoint, [str(saved.path) for saved in checkpoints], progress=progress.compared, seen=seen, of=watched
    )
    for place, saved in of.updates:
        place.write(plain(comparisons[numbers[saved.path]]))
    for of_spectra, saved, _ in of.spectra:
        if (spectra := decomposed[numbers[saved.path]].spectra) is not None:
            of_spectra.write(spectra)
    if of.overlap is not None and overlaps is not None:
        of.overlap[0].write(overlaps.pairs)


class _Progress:
    """Adds up what a pass has done: weights compared, and weights decomposed, which takes longer."""

    def __init__(self, of: _Pass, options: Options):
        self._tell: Any = options.progress
        self._name = f"measuring the update{'s' if len(of.labels) > 1 else ''} of {', '.join(of.labels)}"
        self._extra = DECOMPOSED * sum(wanted.numel for *_, wanted in of.spectra)
        self._compared, self._total, self._decomposed = 0, 0, 0

    def compared(self, done: int, total: int) -> None:
        """Tell how much was compared; before the first matrix, which sets the pace, nothing counts as done."""
        self._total = total
        self._compared = done if self._decomposed or not self._extra else 0
        self._show()

    def decomposed(self, weights: int) -> None:
        """Tell that a matrix was decomposed."""
        self._decomposed += DECOMPOSED * weights
        self._show()

    def _show(self) -> None:
        if self._tell is not None:
            self._tell(self._name, self._compared + self._decomposed, self._total + self._extra)
