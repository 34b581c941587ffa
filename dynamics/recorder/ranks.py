"""What the processes that train one model together, the ranks of ``torch.distributed``, measure of its weights.

Each rank measures what it holds; only counts and sums travel, never weights. An error travels with them, so that it is raised on all ranks
and none waits for a rank that has failed.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dynamics.errors import InputError, printable

T = TypeVar("T")
#: number of values by which the copies of a weight on several ranks are compared
SOME = 64
#: attributes of parameters that hold a part of a weight without saying which part -> who splits them
PARTITIONS = {
    "ds_id": "by DeepSpeed ZeRO-3",
    "_fsdp_flattened": "by FSDP1 (FullyShardedDataParallel)",
    "tensor_model_parallel": "by Megatron's tensor parallelism",
}


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks; 0 and 1 unless ``torch.distributed`` is initialised."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def from_all(compute: Callable[[], T]) -> list[T]:
    """Compute a small value on every rank and return those of all ranks, in their order. All ranks must call it.

    Raises
    ------
    InputError : it failed on a rank; the error is raised on all of them, and names the first that failed.
    """
    rank, world = rank_and_world()
    if world == 1:
        return [compute()]
    import torch.distributed

    mine: tuple[T | None, str]
    try:
        mine = (compute(), "")
    except Exception as error:
        mine = (None, f"rank {rank}: {error if isinstance(error, InputError) else f'{type(error).__name__}: {printable(error)}'}")
    everyone: list[Any] = [None] * world
    with _together(rank):
        torch.distributed.all_gather_object(everyone, mine)
    for _, message in everyone:
        if message:
            raise InputError(message)
    return [value for value, _ in everyone]


@contextlib.contextmanager
def _together(rank: int) -> Iterator[None]:
    """Say in one line that another rank ended, or did not come, while this one exchanged something with it."""
    try:
        yield
    except RuntimeError as error:  # DistBackendError is one
        why = printable(str(error).strip().partition("\n")[0], 300)
        raise InputError(f"rank {rank}: another rank ended or cannot be reached; see its own output ({why})") from None


def on_first(rows: list[T]) -> list[T]:
    """Return the rows of all ranks on rank 0, and none on the others. All ranks must call it."""
    rank, world = rank_and_world()
    if world == 1:
        return rows
    import torch.distributed

    everyone: list[Any] | None = [None] * world if rank == 0 else None
    with _together(rank):
        torch.distributed.gather_object(rows, everyone, dst=0)
    return [row for part in everyone or [] for row in part]


def partition(weights: Iterable[tuple[str, Any]]) -> str:
    """Say why weights cannot be counted: parameters that are split over the ranks by something that does not say how; empty if they can."""
    for name, value in weights:
        for attribute, who in PARTITIONS.items():
            if getattr(value, attribute, None) not in (None, False):
                return f"{printable(name)}: is split {who}; only the shards of fully_shard and other DTensors are counted"
        if any(placement.is_partial() for placement in getattr(value, "placements", ())):
            return f"{printable(name)}: is the sum of what the ranks hold (Partial), and no rank holds its values; reduce it first"
    return ""


def is_sharded(value: object) -> bool:
    """Tell whether a parameter is a DTensor, of which each rank may hold a part."""
    return hasattr(value, "to_local") and hasattr(value, "device_mesh")


@dataclass(frozen=True)
class Held:
    """What a rank holds of a weight.

    Attributes
    ----------
    numel : size of the whole weight.
    mesh : ranks over which it is spread; this rank alone if it holds all of it.
    first : whether this rank is the first of those that hold the same part.
    values : some of its values, if this rank holds all of it, by which copies are told from parts of a weight.
    """

    numel: int
    mesh: tuple[int, ...]
    first: bool
    values: bytes = b""


def held(weights: Iterable[tuple[str, Any]]) -> dict[str, Held]:
    """Say what this rank holds of each weight."""
    return {name: _held(value) for name, value in weights}


def _held(value: Any) -> Held:
    if not is_sharded(value):
        return Held(math.prod(value.shape), (rank_and_world()[0],), True, _some_values(value))
    mesh = value.device_mesh
    coordinate = mesh.get_coordinate()
    replicas = [at for at, placement in zip(coordinate or (), value.placements, strict=False) if placement.is_replicate()]
    return Held(math.prod(value.shape), tuple(mesh.mesh.flatten().tolist()), coordinate is not None and not any(replicas))


def _some_values(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return bytes(value.ravel()[:: max(1, value.size // SOME)].tobytes())
    import torch

    some = value.detach().flatten()[:: max(1, value.numel() // SOME)]
    return bytes(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())


def share(holdings: Sequence[Mapping[str, Held]], rank: int, spread: bool) -> tuple[set[str], int]:
    """Decide which weights a rank counts, so that each weight is counted once by all ranks together.

    Parameters
    ----------
    holdings : what each rank holds.
    rank : this rank.
    spread : whether weights that several ranks hold whole are spread over them; otherwise the first counts them.

    Returns
    -------
    names : weights of which this rank counts its part.
    numel : size of all weights.

    Raises
    ------
    InputError : a weight has different sizes on two ranks, or different values on two that hold it whole.
    """
    work = [0] * len(holdings)
    names: set[str] = set()
    numel = 0
    for name in dict.fromkeys(name for holding in holdings for name in holding):
        copies = [holding[name] for holding in holdings if name in holding]
        if len({copy.numel for copy in copies}) > 1:
            raise InputError(f"{printable(name)}: has {' and '.join(f'{size:,}' for size in sorted({c.numel for c in copies}))} weights")
        if len({copy.values for copy in copies if copy.values}) > 1:
            raise InputError(
                f"{printable(name)}: is not the same on all ranks; only parts that are DTensors are counted as parts of a weight, and the "
                "ranks of DDP are equal only after it has wrapped the model"
            )
        meshes = sorted({copy.mesh for copy in copies})
        mesh = min(meshes, key=lambda ranks: work[ranks[0]]) if spread and all(len(ranks) == 1 for ranks in meshes) else meshes[0]
        for member in mesh:
            work[member] += copies[0].numel // len(mesh)
        mine = holdings[rank].get(name)
        if mine is not None and mine.mesh == mesh and mine.first:
            names.add(name)
        numel += copies[0].numel
    return names, numel
