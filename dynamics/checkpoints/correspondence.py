"""Tell by values whether the rows of two matrices belong together, where names and shapes leave it open.

Training moves a row much less than rows differ from each other: a row is more like itself than like another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dynamics.checkpoints.tensor import Tensor

#: number of rows that are compared, and the smallest number that tells anything
SAMPLE, FEWEST = 48, 16
#: share of the rows that must be more like their own counterpart than like another row
MOST = 0.9


def rows_correspond(x: Tensor, y: Tensor) -> bool:
    """Tell whether the first rows of two matrices of equal width belong together; True if too few rows tell."""
    count = min(x.shape[0], y.shape[0])
    if len(x.shape) != 2 or len(y.shape) != 2 or x.shape[1] != y.shape[1] or count < FEWEST or x.shape[1] < 2:
        return True
    rows = np.unique(np.linspace(0, count - 1, SAMPLE).astype(int))
    ours, theirs = (np.stack([tensor.rows(row, row + 1).values() for row in rows.tolist()]).astype(np.float64) for tensor in (x, y))
    sizes = [np.linalg.norm(values, axis=1) for values in (ours, theirs)]
    kept = np.isfinite(sizes[0]) & np.isfinite(sizes[1]) & (sizes[0] > 0) & (sizes[1] > 0)
    if kept.sum() < FEWEST:
        return True
    ours, theirs = (values[kept] / size[kept, None] for values, size in zip((ours, theirs), sizes, strict=True))
    own, other = (ours * theirs).sum(axis=1), (ours * np.roll(theirs, 1, axis=0)).sum(axis=1)
    return bool(np.mean(own >= other) >= MOST)
