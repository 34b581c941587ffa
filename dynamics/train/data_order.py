"""Which problems a step is given: a pure function of the seed and the step."""

from __future__ import annotations

from dynamics.train.rng import stream


def chosen(seed: int, step: int, count: int, of: int) -> list[int]:
    """``count`` places out of ``of`` for a step (from 1): each once before any comes again, in a new random order each time."""
    places: list[int] = []
    start = (step - 1) * count
    while len(places) < count:
        number, inside = divmod(start + len(places), of)
        order = stream(seed, "order", number).permutation(of)
        places += order[inside : inside + count - len(places)].tolist()
    return places
