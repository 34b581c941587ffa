"""The order of training problems, a pure function of the seed and the step."""

from __future__ import annotations

from dynamics.train.rng import stream


def chosen(seed: int, step: int, count: int, of: int) -> list[int]:
    """Return the ``count`` indices, of ``of``, for a step (counted from 1): each index once per epoch, reshuffled every epoch."""
    indices: list[int] = []
    start = (step - 1) * count
    while len(indices) < count:
        epoch, offset = divmod(start + len(indices), of)
        order = stream(seed, "order", epoch).permutation(of)
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices
