"""Digests of the weights of both sides, from the bytes that a comparison reads anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dynamics.checkpoints.digests import LEAF, Digester

if TYPE_CHECKING:
    from dynamics.checkpoints import Checkpoint
    from dynamics.checkpoints.matching import Pair
    from dynamics.io.threads import Progress
    from dynamics.sparsity.accumulate import Chunk
    from dynamics.sparsity.results import Comparison


class Digests:
    """Computes the digests of checkpoints from the chunks of a comparison; see ``checkpoints.digests.Digester``.

    Parameters
    ----------
    checkpoints : as they are stored, adapters not applied to their base.
    pairs : those that are compared.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], pairs: Sequence[Pair]):
        self._digester = Digester(checkpoints, (side for pair in pairs for side in (pair.base, pair.tuned)))
        self._compared = sum(pair.base.numel for pair in pairs)
        self._progress: Progress | None = None

    def see(self, chunk: Chunk) -> Callable[[], object]:
        """Hash what is new in a chunk, on any thread; the function that is returned is to be called in the order of the chunks."""
        base = chunk.tuned[0][1].base
        assert chunk.start * base.storage.itemsize % LEAF == 0
        sides, stored = [base, *(pair.tuned for _, pair, _ in chunk.tuned)], [chunk.base, *(array for *_, array in chunk.tuned)]
        found = self._digester.leaves(sides, stored)

        def add() -> None:
            for side, of_chunk in found:
                self._digester.add(side, chunk.stop, of_chunk)

        return add

    def counted_by(self, progress: Progress | None) -> Progress | None:
        """Return what the comparison reports its progress to, so that the total includes what is read for the digests alone."""
        self._progress = progress
        left = self._digester.left
        return None if progress is None else lambda done, total: progress(done, total + left)

    def finish(self, threads: int | None) -> None:
        """Read what was not compared."""
        progress, compared = self._progress, self._compared
        self._digester.finish(threads, None if progress is None else lambda done, total: progress(compared + done, compared + total))

    def enter(self, comparison: Comparison, base: Checkpoint, tuned: Checkpoint) -> None:
        """Write the digests of two checkpoints into their comparison."""
        comparison.digests.update({"base": self._digester.digest(base), "tuned": self._digester.digest(tuned)})
