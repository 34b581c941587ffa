"""Run work on several threads, with results in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

#: called with the amount of work that is done and the total amount
Progress = Callable[[int, int], None]
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(pool: ThreadPoolExecutor, worker: Callable[[Any], Result], spans: Iterable[Any], ahead: int) -> Iterator[tuple[Any, Result]]:
    """Run ``worker`` on every span, and yield the first entry of each span with its result, in the order of the spans.

    At most ``ahead`` spans are submitted at a time. After an error, spans that have not started are cancelled.
    """
    waiting: list[tuple[Any, Future[Result]]] = []
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
