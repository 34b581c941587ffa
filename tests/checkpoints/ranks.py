"""Ranks of a torch process group as threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_ranks(world: int, work: Callable[[int], None]) -> None:
    """Run ``work(rank)`` in every rank of a group, and raise the first error."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    store, failures = dist.HashStore(), []

    def run(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=world, store=store)
            work(rank)
        except BaseException as error:
            failures.append(error)
            threaded.ProcessLocalGroup.exception_handle(error)

    threaded._install_threaded_pg()
    threaded.ProcessLocalGroup.reset()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        threaded._uninstall_threaded_pg()
    if failures:
        raise failures[0]
