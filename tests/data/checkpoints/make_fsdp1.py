"""Write the folders of ``fsdp1/``: state dicts of an FSDP1 model on two ranks, with torch 2.13.0 on a CPU.

Usage: ``python make_fsdp1.py [FOLDER]``.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

WORLD = 2


def save(rank: int, port: int, root: Path) -> None:
    """Save the parts of one rank."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3)).bfloat16()
    if rank == 0:
        np.savez(root / "expected.npz", **{name: value.float().numpy() for name, value in model.state_dict().items()})

    def is_linear(module: torch.nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
        return recurse or isinstance(module, torch.nn.Linear)

    sharded = FullyShardedDataParallel(model, device_id=torch.device("cpu"), auto_wrap_policy=is_linear)
    for folder, kind in (("sharded", StateDictType.SHARDED_STATE_DICT), ("local", StateDictType.LOCAL_STATE_DICT)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        with FullyShardedDataParallel.state_dict_type(sharded, kind):
            torch.save(sharded.state_dict(), root / folder / f"model_world_size_{WORLD}_rank_{rank}.pt")


def main(root: Path) -> None:
    """Write both folders."""
    root.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [multiprocessing.get_context("fork").Process(target=save, args=(rank, port, root)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fsdp1")
