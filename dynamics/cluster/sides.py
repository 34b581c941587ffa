"""Describe a checkpoint by plain values, so that two hosts can tell that they read the same one, and one without it can report on it.

Compared are the format, the names, shapes and dtypes of all tensors, what is ignored, and a sample of the stored values. A sample notices
another checkpoint of the same run. It proves nothing: two checkpoints that differ in a few weights only can have the same sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from dynamics.checkpoints import Checkpoint, Ignored, Tensor
from dynamics.errors import InputError, printable

#: tensors of a checkpoint whose values are sampled, and elements of each
SAMPLED, ELEMENTS = 32, 2048


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint.

    Attributes
    ----------
    path : as given, or that of the adapter.
    format, dequantised, base_name : see ``checkpoints.Checkpoint``.
    tensors : name, shape and dtype of each.
    ignored : name, reason and number of parameters of each ignored entry.
    gguf_types : number of tensors by type of GGUF, if it is such a file.
    sample : digest of a sample of the values.
    """

    path: str
    format: str
    dequantised: dict[str, int]
    base_name: str
    tensors: list[tuple[str, list[int], str]]
    ignored: list[tuple[str, str, int]]
    gguf_types: dict[str, int] | None
    sample: str


def describe(checkpoint: Checkpoint) -> Side:
    """Describe a checkpoint; reads a few kB of some of its tensors."""
    return Side(
        checkpoint.path,
        checkpoint.format,
        checkpoint.dequantised,
        checkpoint.base_name,
        [(name, list(tensor.shape), tensor.dtype) for name, tensor in checkpoint.tensors.items()],
        [(entry.name, entry.reason, entry.numel) for entry in checkpoint.ignored],
        (checkpoint.config or {}).get("gguf_types"),
        _sample(list(checkpoint.tensors.values())),
    )


def _sample(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for index in sorted(set(np.linspace(0, len(tensors) - 1, min(SAMPLED, len(tensors))).round().astype(int).tolist())):
        numel = tensors[index].numel
        start = max(0, numel - ELEMENTS) // 2
        values = tensors[index].stored(start, min(numel, start + ELEMENTS))
        if tensors[index].derived is not None:  # of an adapter: products, whose last bits depend on the host
            values = values.astype(np.float32)
        digest.update(values.tobytes())
    return digest.hexdigest()


def rebuilt(side: Side) -> Checkpoint:
    """Return the checkpoint of a description; its values cannot be read."""
    tensors = {name: unread(name, shape, dtype) for name, shape, dtype in side.tensors}
    ignored = tuple(Ignored(*entry) for entry in side.ignored)
    config = None if side.gguf_types is None else {"gguf_types": side.gguf_types}
    return Checkpoint(
        side.path, side.format, tensors, config=config, ignored=ignored, dequantised=side.dequantised, base_name=side.base_name
    )


def unread(name: str, shape: Sequence[int], dtype: str) -> Tensor:
    """Return a tensor of which only name, shape and dtype are known."""

    def refuse(_start: int, _stop: int, _out: np.ndarray) -> np.ndarray:
        raise InputError(f"{printable(name)}: a merged comparison holds no weights; open the checkpoint")

    return Tensor(name, tuple(shape), dtype, refuse)


def difference(one: Side, other: Side) -> str:
    """Say how two checkpoints differ; empty if they do not, as far as is compared. Paths may differ."""
    tensors, others = ({name: (tuple(shape), dtype) for name, shape, dtype in side.tensors} for side in (one, other))
    for name in (*tensors, *others):
        if tensors.get(name) != others.get(name):
            return f"tensor {printable(name)} is {_what(others.get(name))} there, {_what(tensors.get(name))} here"
    if one.sample != other.sample:
        return "its tensors have the same names, shapes and dtypes, but other values"
    for field in ("format", "tensors", "ignored", "dequantised", "base_name", "gguf_types"):
        if getattr(one, field) != getattr(other, field):
            return f"it has another {field.replace('_', ' ')}"
    return ""


def _what(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "not" if entry is None else f"{entry[1]} {'x'.join(map(str, entry[0])) or 'scalar'}"
