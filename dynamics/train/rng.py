"""Random streams that depend on nothing but what they are for: (seed, purpose, step, item).

A step is then a pure function of the state and its number; a resumed run draws what an uninterrupted one would have drawn, and a row
draws the same numbers whatever else is in its batch.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """The generator of one purpose at one place, e.g. ``stream(seed, "sample", step, prompt, number)``."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *where])
