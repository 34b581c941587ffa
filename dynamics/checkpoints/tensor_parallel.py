"""Weights as Meta and Mistral publish them: ``consolidated.NN.pth``, split over tensor-parallel ranks, and ``consolidated*.safetensors``.

The files do not state how a tensor is split; for the modules of Llama this is known by name, and the shapes confirm it. With the numbers of
heads in ``params.json``, tensors get the names of Hugging Face, for which the rows of the query and key projections are reordered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynamics.checkpoints.pickled import grouped, read_pickled
from dynamics.checkpoints.rotary import halves
from dynamics.checkpoints.sharded import Shard, join_shards
from dynamics.checkpoints.tensor import Checkpoint, Ignored, Tensor
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.side_files import read_json

RANK = re.compile(r"consolidated\.(\d+)\.pth")
LAYER = re.compile(r"layers\.(\d+)\.(?:attention\.|feed_forward\.)?(\w+)\.weight")

#: modules of a layer -> axis along which ranks split the weight; None if all ranks hold it
AXES = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "attention_norm": None, "ffn_norm": None}
#: modules of a layer -> Hugging Face's name
MODULES = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
FREQUENCIES = "rope.freqs"


def rank_files(names: Sequence[str]) -> list[str]:
    """Select the files of tensor-parallel ranks, in order of their ranks."""
    return sorted(name for name in names if RANK.fullmatch(name))


def read_ranks(folder: Location, names: Sequence[str]) -> Checkpoint:
    """Join the files of all ranks."""
    where = printable(folder)
    numbers = [int(RANK.sub(r"\1", name)) for name in names]
    missing = next((number for number in range(len(numbers)) if number not in numbers), None)
    if missing is not None:
        raise InputError(f"{where}: holds {len(numbers)} consolidated.NN.pth files, but not rank {missing}'s; fetch it")
    ranks = [read_pickled(folder / name) for name in names]
    for name, rank in zip(names, ranks, strict=True):
        if other := next(iter(rank.tensors.keys() ^ ranks[0].tensors.keys()), None):
            raise InputError(f"{where}: {printable(other)} is not in all files (compare {printable(names[0])} with {printable(name)})")
    norm = ranks[0].tensors.get("norm.weight")
    if norm is None or len(norm.shape) != 1:
        raise InputError(f"{where}: has no norm.weight, from which the width of the model would follow; convert it to Hugging Face format")
    tensors: dict[str, Tensor] = {}
    for name in ranks[0].tensors:
        if name != FREQUENCIES:
            tensors[name] = _join(f"{where}: {printable(name)}", name, [rank.tensors[name] for rank in ranks], norm.shape[0])
    _check_shapes(where, tensors, norm.shape[0], parameters(folder))
    if FREQUENCIES in ranks[0].tensors:
        tensors[FREQUENCIES] = ranks[0].tensors[FREQUENCIES]
    return Checkpoint(str(folder), "consolidated", tensors, ignored=grouped([entry for rank in ranks for entry in rank.ignored]))


def check_alone(path: Location, checkpoint: Checkpoint) -> None:
    """Refuse a single ``consolidated.NN.pth`` that is one rank's part of a model whose other files are missing."""
    match = RANK.fullmatch(path.name)
    if not match:
        return
    where = printable(path)
    if int(match[1]):
        raise InputError(f"{where}: is one tensor-parallel rank's part of the weights; fetch the other files, consolidated.00.pth on")
    norm = checkpoint.tensors.get("norm.weight")
    if norm is not None and len(norm.shape) == 1:
        layers = {name: LAYER.fullmatch(name) for name in checkpoint.tensors}
        known = {name: tensor for name, tensor in checkpoint.tensors.items() if name in TOP or ((m := layers[name]) and m[2] in AXES)}
        _check_shapes(where, known, norm.shape[0], parameters(path.parent))


def _axis(where: str, name: str, shape: tuple[int, ...], width: int) -> int | None:
    """Return the axis along which a weight is split; None if all ranks hold it."""
    match = LAYER.fullmatch(name)
    if match and match[2] in AXES:
        return AXES[match[2]]
    if name == "norm.weight":
        return None
    if name == "output.weight":
        return 0
    if name == "tok_embeddings.weight":  # Llama 1 and 2 split the width, Llama 3 the vocabulary
        return 0 if shape[-1:] == (width,) else 1
    raise InputError(
        f"{where}: it is not known how this tensor is split over the consolidated.NN.pth files; convert to Hugging Face format"
    )


def _join(where: str, name: str, parts: list[Tensor], width: int) -> Tensor:
    axis = _axis(where, name, parts[0].shape, width)
    if any((part.shape, part.dtype) != (parts[0].shape, parts[0].dtype) for part in parts):
        raise InputError(f"{where}: has not one shape in all files; the files are not of one checkpoint")
    if axis is None:
        if any(not np.array_equal(part.stored().view(np.uint8), parts[0].stored().view(np.uint8)) for part in parts[1:]):
            raise InputError(f"{where}: differs between ranks, which should all hold the same; the files are not of one checkpoint")
        return parts[0]
    if len(parts[0].shape) != 2:
        raise InputError(f"{where}: is of shape {parts[0].shape}, a matrix is expected; convert it to Hugging Face format")
    step = parts[0].shape[axis]
    shape = tuple(size * (len(parts) if number == axis else 1) for number, size in enumerate(parts[0].shape))
    shards: list[Shard] = [((0, 0)[:axis] + (rank * step,) + (0, 0)[axis + 1 :], part.shape, part) for rank, part in enumerate(parts)]
    return join_shards(where, shape, parts[0].dtype, shards).named(name)


def _check_shapes(where: str, tensors: Mapping[str, Tensor], width: int, params: Mapping[str, Any]) -> None:
    """Check the joined shapes against one another; a missing rank or another way to split would contradict them."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    vocabulary = params.get("vocab_size")
    counts = _heads(params)
    head = params.get("head_dim")
    queries = counts[0] * head if counts and type(head) is int and head > 0 else width
    if scalar := next((name for name, shape in shapes.items() if not shape), None):
        raise InputError(f"{where}: {printable(scalar)} is a single number; the file is damaged")
    for name, shape in shapes.items():
        match = LAYER.fullmatch(name)
        module = match[2] if match else name
        hidden = shapes.get(name.replace(".w2.", ".w1."), (0,))[0]
        keys = queries * counts[1] // counts[0] if counts else shape[0]
        expected = {
            "wq": (queries, width),
            "wo": (width, queries),
            "wk": (keys, width),
            "wv": (keys, width),
            "w1": (shape[0], width),
            "w3": (shapes.get(name.replace(".w3.", ".w1."), (0,))[0], width),
            "w2": (width, hidden),
            "tok_embeddings.weight": (vocabulary if type(vocabulary) is int and vocabulary > 0 else shape[0], width),
            "output.weight": (shapes.get("tok_embeddings.weight", shape)[0], width),
        }.get(module, (width,))
        if shape != expected:
            raise InputError(
                f"{where}: {printable(name)} is of shape {shape}, where the other tensors and params.json imply {expected}; "
                "a rank's file is missing, or the model is split in another way: convert it to Hugging Face format"
            )


def parameters(folder: Location) -> dict[str, Any]:
    """Read ``params.json``; empty if there is none."""
    path = folder / "params.json"
    params = read_json(path) if path.is_file() else {}
    nested = params.get("model")
    return nested if isinstance(nested, dict) else params


def _heads(params: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the numbers of query heads and of key heads; None if ``params.json`` does not state them."""
    queries = params.get("n_heads")
    keys = queries if params.get("n_kv_heads") is None else params["n_kv_heads"]
    return (queries, keys) if type(queries) is int and type(keys) is int and min(queries, keys) > 0 else None


def with_hugging_face_names(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Checkpoint:
    """Give the tensors of a Llama or Mistral model the names and rows of Hugging Face; other models keep their names."""
    ignored = [*checkpoint.ignored]
    if FREQUENCIES in checkpoint.tensors:
        ignored.append(Ignored(FREQUENCIES, "a table of rotary frequencies, not a weight"))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != FREQUENCIES}
    counts = _heads(params)
    heads = dict(zip(("wq", "wk"), counts, strict=True)) if counts else {}
    parsed = {name: LAYER.fullmatch(name) for name in tensors}
    known = all(name in TOP or (match and match[2] in MODULES) for name, match in parsed.items())
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items() if known and heads else ():
        match = parsed[name]
        if match is None:
            renamed[TOP[name]] = tensor.named(TOP[name])
            continue
        theirs = f"model.layers.{match[1]}.{MODULES[match[2]]}.weight"
        count = heads.get(match[2])
        if count is not None:
            if not tensor.shape or tensor.shape[0] % (2 * count):
                raise InputError(
                    f"{printable(checkpoint.path)}: {printable(name)} {tensor.shape} does not split into the {count} heads of params.json"
                )
            tensor = halves(tensor, count)
        renamed[theirs] = tensor.named(theirs)
    return Checkpoint(checkpoint.path, "consolidated", renamed or tensors, checkpoint.config, grouped(ignored))
