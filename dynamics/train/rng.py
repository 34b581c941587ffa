"""Independent random streams, identified by (seed, purpose, step, item).

A step is therefore a pure function of the state and the step number. A resumed run draws the same numbers as an uninterrupted run, and the
numbers of a row do not depend on the other rows of its batch.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """Create the random generator of a stream, e.g. ``stream(seed, "sample", step, prompt, number)``.

    Parameters
    ----------
    seed : of the run.
    purpose : what the numbers are used for. Changing a purpose changes the numbers, so purposes are as fixed as a file format.
    where : integers that distinguish the streams of a purpose.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *where])
