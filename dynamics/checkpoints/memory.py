"""Mappings from names to tensors or arrays as checkpoints, for example an in-memory ``state_dict()``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynamics.checkpoints.tensor import STORAGE, Checkpoint, Ignored, Tensor, from_array
from dynamics.errors import InputError, printable


def read_mapping(mapping: Mapping[str, Any], label: str = "memory") -> Checkpoint:
    """Open the values of ``mapping``: torch tensors (any device), numpy arrays (also of ml_dtypes), or lazy ``Tensor``s."""
    tensors: dict[str, Tensor] = {}
    ignored: list[Ignored] = []
    for name, value in mapping.items():
        tensor = _tensor(str(name), value)
        if isinstance(tensor, str):
            ignored.append(Ignored(str(name), tensor, math.prod(getattr(value, "shape", (0,)))))
        else:
            tensors[str(name)] = tensor
    return Checkpoint(label, "memory", tensors, ignored=tuple(ignored))


def _tensor(name: str, value: Any) -> Tensor | str:
    """Make the tensor, or return the reason why that is not possible."""
    if isinstance(value, Tensor):
        return value.named(name)
    kind = type(value).__module__.split(".")[0]
    if hasattr(value, "__tensor_flatten__") and not hasattr(value, "full_tensor"):  # torchao's and quanto's claim the dense dtype
        return f"quantised as {kind} {type(value).__name__}; compare its dequantize() instead"
    if kind == "torch" and hasattr(value, "data_ptr"):
        return _torch_tensor(name, value)
    if not hasattr(value, "__array__"):
        return f"a {type(value).__name__}, not a tensor"
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    dtype = array.dtype.name
    if dtype not in STORAGE:
        return f"dtype {dtype} has no comparison here"
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    source = _source(array.__array_interface__["data"][0], "cpu", array.nbytes, dtype)
    return from_array(name, array, dtype, source)


def _torch_tensor(name: str, value: Any) -> Tensor | str:
    import torch

    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}, not a tensor"
    if hasattr(value, "full_tensor"):
        raise InputError(f"{printable(name)}: is a DTensor; gather it first, e.g. get_model_state_dict with full_state_dict=True")
    if value.is_meta or value.is_sparse or value.is_quantized or value.is_nested:
        return "a meta, sparse, quantised or nested tensor holds no plain values"
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in STORAGE:
        return f"dtype {dtype} has no comparison here"
    value = value.detach()
    source = _source(value.data_ptr(), str(value.device), value.nbytes, dtype) if value.is_contiguous() else None
    flat = value.contiguous().view(-1)
    if dtype not in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        flat = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])
    storage = STORAGE[dtype]

    def read(start: int, stop: int, _out: np.ndarray) -> np.ndarray:
        chunk: np.ndarray = flat[start:stop].cpu().numpy()
        return chunk.view(storage)

    return Tensor(name, tuple(value.shape), dtype, read, source)


def _source(address: int, device: str, nbytes: int, dtype: str) -> tuple[object, ...] | None:
    """Return the location of the bytes, or None for an empty tensor, whose address is meaningless."""
    return ("memory", device, address, nbytes, dtype) if nbytes else None
