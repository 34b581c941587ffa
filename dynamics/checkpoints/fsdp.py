"""Rank shards of verl, FSDP1 and FSDP2: the file ``model_world_size_{W}_rank_{R}.pt`` holds rank R's part of every tensor.

A part is a DTensor, whose placements say how the tensor is split, or a ShardedTensor (FSDP1), which lists the rank's rectangles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product
from typing import Any

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import Saved, Strided, as_strided, find_weights, grouped, load_state, refuse_flat, unwrap
from dynamics.checkpoints.sharded import NOT_WEIGHTS, RANK_FILE, RANK_SHARD, WEIGHTS, Shard, join_shards
from dynamics.checkpoints.tensor import MOST_AXES, Checkpoint, Ignored, Tensor, natural_shape, naturals
from dynamics.checkpoints.unpickle import ALLOWED, REBUILD, SHARDED_TENSOR, SUBCLASS, Node, plain
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location

#: one split of an axis: number of stripes (1 for ``Shard``), number of parts, and the index of this rank's part
Split = tuple[int, int, int]
#: ranks, and stripes of an axis; rectangles of one rank
MOST_PARTS, MOST_BOXES = 1 << 24, 1 << 20
#: origin and shape of a rectangle
Box = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class LocalShard:
    """One rank's part of a tensor: the shape of the whole tensor, the rank's values, and the splits of each axis."""

    shape: tuple[int, ...]
    local: Strided
    splits: tuple[tuple[Split, ...], ...]

    @property
    def dtype(self) -> str:
        """The dtype as stored."""
        return self.local.dtype

    @property
    def is_split(self) -> bool:
        """Whether an axis is split."""
        return any(self.splits)

    def boxes(self, where: str) -> Iterator[tuple[Box, Strided]]:
        """List the rectangles of the whole tensor that the rank holds, with their values."""
        runs = [_runs(size, splits) for size, splits in zip(self.shape, self.splits, strict=True)]
        expected = tuple(sum(length for _, _, length in axis) for axis in runs)
        if self.local.shape != expected and math.prod(self.local.shape) + math.prod(expected) > 0:
            raise InputError(f"{where} holds {self.local.shape} of {self.shape}, its placement says {expected}")
        if math.prod(map(len, runs)) > MOST_BOXES:
            raise InputError(f"{where} holds {self.shape} in over {MOST_BOXES} pieces; the file is damaged")
        for box in product(*runs):
            local = self.local
            for axis, (_, start, length) in enumerate(box):
                local = local.narrow(axis, start, length)
            yield (tuple(run[0] for run in box), tuple(run[2] for run in box)), local


@dataclass(frozen=True)
class Rectangles:
    """One rank's part of a ShardedTensor: the shape of the whole tensor, its dtype, and the rectangles that the rank holds."""

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[tuple[Box, Strided], ...]
    is_split = True

    def boxes(self, where: str) -> Iterator[tuple[Box, Strided]]:
        """List the rectangles of the whole tensor that the rank holds, with their values."""
        for (offsets, sizes), local in self.parts:
            if local.shape != sizes:
                raise InputError(f"{where} holds {local.shape} of {self.shape}, its metadata say {sizes}")
            yield (offsets, sizes), local


def read_fsdp_shards(folder: Location, paths: list[Location]) -> Checkpoint:
    """Read a checkpoint from the shards of all ranks."""
    where = printable(folder)
    ranks = _by_rank(where, paths)
    saved = [load_state(File(path), allowed=ALLOWED | SHARDED_TENSOR) for path in ranks]
    ignored: list[Ignored] = []
    roots: list[Mapping[Any, Any]] = []
    for path, part in zip(ranks, saved, strict=True):
        if not isinstance(part.root, dict):
            raise InputError(f"{printable(path)}: holds no state dict of names and tensors")
        roots.append(find_weights(part.root, printable(path), [] if roots else ignored))
        if roots[-1].keys() != roots[0].keys():
            name = next(iter(roots[-1].keys() ^ roots[0].keys()))
            raise InputError(f"{where}: {printable(name)} is not in all ranks' files (compare rank 0 with {printable(path.name)})")
    refuse_flat(map(str, roots[0]), where)
    tensors: dict[str, Tensor] = {}
    for name in roots[0]:
        parts = [_part(name, root[name], part) for root, part in zip(roots, saved, strict=True)]
        reason = next((part for part in parts if isinstance(part, str)), None)
        placed = [part for part in parts if not isinstance(part, str)]
        whole = [part for part in placed if isinstance(part, LocalShard) and not part.is_split]
        if reason is None and len(whole) == len(parts) and not _same(whole[0], whole[-1]):
            reason = "differs between ranks and does not say how it is split: state of a rank, or a shard without its place"
        if reason is not None:
            ignored.append(Ignored(str(name), reason, max((math.prod(part.shape) for part in placed), default=0)))
        else:
            tensors[name] = _join(f"{where}: {printable(name)}", placed).named(name)
    return Checkpoint(str(folder), "fsdp-shards", tensors, ignored=grouped(ignored))


def rank_files(files: Mapping[str, Location]) -> list[Location]:
    """Select the files of a folder that are named by rank: those of verl, else ``STEMrankR.pt`` if it holds no other weights."""
    if shards := [path for name, path in files.items() if RANK_SHARD.search(name)]:
        return shards
    weights = {name: path for name, path in files.items() if name.endswith(WEIGHTS) and not NOT_WEIGHTS.match(name)}
    stems = {match[1] if (match := RANK_FILE.fullmatch(name)) else None for name in weights}
    return list(weights.values()) if len(weights) > 1 and len(stems) == 1 and None not in stems else []


def _by_rank(where: str, paths: list[Location]) -> list[Location]:
    path_of: dict[int, Location] = {}
    worlds = set()
    for path in paths:
        verl = RANK_SHARD.search(path.name)
        match = verl or RANK_FILE.fullmatch(path.name)
        if match is None:
            raise InputError(f"{printable(path)}: is not named like a rank shard, model_world_size_W_rank_R.pt")
        worlds.add(int(match[1] if verl else match[3] or 0))
        path_of[int(match[2])] = path
    if len(worlds) != 1:
        raise InputError(f"{where}: holds shards of world sizes {sorted(worlds)}; keep those of one run")
    world = worlds.pop() or max(path_of) + 1
    missing = [rank for rank in range(min(world, len(path_of) + 1)) if rank not in path_of]
    if missing:
        known = paths[0].name
        name = f"model_world_size_{world}_rank_{missing[0]}.pt" if RANK_SHARD.search(known) else f"rank {missing[0]}'s {printable(known)}"
        raise InputError(f"{where}: {name} is missing, {len(path_of)} of {world} ranks are there; all are needed")
    if len(path_of) > world:
        raise InputError(f"{where}: holds rank {max(path_of)} of a world of {world}; remove what is of another run")
    return [path_of[rank] for rank in range(world)]


def _part(name: Any, value: Any, saved: Saved) -> LocalShard | Rectangles | str:
    """Return one rank's part of an entry, or the reason why the entry has none, as text."""
    where = f"{printable(saved.file.path)}: {printable(name)}"
    if not isinstance(name, str):
        return "not a name"
    try:
        value = unwrap(value)
        subclass = value.args[1].path.rsplit(".", 1)[-1] if isinstance(value, Node) and value.path == SUBCLASS else ""
    except (TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"{where}: its tensor record is damaged; fetch the file again") from None
    if subclass == "ShardedTensor" or (isinstance(value, Node) and value.path.endswith(".ShardedTensor")):
        return _rectangles(where, name, value, saved)
    if subclass != "DTensor":
        strided = as_strided(value, name, saved)
        if isinstance(strided, Strided):
            return LocalShard(strided.shape, strided, ((),) * len(strided.shape))
        return strided or "not a tensor"
    return _dtensor(where, name, value, saved)


def _dtensor(where: str, name: str, value: Node, saved: Saved) -> LocalShard | str:
    """Return one rank's part of a DTensor, or the reason why it cannot be read."""
    try:
        function, _, args, state = value.args
        if isinstance(state, tuple):  # (__dict__, slots)
            state = {**(state[0] or {}), **(state[1] or {})}
        shape, spec = natural_shape(args[2]), state["_spec"].state
        local = as_strided(state["_local_tensor"], name, saved)
        if function.path != f"{REBUILD}wrapper_subclass" or local is None:
            raise InputError(f"{where}: is a DTensor without a shape or a local tensor; the file is damaged")
        if isinstance(local, str):
            return local
        return LocalShard(shape, local, _splits(where, len(shape), spec))
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{where}: has an unknown kind of DTensor record ({type(error).__name__}: {printable(error, 60)})") from None


def _rectangles(where: str, name: str, value: Node, saved: Saved) -> Rectangles | str:
    """Return one rank's part of a ShardedTensor, or the reason why it cannot be read."""
    try:
        shards, metadata = (value.args[3] if value.path == SUBCLASS else value.state)[:2]
        fields = _fields(metadata)
        shape, dtype = natural_shape(fields["size"]), _fields(fields["tensor_properties"])
        parts = []
        for shard in map(_fields, shards):
            strided = as_strided(shard["tensor"], name, saved)
            if not isinstance(strided, Strided):
                return strided or "a shard without a tensor"
            box = _fields(shard["metadata"])
            parts.append(((naturals(box["shard_offsets"]), natural_shape(box["shard_sizes"])), strided))
        return Rectangles(shape, parts[0][1].dtype if parts else plain(dtype.get("dtype")), tuple(parts))
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{where}: has an unknown kind of ShardedTensor record ({type(error).__name__}: {printable(error, 60)})") from None


def _fields(node: Node) -> dict[str, Any]:
    """Return the fields of an object, whose state is a dictionary, or a pair of ``__dict__`` and slots."""
    state = node.state
    if isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state):
        return {**(state[0] or {}), **(state[1] or {})}
    return state if isinstance(state, dict) else {}


def _same(a: LocalShard, b: LocalShard, limit: int = 4096) -> bool:
    """Tell by the first elements whether two ranks hold copies of the same tensor."""
    count = min(math.prod(a.shape), math.prod(b.shape), limit)
    first, second = (part.local.tensor("").stored(0, count) for part in (a, b))
    return (a.shape, a.local.dtype) == (b.shape, b.local.dtype) and first.tobytes() == second.tobytes()


def _splits(where: str, axes: int, spec: dict[str, Any]) -> tuple[tuple[Split, ...], ...]:
    """List the splits of each axis of the tensor that the placements describe, in the order of the mesh."""
    sizes = _mesh_sizes(spec["mesh"].state)
    coordinates = spec["mesh"].state.get("_coordinate_on_dim")
    if coordinates is None:
        raise InputError(f"{where}: its device mesh does not record the coordinates of this rank; save it again with a newer torch")
    # torch >= 2.10 can record an order other than the mesh's; it does so for plain shards only
    if any(list(order) != sorted(order) for order in (naturals(entry.args[1]) for entry in spec.get("shard_order") or ())):
        raise InputError(f"{where}: is sharded against the order of its mesh, which is not supported; save a full state dict")
    splits: list[list[Split]] = [[] for _ in range(axes)]
    for placement, parts, index in zip(spec["placements"], sizes, coordinates, strict=True):
        kind = placement.path.rsplit(".", 1)[-1]
        if kind in ("Shard", "_StridedShard"):
            stripes = placement.state["split_factor"] if kind == "_StridedShard" else 1
            split = (stripes, parts, index)
            if not all(type(number) is int for number in split) or not (0 < stripes < MOST_PARTS and 0 <= index < parts < MOST_PARTS):
                raise InputError(f"{where}: part {plain(index)} of {plain(parts)} is no shard; the file is damaged")
            splits[placement.state["dim"]].append(split)
        elif kind != "Replicate":
            raise InputError(f"{where}: is {kind}, an unfinished sum over ranks; save a full or sharded state dict")
    return tuple(map(tuple, splits))


def _mesh_sizes(mesh: dict[str, Any]) -> tuple[int, ...]:
    """Return the number of ranks along each axis of a device mesh, whose fields torch has changed twice."""
    if "mesh" in mesh:  # torch <= 2.9: a tensor of ranks, whose shape is args[2] of its record
        return naturals(unwrap(mesh["mesh"]).args[2])
    layout = mesh["_layout"].state
    if "axes" in layout:
        return tuple(_product(axis.state["shape"]) for axis in layout["axes"])
    shape = layout["shape"]
    return tuple(map(_product, shape)) if isinstance(shape, tuple) else (shape,)


def _product(size: Any, depth: int = 0) -> int:
    if type(size) is int:
        return size
    if not isinstance(size, (list, tuple)) or depth > 4 or len(size) > MOST_AXES:
        raise ValueError("a mesh is not made of numbers")
    return math.prod(_product(part, depth + 1) for part in size)


def _join(where: str, parts: list[LocalShard | Rectangles]) -> Tensor:
    """Join the parts of all ranks into one tensor. Replicas are read from the first rank that holds them."""
    shape, dtype = parts[0].shape, parts[0].dtype
    shards: dict[Box, Shard] = {}
    for rank, part in enumerate(parts):
        if part.shape != shape or part.dtype != dtype:
            raise InputError(f"{where}: is {dtype} {shape} on rank 0 and {part.dtype} {part.shape} on rank {rank}")
        for (offsets, sizes), local in part.boxes(f"{where}: rank {rank}"):
            if math.prod(sizes) and (offsets, sizes) not in shards:
                shards[offsets, sizes] = (offsets, sizes, local.tensor(where))
    return join_shards(where, shape, dtype, list(shards.values()))


@lru_cache(maxsize=4096)
def _runs(size: int, splits: tuple[Split, ...]) -> tuple[tuple[int, int, int], ...]:
    """List the runs of a rank's indices on an axis of length ``size``: (start in the whole, start in the rank's part, length).

    The indices are split as torch splits tensors: ``Shard`` is ``torch.chunk``; a strided shard splits the axis into
    stripes, chunks each stripe and joins this rank's chunks. If sizes do not divide evenly, the result is several runs.
    """
    if not splits:
        return ((0, 0, size),)
    runs = [(0, size)]  # start in the whole, length
    for stripes, parts, index in splits:
        count = sum(length for _, length in runs)
        stripe = _step(count, stripes)
        if len(runs) + -(-count // stripe) > MOST_BOXES:
            raise InputError(f"an axis of {size} is sharded in over {MOST_BOXES} pieces; the file is damaged")
        wanted = []
        for start in range(0, count, stripe):
            length = min(stripe, count - start)
            step = _step(length, parts)
            wanted.append((start + min(index * step, length), start + min((index + 1) * step, length)))
        runs = list(_cut(runs, wanted))
    starts = accumulate((length for _, length in runs), initial=0)
    return tuple((first, start, length) for (first, length), start in zip(runs, starts, strict=False))


def _step(size: int, parts: int) -> int:
    return max(1, -(-size // parts))


def _cut(runs: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges of positions, which ascend, out of runs of indices; join what follows one another."""
    latest: tuple[int, int] | None = None
    number, before = 0, 0  # a run, and the positions before it
    for begin, end in wanted:
        while begin < end:
            first, length = runs[number]
            if begin >= before + length:
                number, before = number + 1, before + length
                continue
            stop = min(end, before + length)
            start, size = first + begin - before, stop - begin
            if latest is not None and sum(latest) == start:
                latest = (latest[0], latest[1] + size)
            else:
                if latest is not None:
                    yield latest
                latest = (start, size)
            begin = stop
    if latest is not None:
        yield latest
