"""The updates that the sections on weights are about: of the base to each checkpoint of a run, measured once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from dynamics.checkpoints import Checkpoint, open_base
from dynamics.checkpoints.identity import identity
from dynamics.errors import InputError, printable
from dynamics.io.locations import without_secrets
from dynamics.report import cache
from dynamics.report.section import Options
from dynamics.runs import Run, SavedCheckpoint
from dynamics.runs.nearby import exists, nearby
from dynamics.sparsity.results import Comparison, Row

#: checkpoints of a run that are compared with its base; of more, every second, fourth, eighth, ... and the last
MOST_CHECKPOINTS = 24
Item = TypeVar("Item")


@dataclass(frozen=True)
class Base:
    """What the checkpoints of a run are compared with.

    Attributes
    ----------
    name : path or Hub id, as commands take it.
    checkpoint : opened.
    first : the checkpoint of the run that stands in for a base that is not known or cannot be read; None if the base is used.
    problem : why the base cannot be used, in a line; empty if it is, or if nothing says what it is.
    """

    name: str
    checkpoint: Checkpoint
    first: SavedCheckpoint | None = None
    problem: str = ""

    @property
    def called(self) -> str:
        """The base within a sentence: ``the base``, or the checkpoint that stands in for it."""
        return "the base" if self.first is None else f"{step_name(self.first)} (the first checkpoint, as the base is not known)"

    @property
    def short(self) -> str:
        """The base in a few words."""
        return "the base" if self.first is None else step_name(self.first)

    @property
    def source(self) -> Path | Checkpoint:
        """What identifies its files in the cache."""
        return Path(self.name) if exists(self.name) else self.checkpoint

    @property
    def files(self) -> list[Any] | None:
        """What two bases of the same files have in common, see ``checkpoints.identity``."""
        return identity(self.source)


def base_of(run: Run, options: Options) -> tuple[Base | None, str]:
    """Find the base of a run: the one that is asked for, the one its files name, or else its first checkpoint.

    Returns
    -------
    base : None if there is nothing to compare with.
    problem : why the base cannot be read, or that nothing names one; empty if it is used.
    """
    named, problem = options.base or run.base, "no file says which model training started from; name it with --base"
    if named:
        name = nearby(named, run.path)
        checkpoint, problem = _opened_locally(name) if exists(name) else _opened_elsewhere(name)
        if checkpoint is not None:
            return Base(name, checkpoint), ""
    later = [saved for saved in run.checkpoints if not saved.adapter]
    if len(later) < 2:
        return None, problem
    first, broken = _opened_locally(str(later[0].path))
    if first is None:
        return None, f"{problem}; {broken}"
    return Base(str(later[0].path), first, later[0], problem), problem


def _opened_locally(name: str) -> tuple[Checkpoint | None, str]:
    try:
        return open_base(name, "--base"), ""
    except InputError as error:
        return None, str(error)


@lru_cache(maxsize=16)
def _opened_elsewhere(name: str) -> tuple[Checkpoint | None, str]:
    """Open a model of the Hub or of an object store, once: asking for it can take many seconds."""
    return _opened_locally(name)


def spread(items: Sequence[Item], most: int = MOST_CHECKPOINTS) -> list[Item]:
    """Choose at most ``most`` items, the first, the last, and evenly between; as items are added, those chosen earlier mostly stay.

    >>> spread(range(10), 6)
    [0, 2, 4, 6, 8, 9]
    """
    stride = 1
    while -(-len(items) // stride) + 1 > most and len(items) > most:
        stride *= 2
    chosen = list(items[::stride])
    return chosen if (len(items) - 1) % stride == 0 else [*chosen, items[-1]]


def compared(run: Run, base: Base) -> list[SavedCheckpoint]:
    """List the checkpoints of a run that can be compared with its base: all but the one that stands in for it."""
    return [saved for saved in run.checkpoints if base.first is None or saved.path != base.first.path]


@dataclass(frozen=True)
class Update:
    """What ``dynamics.sparsity.compare`` measured of two checkpoints, as plain values.

    Attributes
    ----------
    base_dtypes, tuned_dtypes : number of weights by dtype as stored.
    total, modules, layers, tensors : see ``dynamics.sparsity.Comparison``.
    adapter : whether the update is that of a LoRA adapter.
    dequantised : whether a side is quantised.
    incomplete : which parameters could not be compared; empty if all were.
    notes : on how to read the numbers.
    ranks : of the factors of an adapter, each once.
    """

    base_dtypes: dict[str, int]
    tuned_dtypes: dict[str, int]
    total: Row
    modules: list[Row]
    layers: list[Row]
    tensors: list[Row]
    adapter: bool
    dequantised: bool
    incomplete: str
    notes: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    @property
    def trained(self) -> list[Row]:
        """The kinds of module of which a stored value changed."""
        return [row for row in self.modules if row.changed["exact"]]


def entries(base: Base, checkpoints: Sequence[SavedCheckpoint], options: Options) -> list[cache.Entry[Update]]:
    """Make the entry of each comparison in the cache."""
    return [cache.entry(options, "sparsity", [base.source, saved.path], {}, Update) for saved in checkpoints]


def updates(
    base: Base, checkpoints: Sequence[SavedCheckpoint], options: Options, progress: Callable[[int, int], None] | None = None
) -> list[Update | str]:
    """Compare checkpoints with a base in one pass, but for those that an earlier report measured.

    Returns
    -------
    Of each checkpoint its update, or why it cannot be read or compared.
    """
    from dynamics.sparsity import compare, compare_all

    places = entries(base, checkpoints, options)
    results: list[Update | str | None] = [place.read() for place in places]
    new = [index for index, result in enumerate(results) if result is None]
    try:
        made = compare_all(base.checkpoint, [str(checkpoints[index].path) for index in new], progress=progress) if new else []
        results = [plain(made[new.index(index)]) if index in new else result for index, result in enumerate(results)]
    except InputError:  # one of them; each alone says which, and the others are measured
        for index in new:
            results[index] = _one(lambda index=index: compare(base.checkpoint, str(checkpoints[index].path)))  # type: ignore[misc]
    for index in new:
        if isinstance(update := results[index], Update):
            places[index].write(update)
    return [result for result in results if result is not None]


def _one(measure: Callable[[], Comparison]) -> Update | str:
    try:
        return plain(measure())
    except InputError as error:
        return str(error)


def plain(comparison: Comparison) -> Update:
    """Return a comparison as plain values."""
    return Update(
        comparison.base.dtypes,
        comparison.tuned.dtypes,
        comparison.total,
        comparison.modules,
        comparison.layers,
        comparison.rows,
        bool(comparison.adapters),
        bool(comparison.base.dequantised or comparison.tuned.dequantised),
        comparison.incomplete,
        list(comparison.notes),
        sorted({int(record["rank"]) for record in comparison.adapters if record.get("rank") is not None}),
    )


def step_name(saved: SavedCheckpoint) -> str:
    """Name a checkpoint in a sentence: ``step 200``, or the end of its path."""
    return f"step {saved.step:,}" if saved.step is not None else printable(saved.path.name, 60)


def command(*words: str) -> str:
    """Write a command of this package as it is typed in a shell, without secrets."""
    import shlex

    return "python -m dynamics." + " ".join(shlex.quote(printable(without_secrets(word), 1000)) for word in words)
