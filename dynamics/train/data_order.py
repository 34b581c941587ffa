"""The order of training problems, a pure function of the seed and the step."""

from __future__ import annotations

from dynamics.train.config import RLVRConfig, SFTConfig
from dynamics.train.rng import stream


def of_step(config: SFTConfig | RLVRConfig, step: int, count: int, of: int) -> list[int]:
    """Return the ``count`` indices, of ``of``, for a step (counted from 1), in the order that the settings ask for."""
    return recorded(step, config.steps, count, of) if config.data_order == "recorded" else chosen(config.seed, step, count, of)


def chosen(seed: int, step: int, count: int, of: int) -> list[int]:
    """Return the ``count`` indices, of ``of``, for a step (counted from 1): each index once per epoch, reshuffled every epoch."""
    indices: list[int] = []
    start = (step - 1) * count
    while len(indices) < count:
        epoch, offset = divmod(start + len(indices), of)
        order = stream(seed, "order", epoch).permutation(of)
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices


def recorded(step: int, steps: int, count: int, of: int) -> list[int]:
    """Return the ``count`` indices, of ``of``, for a step of ``steps`` (counted from 1): a window that slides once over all of them.

    The window begins at the first index in the first step, ends at the last one in the last step, and moves evenly. So a step has
    different problems, as in shuffled order. With fewer problems than places each is asked in several steps in a row, those at both ends
    less often; with more, some between the windows are never asked.

    >>> [recorded(step, 4, 2, 5) for step in (1, 2, 3, 4)]
    [[0, 1], [1, 2], [2, 3], [3, 4]]
    """
    start = (step - 1) * max(0, of - count) // max(1, steps - 1)
    return [(start + place) % of for place in range(count)]
