"""Folders of ``torch.distributed.checkpoint``: ``.metadata`` maps the rectangles of each tensor to byte ranges of ``*.distcp`` files."""

from __future__ import annotations

import io
import json
import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import Strided, as_strided, grouped, is_optimizer, load_state, refuse_flat
from dynamics.checkpoints.sharded import Shard, join_shards
from dynamics.checkpoints.tensor import STORAGE, Checkpoint, Ignored, Tensor, from_file
from dynamics.checkpoints.unpickle import Node, unpickle
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location, exists

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
    metadata = unpickle(io.BytesIO(file.read(0, file.size)), where, CLASSES)
    ignored: list[Ignored] = []
    try:
        entries = _weights(metadata.state["state_dict_metadata"], ignored)
        infos = {(index.state["fqn"], index.state.get("offset")): info for index, info in metadata.state["storage_data"].items()}
        items = {name: [_locate(where, name, box, dtype, infos) for box in boxes] for name, (_, dtype, boxes) in entries.items()}
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where}: is not the metadata of a checkpoint ({type(error).__name__}: {printable(error)})") from None
    refuse_flat(entries, printable(folder))
    files = {name: _open(folder, name) for name in dict.fromkeys(name for item in items.values() for name, _, _ in item)}

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
            if dtype not in STORAGE:
                count = math.prod(_numbers(entry.state["size"]))
                ignored.append(Ignored(name, f"its dtype {printable(dtype)} is not one this reads", count))
                continue
            boxes = [(_numbers(chunk.state["offsets"]), _numbers(chunk.state["sizes"])) for chunk in entry.state["chunks"]]
            weights[name] = (_numbers(entry.state["size"]), dtype, boxes)
    return weights


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("a shape or offset is not made of numbers")
    return values


def _locate(where: str, name: str, box: Box, dtype: str, infos: dict[tuple[str, Any], Node]) -> tuple[str, int, int]:
    """Return file, first byte and length of the item that holds a rectangle."""
    info = infos.get((name, box[0]))
    if info is None:
        raise InputError(f"{where}: does not say where the part of {printable(name)} at {box[0]} lies; the save was not finished")
    if info.state.get("transform_descriptors"):
        how = ", ".join(map(str, info.state["transform_descriptors"]))
        raise InputError(f"{where}: {printable(name)} is stored transformed ({printable(how)}); save again without stream transforms")
    path, offset, length = str(info.state["relative_path"]), *_numbers((info.state["offset"], info.state["length"]))
    if math.prod(box[1]) * STORAGE[dtype].itemsize > length:
        raise InputError(f"{where}: claims {math.prod(box[1])} {dtype} of {printable(name)} in {length} bytes")
    return path, offset, length


def _open(folder: Location, name: str) -> File:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
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
        header = json.loads(file.read(offset + 8, size)) if size <= file.size - offset - 8 else {}
        begin, end = header[name]["data_offsets"]
        fits = end - begin == math.prod(shape) * STORAGE[dtype].itemsize and begin >= 0 and offset + 8 + size + end <= file.size
        if fits and tuple(header[name]["shape"]) == shape:
            return int(offset + 8 + size + begin)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{where}: is not at byte {offset} of {printable(file.path.name)} as .metadata says; the file is damaged")
