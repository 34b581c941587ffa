"""Read files of ``torch.save`` lazily, without torch and without executing the pickle.

``unpickle`` reads the pickle, and the values stay in the file. A tensor record gives the storage, first element and strides of a tensor;
the archive gives the offset of the storage. ``torch.load`` under ``FakeTensorMode`` would give the same offsets, but it fails on a file
with a quantized or nested tensor and on shards of an older ``DeviceMesh``, and needs the import of torch.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dynamics.checkpoints.archives import Archive, FileRange
from dynamics.checkpoints.files import File
from dynamics.checkpoints.sharded import split_into_boxes
from dynamics.checkpoints.tensor import LONGEST_NAME, STORAGE, Checkpoint, Ignored, Tensor, from_file, natural_shape, naturals
from dynamics.checkpoints.unpickle import (
    ALLOWED,
    PLAIN,
    REBUILD,
    SUBCLASS,
    UNREADABLE,
    WHOLE,
    WIDTHS,
    WRAPPERS,
    Node,
    Storage,
    plain,
    unpickle,
)
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location

#: keys under which trainers store optimizer state next to the weights
OPTIMIZER = frozenset([
    "optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim", "optim_state_dict",
    "opt_state", "param_groups", "lr_scheduler", "lr_schedulers", "scheduler", "scheduler_state_dict", "grad_scaler", "scaler",
])  # fmt: skip
#: keys under which trainers store the weights, most specific first
NESTED = ("model_state_dict", "state_dict", "model", "module", "network", "state")
BUFFER = "a buffer, not a weight: no optimizer updates it"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
#: wrappers around one tensor, such as a parameter of a subclass
WRAPPED = 8
#: Tensors may share values, so that they have more bytes than their file; no model has so many times more.
SHARED, FEW = 64, 1 << 30
#: a strided read of up to this many bytes is a single read instead of a read for each run
SLACK = 1 << 20


@dataclass(frozen=True)
class Saved:
    """The content of one ``torch.save``: ``root``, made of plain containers and ``Node``s, and ``offset_of(storage)``, its first byte."""

    file: File
    root: Any
    offset_of: Callable[[Storage], int]
    _claimed: list[int] = field(default_factory=list)

    def claim(self, count: int) -> bool:
        """Add a tensor's bytes to those of the others; return whether the file can have so many."""
        self._claimed[:] = [sum(self._claimed) + count]
        return self._claimed[0] <= SHARED * self.file.size + FEW


def load_state(file: File, start: int = 0, size: int | None = None, allowed: frozenset[str] = ALLOWED) -> Saved:
    """Open the output of ``torch.save`` in bytes ``start:start + size`` of a file, without reading values.

    ``allowed`` lists the functions and classes that its pickle may name.
    """
    where = printable(file.path)
    size = file.size - start if size is None else size
    if size == 0:
        raise InputError(f"{where}: is empty")
    head = file.read(start, min(size, 4))
    if head == b"PK\x03\x04":
        return _load_zip(file, start, size, allowed)
    if head[:1] == b"\x80":
        return _load_legacy(file, start, size, allowed)
    raise InputError(f"{where}: is not a file of torch.save (it starts with {head!r})")


def _load_zip(file: File, start: int, size: int, allowed: frozenset[str]) -> Saved:
    where = printable(file.path)
    archive = Archive(file, start, size)
    if "data.pkl" not in archive:
        raise InputError(f"{where}: is a zip file without data.pkl, so not a file of torch.save")
    if "constants.pkl" in archive:
        raise InputError(f"{where}: is a TorchScript program; save the model's state_dict() instead")

    def offset_of(storage: Storage) -> int:
        first, room = archive.body(f"data/{storage.key}")
        if storage.size * WIDTHS[storage.dtype] > room:
            raise InputError(f"{where}: storage {printable(storage.key)} claims {storage.size} {storage.dtype} in {room} bytes")
        return first

    if "byteorder" in archive and file.read(*archive.body("byteorder")) != b"little":
        raise InputError(f"{where}: was written on a big-endian machine; load and save it once on a little-endian one")
    return Saved(file, unpickle(whole_or_stream(file, *archive.body("data.pkl")), where, allowed), offset_of)


def whole_or_stream(file: File, start: int, size: int) -> io.BytesIO | io.BufferedReader[FileRange]:
    """Return a pickle in a file as a stream: in memory, which is faster, or as it is needed if it is large."""
    return io.BytesIO(file.read(start, size)) if size <= WHOLE else io.BufferedReader(FileRange(file, start, size))


def _load_legacy(file: File, start: int, size: int, allowed: frozenset[str]) -> Saved:
    """Read the format of torch < 1.6: consecutive pickles (magic, version, machine, objects, storage keys), then the storages."""
    where = printable(file.path)
    stream = io.BufferedReader(FileRange(file, start, size))
    if unpickle(stream, where) != LEGACY_MAGIC:
        raise InputError(f"{where}: is a pickle, but not one of torch.save")
    storages: dict[str, Storage] = {}
    _, machine, root, keys = (unpickle(stream, where, allowed, storages) for _ in range(4))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise InputError(f"{where}: was written on a big-endian machine; load and save it once on a little-endian one")
    first, end = start + stream.tell(), start + size
    offsets: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or first + 8 > end:
            raise InputError(f"{where}: is cut short or damaged at storage {printable(key)}; fetch it again")
        (count,) = struct.unpack("<q", file.read(first, 8))
        offsets[key] = first + 8
        first += 8 + count * WIDTHS[storage.dtype]
        if count < storage.size or first > end:
            raise InputError(f"{where}: storage {printable(key)} reaches beyond the file; fetch it again")

    def offset_of(storage: Storage) -> int:
        if storage.key not in offsets:
            raise InputError(f"{where}: lacks storage {printable(storage.key)}; fetch it again")
        return offsets[storage.key]

    return Saved(file, root, offset_of)


@dataclass(frozen=True)
class Strided:
    """A strided tensor in a file: element ``(i, j)`` is at byte ``origin + (i * strides[0] + j * strides[1]) * width``."""

    file: File
    origin: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def narrow(self, axis: int, start: int, length: int) -> Strided:
        """Select ``length`` indices of an axis, starting at ``start``."""
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        return replace(self, shape=shape, origin=self.origin + start * self.strides[axis] * STORAGE[self.dtype].itemsize)

    def tensor(self, name: str) -> Tensor:
        """Make a lazy tensor of these elements, in row-major order."""
        shape, strides = _merge_axes(self.shape, self.strides)
        if math.prod(shape) <= 1 or strides == (1,):
            return from_file(name, self.shape, self.dtype, self.file, self.origin)

        def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
            out, done = out[: stop - start], 0
            for first, sizes in split_into_boxes(shape, start, stop):
                count = math.prod(sizes)
                origin = self.origin + sum(i * s for i, s in zip(first, strides, strict=True)) * out.itemsize
                _gather(self.file, origin, sizes, strides, out[done : done + count].reshape(sizes))
                done += count
            return out

        return Tensor(name, self.shape, self.dtype, read, (self.file.identity, self.origin, self.dtype, shape, strides))


def _merge_axes(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Describe the same elements in the same order with the fewest axes; a contiguous tensor has a single axis of stride 1."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(size for size, _ in merged), tuple(stride for _, stride in merged)


def _gather(file: File, origin: int, shape: tuple[int, ...], strides: tuple[int, ...], out: np.ndarray) -> None:
    """Fill ``out`` from a strided box, in a single read if most of the bytes in between are needed, else part by part.

    This matters for transposed matrices, where some rows of the tensor are a few elements of each row in the file.
    """
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if extent * out.itemsize <= SLACK or extent <= 4 * math.prod(shape):
        buffer = np.empty(extent, out.dtype)
        file.read_into(origin, buffer)
        out[...] = np.lib.stride_tricks.as_strided(buffer, shape, [stride * out.itemsize for stride in strides])
        return
    axis = strides.index(max(strides))
    rest = shape[:axis] + shape[axis + 1 :], strides[:axis] + strides[axis + 1 :]
    for index in range(shape[axis]):
        _gather(file, origin + index * strides[axis] * out.itemsize, *rest, out[(slice(None),) * axis + (index,)])


def unwrap(value: Any) -> Any:
    """Remove wrappers such as ``Parameter`` from a tensor record."""
    for _ in range(WRAPPED):
        if not isinstance(value, Node) or not value.args:
            return value
        inner = value.args[0]
        if value.path in WRAPPERS:
            value = inner
        elif value.path == SUBCLASS and _rebuilds(inner) and len(value.args) > 2 and isinstance(value.args[2], tuple):
            value = inner(*value.args[2])
        else:
            return value
    raise ValueError("a tensor is wrapped in itself")


def _rebuilds(value: Any) -> bool:
    """Tell whether a value is the stand-in for a function that makes a tensor."""
    return isinstance(value, type) and issubclass(value, Node) and value.path != f"{REBUILD}wrapper_subclass"


def as_strided(value: Any, name: str, saved: Saved) -> Strided | str | None:
    """Locate the values of a tensor record; return the reason as text if they cannot be read, and None if it is not a tensor."""
    where = f"{printable(saved.file.path)}: {printable(name)}"
    try:
        value = unwrap(value)
        if not isinstance(value, Node):
            return None
        if value.path in UNREADABLE:
            return f"{UNREADABLE[value.path]}, not read"
        if value.path == SUBCLASS:
            return f"a tensor subclass ({printable(value.args[1].path, 60)}), not read"
        return _strided(value, where, saved) if value.path in PLAIN else None
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise InputError(f"{where}: its tensor record is damaged ({type(error).__name__}); fetch the file again") from None


def claimed_elements(record: Any) -> int:
    """Count the elements of the shape in the record of a tensor that cannot be read; 0 if there is none."""
    record = unwrap(record)
    arguments = record.args[2] if record.path == SUBCLASS and len(record.args) > 2 else record.args
    for shape in arguments if isinstance(arguments, tuple) else ():
        with contextlib.suppress(ValueError):
            if isinstance(shape, tuple) and shape:
                return math.prod(natural_shape(shape))
    return 0


def _strided(node: Node, where: str, saved: Saved) -> Strided | str:
    storage, offset, shape, strides = node.args[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = node.args[6] if node.path.endswith("_v3") else storage.dtype
    if not isinstance(dtype, str) or dtype not in STORAGE:
        return f"its dtype {plain(dtype)} is not one this reads"
    try:
        (offset,), shape, strides = naturals([offset]), naturals(shape), naturals(strides)
    except ValueError:
        shape, strides = (), (0,)
    if len(shape) != len(strides):
        raise InputError(f"{where}: its tensor record is damaged (shape or strides); fetch the file again")
    width, room = STORAGE[dtype].itemsize, storage.size * WIDTHS[storage.dtype]
    if math.prod(shape) == 0:
        return Strided(saved.file, 0, dtype, shape, strides)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if (last + 1) * width > room:
        raise InputError(f"{where}: reaches to byte {(last + 1) * width} of a storage of {room}; the file is damaged")
    # a stride of 0 repeats values, so the storage does not limit the shape, and reading an absurd shape would not end
    count = math.prod(shape) * width
    if count > max(saved.file.size, FEW) or not saved.claim(count):
        raise InputError(f"{where}: claims {math.prod(shape)} elements, more than the file could hold")
    return Strided(saved.file, saved.offset_of(storage) + offset * width, dtype, shape, strides)


def read_pickled(path: Location, allowed: frozenset[str] = ALLOWED) -> Checkpoint:
    """Read the checkpoint in a ``.bin``, ``.pt`` or ``.pth`` file: a state dict, alone or under a key such as ``model``."""
    where = printable(path)
    saved = load_state(File(path), allowed=allowed)
    if not isinstance(saved.root, dict):
        contents = "one tensor" if isinstance(saved.root, Node) else f"a {type(saved.root).__name__}"
        raise InputError(f"{where}: holds {contents}, not a state dict of names and tensors")
    ignored: list[Ignored] = []
    state = find_weights(saved.root, where, ignored)
    tensors: dict[str, Tensor] = {}
    buffers = texts_in(saved.root.get("buffer_names"))  # of DeepSpeed
    for name, value in _flatten(where, state, ignored):
        strided = as_strided(value, name, saved)
        if name in buffers:
            ignored.append(Ignored(name, BUFFER))
        elif strided is None:
            ignored.append(Ignored(name, "not a tensor"))
        elif isinstance(strided, str):
            if "DTensor" in strided:
                raise InputError(f"{where}: {printable(name)} is one rank's part of a DTensor; all ranks' files are needed")
            ignored.append(Ignored(name, strided, claimed_elements(value)))
        elif name in tensors:
            raise InputError(f"{where}: holds two entries named {printable(name)}")
        else:
            tensors[name] = strided.tensor(name)
    _check_whole(tensors, where)
    return Checkpoint(str(path), "torch", tensors, ignored=grouped(ignored))


def find_weights(root: Mapping[Any, Any], where: str, ignored: list[Ignored]) -> Mapping[Any, Any]:
    """Descend into ``{"state": {"model": ...}}``, and add the other entries to ``ignored``."""
    taken = ""
    for _ in range(3):
        if "param_groups" in root and "state" in root:
            raise InputError(f"{where}: holds optimizer state, not weights")
        key = next((key for key in NESTED if isinstance(root.get(key), dict) and next(_flatten(where, root[key], []), None)), None)
        if key is None:
            break
        taken += f"{key}."
        for other, value in root.items():
            if other != key:
                reason = f"outside {taken[:-1]}, which holds the weights" if isinstance(value, dict | Node) else "not a tensor"
                ignored.append(Ignored(str(other)[:200], "optimizer state, not weights" if is_optimizer(other) else reason))
        root = root[key]
    return root


def texts_in(value: Any) -> set[str]:
    """Return the texts in a list or tuple; empty for anything else."""
    return {name for name in value if isinstance(name, str)} if isinstance(value, (list, tuple)) else set()


def _flatten(
    where: str, state: Mapping[Any, Any], ignored: list[Ignored], prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """Collect tensor records under the keys of their parent dictionaries, joined by dots; other entries go to ``ignored``."""
    seen = set() if seen is None else seen
    for key, value in state.items():
        name = f"{prefix}{key}" if isinstance(key, str | int) else f"{prefix}?"
        if len(name) > LONGEST_NAME:
            raise InputError(f"{where}: has an entry whose name has {len(name)} characters ({printable(name, 40)}); the file is damaged")
        if isinstance(value, Node):
            yield name, value
        elif is_optimizer(key) and isinstance(value, dict | list):
            ignored.append(Ignored(name, "optimizer state, not weights"))
        elif isinstance(value, dict) and id(value) not in seen and len(seen) < 100_000 and prefix.count(".") < 50:
            seen.add(id(value))  # a dictionary can occur several times in a pickle, and even contain itself
            yield from _flatten(where, value, ignored, f"{name}.", seen)
        else:
            ignored.append(Ignored(name, "not a tensor"))


def _check_whole(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse files of sharded trainers that look like checkpoints but hold only a part of the weights."""
    refuse_flat(tensors, where)
    empty = sum(tensor.shape == (0,) for tensor in tensors.values())
    if empty and 2 * empty > len(tensors):
        raise InputError(
            f"{where}: {empty} of {len(tensors)} tensors are empty placeholders, as DeepSpeed ZeRO-3 leaves them; "
            "name the folder that holds the files of all ranks"
        )


def refuse_flat(names: Iterable[str], where: str) -> None:
    """Refuse the flat parameters of FSDP1, each of which holds several parameters end to end."""
    for name in names:
        if name.rsplit(".", 1)[-1] in ("_flat_param", "flat_param"):
            raise InputError(
                f"{where}: {printable(name)} is a flat parameter of FSDP1 (LOCAL_STATE_DICT), which does not tell its parameters apart; "
                "save a SHARDED_STATE_DICT or a FULL_STATE_DICT"
            )


def is_optimizer(name: object) -> bool:
    """Tell whether an entry, or one of the first two parts of a flattened name, is a trainer's name for optimizer state."""
    if not isinstance(name, str):
        return False
    return any(
        re.sub(r"_?\d+$", "", part) in OPTIMIZER for part in name.split(".")[:2]
    )  # optimizer_0: Lightning and accelerate number them


def grouped(ignored: list[Ignored], limit: int = 8) -> tuple[Ignored, ...]:
    """Merge the names that share a reason into one row if there are more than ``limit`` of them."""
    groups: dict[str, list[Ignored]] = {}
    for entry in ignored:
        groups.setdefault(entry.reason, []).append(entry)
    rows: list[Ignored] = []
    for reason, group in groups.items():
        merged = Ignored(f"{group[0].name} and {len(group) - 1} more", reason, sum(entry.numel for entry in group))
        rows += group if len(group) <= limit else [merged]
    return tuple(rows)
