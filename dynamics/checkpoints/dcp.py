"""Folders of ``torch.distributed.checkpoint``: ``.metadata`` maps the rectangles of each tensor to byte ranges of ``*.distcp`` files."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import FEW, SHARED, Strided, as_strided, grouped, is_optimizer, load_state, refuse_flat, whole_or_stream
from dynamics.checkpoints.safetensors import MAX_HEADER
from dynamics.checkpoints.sharded import Shard, join_shards
from dynamics.checkpoints.tensor import STORAGE, Checkpoint, Ignored, Tensor, from_file, natural_shape, naturals
from dynamics.checkpoints.unpickle import Node, plain, unpickle
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location, exists
from dynamics.io.side_files import json_object

#: classes in ``.metadata``, under the module paths of all versions of torch
CLASSES = frozenset(
    [
        f"torch.distributed.checkpoint.metadata.{name}"
        for name in ["Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"]
        + ["TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"]
    ]
    + [f"torch.distributed.checkpoint.filesystem.{name}" for name in ("_StorageInfo", "_StoragePrefix", "SerializationFormat")]
    + [f"torch.distributed._shard.sharded_tensor.metadata.{name}" for name in ("TensorProperties", "MEM_FORMAT_ENCODING")]
    # the plans of all ranks, which Megatron stores with the metadata
    + [f"torch.distributed.checkpoint.planner.{name}" for name in ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData")]
    + ["megatron.core.dist_checkpointing.strategies.torch.MCoreSavePlan"]
    + ["torch.distributed._shard.metadata.ShardMetadata", "torch.serialization._get_layout", "torch.device"]
    + [f"pathlib.{module}{system}Path" for module in ("", "_local.") for system in ("Posix", "Windows")]
)

#: reason why ``_extra_state``, which Megatron's modules add for Transformer Engine, is not read
EXTRA_STATE = "extra state of a module, not weights"
#: origin and shape of a rectangle
Box = tuple[tuple[int, ...], tuple[int, ...]]


def read_dcp(folder: Location) -> Checkpoint:
    """Read the checkpoint in a folder with a ``.metadata`` file."""
    file = File(folder / ".metadata")
    where = printable(file.path)
    metadata = unpickle(whole_or_stream(file, 0, file.size), where, CLASSES)
    ignored: list[Ignored] = []
    try:
        entries = _weights(metadata.state["state_dict_metadata"], ignored)
        infos = dict(_item_info(index.state, info) for index, info in metadata.state["storage_data"].items())
        items = {name: [_locate(where, name, box, dtype, infos) for box in boxes] for name, (_, dtype, boxes) in entries.items()}
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where}: is not the metadata of a checkpoint ({type(error).__name__}: {printable(error, 60)})") from None
    refuse_flat(entries, printable(folder))
    files = {name: _open(folder, name) for name in dict.fromkeys(name for item in items.values() for name, _, _ in item)}
    claimed = sum(math.prod(box[1]) * STORAGE[dtype].itemsize for _, dtype, boxes in entries.values() for box in boxes)
    if claimed > SHARED * sum(opened.size for opened in files.values()) + FEW:
        raise InputError(f"{where}: claims {claimed} bytes of values, more than its files could hold; the file is damaged")

    tensors: dict[str, Tensor] = {}
    for name, (shape, dtype, boxes) in entries.items():
        label = f"{printable(folder)}: {printable(name)}"
        shards: dict[Box, Shard] = {}
        for box, (path, offset, length) in zip(boxes, items[name], strict=True):
            shards[box] = (*box, _item(label, name, box[1], dtype, files[path], offset, length))
        tensors[name] = join_shards(label, shape, dtype, list(shards.values())).named(name)
    if not tensors and any(is_optimizer(entry.name) for entry in ignored):
        raise InputError(f"{printable(folder)}: holds optimizer state, not weights")
    return Checkpoint(str(folder), "dcp", tensors, ignored=grouped(ignored))


def _weights(entries: dict[str, Node], ignored: list[Ignored]) -> dict[str, tuple[tuple[int, ...], str, list[Box]]]:
    """Map the name of each tensor that is not optimizer state to (shape, dtype, rectangles)."""
    weights = {}
    seen: set[int] = set()
    for name, entry in entries.items():
        if is_optimizer(name):
            ignored.append(Ignored(name, "optimizer state, not weights"))
        elif "._extra_state" in str(name):
            ignored.append(Ignored(str(name), EXTRA_STATE))
        elif not isinstance(name, str) or not entry.path.endswith(".TensorStorageMetadata"):
            ignored.append(Ignored(str(name), "not a tensor"))
        else:
            properties = entry.state["properties"].state
            dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
            shape = natural_shape(entry.state["size"])
            if not isinstance(dtype, str) or dtype not in STORAGE:
                ignored.append(Ignored(name, f"its dtype {plain(dtype)} is not one this reads", math.prod(shape)))
                continue
            if id(entry.state["chunks"]) in seen:  # a list of a million parts, named a million times
                raise ValueError("two tensors share one list of parts")
            seen.add(id(entry.state["chunks"]))
            boxes = [(naturals(chunk.state["offsets"]), natural_shape(chunk.state["sizes"])) for chunk in entry.state["chunks"]]
            weights[name] = (shape, dtype, boxes)
    return weights


def _item_info(index: dict[str, Any], info: Node) -> tuple[tuple[str, tuple[int, ...] | None], Node]:
    """Return the name and the origin of a part, and where it lies."""
    name, origin = index["fqn"], index.get("offset")
    return (name if isinstance(name, str) else "", None if origin is None else naturals(origin)), info


def _locate(where: str, name: str, box: Box, dtype: str, infos: dict[tuple[str, tuple[int, ...] | None], Node]) -> tuple[str, int, int]:
    """Return file, first byte and length of the item that holds a rectangle."""
    info = infos.get((name, box[0]))
    if info is None:
        raise InputError(f"{where}: does not say where the part of {printable(name)} at {box[0]} lies; the save was not finished")
    if info.state.get("transform_descriptors"):
        how = ", ".join(map(plain, info.state["transform_descriptors"]))
        raise InputError(f"{where}: {printable(name)} is stored transformed ({printable(how)}); save again without stream transforms")
    path, (offset, length) = info.state["relative_path"], naturals((info.state["offset"], info.state["length"]))
    if not isinstance(path, str):
        raise ValueError("the name of a file is no text")
    if math.prod(box[1]) * STORAGE[dtype].itemsize > length:
        raise InputError(f"{where}: claims {math.prod(box[1])} {dtype} of {printable(name)} in {length} bytes")
    return path, offset, length


def _open(folder: Location, name: str) -> File:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise InputError(f"{printable(folder)}: .metadata refers to {printable(name)}, which is outside the folder")
    if not exists(folder / name):
        raise InputError(f"{printable(folder)}: {printable(name)} is missing, which .metadata refers to; fetch it")
    return File(folder / name)


def _item(where: str, name: str, shape: tuple[int, ...], dtype: str, file: File, offset: int, length: int) -> Tensor:
    """Make the tensor of a rectangle. Its item is an archive that is opened at the first read, because there can be 100,000 of them."""
    if offset + length > file.size:
        raise InputError(f"{where}: needs byte {offset + length} of {printable(file.path.name)}, which has {file.size}; fetch it again")

    def opened() -> Tensor:
        if file.read(offset, min(length, 4)) == b"PK\x03\x04":
            saved = load_state(file, offset, length)
            strided = as_strided(saved.root, name, saved)
            actual = (strided.dtype, strided.shape) if isinstance(strided, Strided) else strided
            if not isinstance(strided, Strided) or actual != (dtype, shape):
                raise InputError(f"{where}: .metadata says {dtype} {shape}, {printable(file.path.name)} holds {actual}")
            return strided.tensor(name)
        return from_file(name, shape, dtype, file, _in_safetensors(where, name, shape, dtype, file, offset))

    opened_tensors: list[Tensor] = []

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        if not opened_tensors:  # two threads may both open it, which is harmless
            opened_tensors.append(opened())
        return opened_tensors[0].read(start, stop, out)

    return Tensor(name, shape, dtype, read, (file.identity, offset, name, shape))


def _in_safetensors(where: str, name: str, shape: tuple[int, ...], dtype: str, file: File, offset: int) -> int:
    """Return the first byte of a tensor in a file of ``SerializationFormat.SAFETENSORS``, where all items point to the same header."""
    try:
        size = int.from_bytes(file.read(offset, 8), "little")
        header = json_object(file.read(offset + 8, size), where) if size <= min(file.size - offset - 8, MAX_HEADER) else {}
        begin, end = header[name]["data_offsets"]
        fits = end - begin == math.prod(shape) * STORAGE[dtype].itemsize and begin >= 0 and offset + 8 + size + end <= file.size
        if fits and tuple(header[name]["shape"]) == shape:
            return int(offset + 8 + size + begin)
    except (ValueError, KeyError, TypeError):  # an InputError is a ValueError
        pass
    raise InputError(f"{where}: is not at byte {offset} of {printable(file.path.name)} as .metadata says; the file is damaged")
