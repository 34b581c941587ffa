"""Megatron checkpoints: ``torch_dist`` folders of Megatron Core, and the older files of a single rank.

A ``torch_dist`` folder is a torch distributed checkpoint in which the tensors of all layers are stacked along a new first axis, and those
of all experts along a second one. Here they get the names that they have in Megatron's own model. These are not Hugging Face's names, and
the rows of ``linear_qkv`` are ordered by query group, so a Megatron checkpoint can be compared with another one only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from dynamics.checkpoints.dcp import EXTRA_STATE, read_dcp
from dynamics.checkpoints.pickled import grouped, read_pickled
from dynamics.checkpoints.tensor import Checkpoint, Ignored, Tensor
from dynamics.checkpoints.unpickle import ALLOWED
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.side_files import read_json, read_pointer

POINTER = "latest_checkpointed_iteration.txt"
#: a name in which the layers are stacked: ``decoder.layers.mlp.linear_fc1.weight``
STACKED = re.compile(r"(.*?\blayers\.)(?!\d)(.+)")
EXPERTS = ".experts.experts."
#: layers of a model, experts of a layer
MOST_LAYERS = 16_384
RANK = re.compile(r"mp_rank_\d+(_\d+)*")

#: classes in the arguments that Megatron stores in the older files
CLASSES = ALLOWED | {
    f"megatron.{name}"
    for name in [
        *(f"core.transformer.enums.{name}" for name in ("AttnBackend", "AttnMaskType", "AttnType", "LayerType", "ModelType")),
        *(f"core.enums.{name}" for name in ("ModelType", "Fp8Recipe")),
        *(
            f"{module}enums.{name}"
            for module in ("", "model.")
            for name in ("PositionEmbeddingType", "AttnMaskType", "LayerType", "ModelType")
        ),
        "core.rerun_state_machine.RerunMode",
        "core.rerun_state_machine.RerunState",
        "core.rerun_state_machine.RerunDiagnostic",
    ]
}


def backend(folder: Location) -> str:
    """Return the format of Megatron's that a folder states; empty for other folders."""
    path = folder / "metadata.json"
    return str(read_json(path).get("sharded_backend", "")) if path.is_file() else ""


def read_torch_dist(folder: Location) -> Checkpoint:
    """Read a ``torch_dist`` checkpoint."""
    stored = read_dcp(folder)
    counts: dict[str, set[int]] = {}
    for name, tensor in stored.tensors.items():
        if match := STACKED.fullmatch(name):
            counts.setdefault(match[1], set()).add(tensor.shape[0] if tensor.shape else 0)
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.tensors.items():
        match = STACKED.fullmatch(name)
        # without one number of layers for all, the first axis is something else
        stacked = match is not None and tensor.numel > 0 and len(counts[match[1]]) == 1 and max(tensor.shape[:1]) <= MOST_LAYERS
        unstacked = _layers(match[1], match[2], tensor) if match and stacked else [tensor]
        for single in unstacked:
            if single.name in tensors:
                raise InputError(f"{printable(folder)}: {printable(single.name)} is stored twice, stacked and alone; the folder is damaged")
            tensors[single.name] = single
    return replace(stored, format="megatron", tensors=tensors)


def _layers(prefix: str, rest: str, tensor: Tensor) -> Iterator[Tensor]:
    """Split a stack of layers, and the stacks of experts in it."""
    for layer in range(tensor.shape[0]):
        name = f"{prefix}{layer}.{rest}"
        single = tensor.item(layer, name)
        if EXPERTS in name and len(single.shape) == 3 and single.shape[0] <= MOST_LAYERS:
            for expert in range(single.shape[0]):
                yield single.item(expert, name.replace(EXPERTS, f".experts.local_experts.{expert}."))
        else:
            yield single


def refuse_other_backend(folder: Location) -> None:
    """Refuse a Megatron folder in another format than ``torch_dist``."""
    if kind := backend(folder):
        raise InputError(
            f"{printable(folder)}: is a Megatron checkpoint in the format {printable(kind)}; save it again with --ckpt-format torch_dist"
        )


def iteration_folder(folder: Location, children: set[str]) -> Location | None:
    """Return the sub-folder of the last iteration, as Megatron's pointer names it; None if there is no pointer."""
    if not (folder / POINTER).is_file():
        return None
    text = read_pointer(folder / POINTER)
    name = f"iter_{text:0>7}" if text.isdecimal() else text
    if name not in children:
        raise InputError(f"{printable(folder)}: {POINTER} names the folder {printable(name)}, which is not there; fetch it")
    return folder / name


def read_ranks(folder: Location, children: set[str]) -> Checkpoint | None:
    """Read the older format, ``mp_rank_00/model_optim_rng.pt``, of a model that is not split; None if the folder holds none."""
    ranks = sorted(name for name in children if RANK.fullmatch(name))
    path = folder / (ranks[0] if ranks else "") / "model_optim_rng.pt"
    if not ranks or not path.is_file():
        return None
    if len(ranks) > 1:
        raise InputError(
            f"{printable(folder)}: is a Megatron checkpoint split over {len(ranks)} ranks ({', '.join(ranks[:3])}); "
            "save it again with --ckpt-format torch_dist"
        )
    checkpoint = read_pickled(path, CLASSES)
    extra = [Ignored(name, EXTRA_STATE) for name in checkpoint.tensors if name.endswith("._extra_state")]
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith("._extra_state")}
    return replace(checkpoint, path=str(folder), format="megatron", tensors=tensors, ignored=grouped([*checkpoint.ignored, *extra]))
