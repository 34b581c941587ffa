"""The spectra of the update of a run: which matrices are decomposed, and how that is done while their weights are in memory anyway."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from jaxtyping import Shaped

from dynamics.checkpoints import open_checkpoint, parameter_names
from dynamics.checkpoints.adapter import LowRank
from dynamics.checkpoints.matching import Pair
from dynamics.errors import InputError
from dynamics.report import cache
from dynamics.report.section import Options
from dynamics.report.updates import Base, spread
from dynamics.runs import SavedCheckpoint
from dynamics.sparsity.accumulate import Chunk
from dynamics.spectra import Spectrum
from dynamics.spectra.comparison import matrices_of, matrix_shapes, measure_stored
from dynamics.spectra.matrix import Matrix

#: weights of a matrix beyond which it is left out: decomposing its update takes about 24 bytes of memory a weight
LARGEST = 80_000_000
#: weights of all matrices together that are decomposed; of more, an even selection of layers is
MOST = 600_000_000
#: largest number of principal directions; never more than a quarter of the median shorter side
SUBSPACE = 32


@dataclass(frozen=True)
class Spectra:
    """The spectra of some matrices.

    Attributes
    ----------
    spectra : one of each matrix, see ``dynamics.spectra.Spectrum``.
    """

    spectra: list[Spectrum]


@dataclass(frozen=True)
class Wanted:
    """Which matrices of an update are decomposed, and how.

    Attributes
    ----------
    shapes : of each of them, by name.
    of : number of matrices of the model.
    k : number of principal directions.
    seed : of the random projections.
    """

    shapes: dict[str, tuple[int, int]]
    of: int
    k: int
    seed: int

    @property
    def only(self) -> str | None:
        """The regular expression that selects them; None for all."""
        return None if len(self.shapes) == self.of else f"^(?:{'|'.join(map(re.escape, self.shapes))})$"

    @property
    def numel(self) -> int:
        """Number of weights of all of them together."""
        return sum(map(math.prod, self.shapes.values()))


def choose(shapes: Mapping[str, tuple[int, int]], most: int = MOST, largest: int = LARGEST) -> list[str]:
    """Choose the matrices to decompose: all, or those of evenly spread layers, so that they have at most ``most`` weights together.

    Parameters
    ----------
    shapes : of each matrix, by name.
    most : weights of all matrices together.
    largest : weights of a single matrix; larger ones, such as embeddings of large vocabularies, are left out.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if math.prod(shape) <= largest}
    layers = sorted({parameter_names.layer(name) or "" for name in sizes}, key=parameter_names.layer_order)
    for count in range(len(layers), 0, -1):
        kept = {layers[round(index)] for index in np.linspace(0, len(layers) - 1, count)}
        chosen = [name for name in sizes if (parameter_names.layer(name) or "") in kept]
        if sum(sizes[name] for name in chosen) <= most:
            return chosen
    few = spread(list(sizes), max(2, int(most // max(sizes.values(), default=1))))  # experts of a single layer are too many
    return few if sum(sizes[name] for name in few) <= most else few[:1]


def wanted(base: Base, saved: SavedCheckpoint, options: Options) -> Wanted:
    """Choose the matrices of an update; no weight is read.

    Raises
    ------
    InputError : the checkpoint cannot be read or matched, or has no matrix that can be decomposed.
    """
    shapes = matrix_shapes(base.checkpoint, str(saved.path))
    chosen = choose(shapes)
    if not chosen:
        raise InputError(f"all of its {len(shapes):,} matrices have over {LARGEST:,} weights")
    k = max(1, min(SUBSPACE, int(median(min(shapes[name]) for name in chosen)) // 4))
    return Wanted({name: shapes[name] for name in chosen}, len(shapes), k, options.seed)


def entry(base: Base, saved: SavedCheckpoint, of: Wanted, options: Options) -> cache.Entry[Spectra]:
    """Make the entry of the spectra in the cache."""
    return cache.entry(options, "spectra", [base.source, saved.path], {"k": of.k, "only": of.only, "seed": of.seed}, Spectra)


def measured(base: Base, saved: SavedCheckpoint, of: Wanted, label: str, options: Options) -> Spectra:
    """Return the spectra that this report or an earlier one measured, or read both checkpoints and measure them."""
    from dynamics.spectra import compare

    def measure() -> Spectra:
        tell = options.progress
        each: Callable[[Spectrum, int, int], None] | None = (
            (lambda _, done, count: tell(f"decomposing the update of {label}", done, count)) if tell is not None else None
        )
        return Spectra(
            compare(base.checkpoint, str(saved.path), only=of.only, k=of.k, method="approx", seed=of.seed, each=each)[0]
        )  # fmt: skip

    return cache.measured(entry(base, saved, of, options), measure)


def factors_of(base: Base, saved: SavedCheckpoint) -> Mapping[str, LowRank]:
    """Return the updates that a LoRA adapter stores as products, by the name of the weight; none of a checkpoint."""
    adapter = open_checkpoint(saved.path).adapter
    return {} if adapter is None else adapter.factors(base.checkpoint)


class Collector:
    """Decomposes the update of each matrix as soon as all of its weights were seen.

    Parameters
    ----------
    of : which matrices.
    factors : from ``factors_of``.
    each : called after each matrix with its number of weights.

    Attributes
    ----------
    problem : why a matrix could not be decomposed; then the others are not either.
    """

    def __init__(self, of: Wanted, factors: Mapping[str, LowRank], each: Callable[[int], None]):
        self.of, self.factors, self.each = of, factors, each
        self.problem = ""
        self._held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._spectra: dict[str, Spectrum] = {}
        self._lock = threading.Lock()

    @property
    def spectra(self) -> Spectra | None:
        """The spectra in the order of the matrices; None if there is a problem."""
        return Spectra([self._spectra[name] for name in self.of.shapes]) if len(self._spectra) == len(self.of.shapes) else None

    def see(self, chunk: Chunk, pair: Pair, tuned: Shaped[np.ndarray, " n"]) -> Callable[[], object] | None:
        """Take the weights of a chunk, on any thread; return what decomposes the matrices that it completes, to be called in order."""
        if self.problem:
            return None
        complete = []
        for name, (first, shape) in matrices_of(pair.name, pair.base.shape).items():
            last = first + math.prod(shape)
            start, stop = max(first, chunk.start), min(last, chunk.stop)
            if start >= stop or name not in self.of.shapes:
                continue
            with self._lock:
                if name not in self._held:
                    self._held[name] = (np.empty(last - first, pair.base.storage), np.empty(last - first, pair.tuned.storage))
                held = self._held[name]
            for side, stored in zip(held, (chunk.base, tuned), strict=True):
                side[start - first : stop - first] = stored[start - chunk.start : stop - chunk.start]
            if stop == last:
                complete.append((name, shape))
        return partial(self._decompose, complete, pair) if complete else None

    def _decompose(self, complete: list[tuple[str, tuple[int, int]]], pair: Pair) -> None:
        for name, shape in complete:
            before, after = self._held.pop(name)
            if self.problem:
                continue
            sides = Matrix(before, pair.base.dtype, shape), Matrix(after, pair.tuned.dtype, shape)
            factors = self.factors.get(pair.tuned.name)
            try:
                self._spectra[name] = measure_stored(*sides, name=name, k=self.of.k, method="approx", seed=self.of.seed, factors=factors)
            except InputError as error:
                self.problem = str(error)
            self.each(math.prod(shape))
