"""Random streams that depend on nothing but what they are for: (seed, purpose, step, item).

A step is then a pure function of the state and its number; a resumed run draws what an uninterrupted one would have drawn, and a row
draws the same numbers whatever else is in its batch.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """Make the generator of one purpose at one place, e.g. ``stream(seed, "sample", step, prompt, number)``.

    Parameters
    ----------
    seed : of the run.
    purpose : what the numbers are for. Another word gives other numbers: these words are as fixed as a file format.
    where : whole numbers that tell the streams of a purpose apart.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *where])
