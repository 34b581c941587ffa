"""Small checkpoints made on the spot, writers for each format, and checks that several tests share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dynamics.errors import InputError

SAFETENSORS_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


def bf16(values: np.ndarray) -> np.ndarray:
    """float -> bf16 bit patterns by truncation; enough to make test values."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray | tuple[str, np.ndarray]], pad: int = 0) -> Path:
    """A safetensors file; a value may be (dtype code, array of its bits)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, blobs = 0, []
    for name, value in tensors.items():
        code, array = value if isinstance(value, tuple) else (SAFETENSORS_CODES[value.dtype.name], value)
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": code, "shape": list(np.shape(array)), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return path


def assert_same(tensor, reference, seed=0):
    """Shape, dtype and the bits of the whole and of random ranges."""
    assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(reference.shape), str(reference.dtype))
    import torch

    bits = reference.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    rng, width = np.random.default_rng(seed), tensor.storage.itemsize
    for start, stop in [(0, tensor.numel), *(sorted(rng.integers(0, tensor.numel + 1, 2).tolist()) for _ in range(20))]:
        assert tensor.stored(start, stop).tobytes() == bits[start * width : stop * width], (tensor.name, start, stop)


def ends_well(read, path):
    """Whether all can be read, the values of tensors too, or an ``InputError`` of one line says why not."""
    try:
        for tensor in getattr(read(path), "tensors", {}).values():
            tensor.values()
    except InputError as error:
        return "\n" not in str(error)
    return True
