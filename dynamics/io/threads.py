"""Work on several threads, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Progress = Callable[[int, int], None]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Found = TypeVar("Found")


def in_order(pool: ThreadPoolExecutor, worker: Callable[[Any], Found], spans: Iterable[Any], ahead: int) -> Iterator[tuple[int, Found]]:
    """The first of a span and its result, in the order of the spans, at most ``ahead`` in work; on an error the rest is dropped."""
    waiting: list[tuple[int, Future[Found]]] = []
    try:
        for span in spans:
            waiting.append((span[0], pool.submit(worker, span)))
            if len(waiting) >= ahead:
                index, future = waiting.pop(0)
                yield index, future.result()
        for index, future in waiting:
            yield index, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
