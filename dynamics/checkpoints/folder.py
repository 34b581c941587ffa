"""Hugging Face folders: select the weight files as ``from_pretrained`` would, and list the ignored files with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath

from dynamics.checkpoints import tensor_parallel
from dynamics.checkpoints.dcp import read_dcp
from dynamics.checkpoints.deepspeed import (
    MODEL_STATES,
    OPTIMIZER_STATES,
    is_deepspeed,
    is_universal,
    read_deepspeed,
    read_universal,
    step_folder,
)
from dynamics.checkpoints.files import File
from dynamics.checkpoints.fsdp import rank_files, read_fsdp_shards
from dynamics.checkpoints.megatron import backend, iteration_folder, read_ranks, read_torch_dist, refuse_other_backend
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.checkpoints.sharded import NOT_WEIGHTS, RANK_SHARD, WEIGHTS
from dynamics.checkpoints.tensor import Checkpoint, Ignored, Tensor
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.paths import choose_checkpoint, trainer_checkpoints
from dynamics.io.side_files import read_json

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTERS = frozenset(["adapter_model.safetensors", "adapter_model.bin"])
NUMBERED = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(\.[a-z]+)$")

#: names of files that are read, of weights or of what is said about them
READ = re.compile(r"\.(json|safetensors|bin|pt|pth|gguf|distcp|metadata|npy|npz)$|^latest")
#: files of numpy
ARRAYS = (".npy", ".npz")
#: folders in which trainers store the weights of all ranks, beside those of the whole model
SHARDED = re.compile(r"global_step\d+$|pytorch_model_fsdp_\d+$")


def read_folder(folder: Location) -> Checkpoint:
    """Read the checkpoint in ``folder``, in any of the supported layouts."""
    files, children = _entries(folder)
    if "adapter_config.json" in files and (ADAPTERS & files.keys() or not _holds_weights(files)):
        from dynamics.checkpoints.adapter import read_adapter

        return read_adapter(folder, _beside_adapter(folder, files, children))
    if ".metadata" in files:
        return read_torch_dist(folder) if backend(folder) == "torch_dist" else read_dcp(folder)
    if shards := rank_files(files):
        return read_fsdp_shards(folder, shards)
    if is_universal(folder, children):
        return read_universal(folder)
    if is_deepspeed(list(files)):
        return read_deepspeed(folder, list(files))
    chosen = _choose(folder, files)
    if not chosen:
        return _read_other(folder, files, children)
    if all(path.name.startswith("consolidated") for path in chosen):
        return _consolidated(folder, files, chosen)
    checkpoint = _merge(folder, files, chosen)
    if children and not checkpoint.tensors and chosen[0].suffix != ".safetensors":
        return _read_other(folder, {name: path for name, path in files.items() if path not in chosen}, children)
    others = [
        Ignored(name, f"folder not read: the weights were taken from {chosen[0].name}") for name in sorted(children) if SHARDED.match(name)
    ]
    return replace(checkpoint, ignored=checkpoint.ignored + tuple(others))


def _entries(folder: Location) -> tuple[dict[str, Location], set[str]]:
    """List the files and the folders in a folder; refuse a pipe or a device that has the name of a file which is read."""
    try:
        entries: list[Location] = sorted(folder.iterdir(), key=lambda entry: entry.name)
        files = {entry.name: entry for entry in entries if entry.is_file() or entry.is_symlink()}
        children = {entry.name for entry in entries if entry.is_dir()}
    except OSError as error:
        raise InputError(f"{printable(folder)}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name not in files and entry.name not in children and READ.search(entry.name):
            File(entry)
    return files, children


def _consolidated(folder: Location, files: dict[str, Location], chosen: list[Location]) -> Checkpoint:
    """Read the weights as Meta or Mistral publish them."""
    ranks = tensor_parallel.rank_files([path.name for path in chosen])
    checkpoint = tensor_parallel.read_ranks(folder, ranks) if len(ranks) > 1 else _merge(folder, files, chosen)
    if len(ranks) == 1:
        tensor_parallel.check_alone(folder / ranks[0], checkpoint)
    return tensor_parallel.with_hugging_face_names(checkpoint, tensor_parallel.parameters(folder))


def refuse_part(path: Location) -> None:
    """Refuse a file that holds one rank's part of the weights, beside the other ranks' files."""
    name = path.name
    if RANK_SHARD.search(name):
        raise InputError(f"{printable(path)}: is one rank's shard; name the folder that holds all of them")
    if OPTIMIZER_STATES.fullmatch(name):
        raise InputError(f"{printable(path)}: is one rank's optimizer state of DeepSpeed; name the folder that holds all of them")
    for pattern in (tensor_parallel.RANK, MODEL_STATES):
        match = pattern.fullmatch(name)
        if match and any(
            (other := pattern.fullmatch(entry.name)) and other[pattern.groups] != match[pattern.groups] for entry in path.parent.iterdir()
        ):
            raise InputError(
                f"{printable(path)}: is one tensor-parallel rank's part of the weights; name the folder that holds all of them"
            )


def _holds_weights(files: Iterable[str]) -> bool:
    """Tell whether names of files are those of the weights of a model, as a whole or sharded."""
    return any(name == ".metadata" or (name.endswith((*WEIGHTS, ".gguf")) and not NOT_WEIGHTS.match(name)) for name in files)


def _beside_adapter(folder: Location, files: dict[str, Location], children: set[str]) -> tuple[Ignored, ...]:
    """List the weights and the other adapters that lie in the folder of an adapter, and in the folders in it."""
    aside = "full weights beside the adapter, left aside: the adapter was applied to BASE"
    ignored = [Ignored(name, aside) for name in files if name not in ADAPTERS and _holds_weights([name])]
    for child in sorted(children):
        names = {entry.name for entry in (folder / child).iterdir()}
        if "adapter_config.json" in names:
            ignored.append(Ignored(f"{child}/", "another adapter, not read: name its folder to read it"))
        elif _holds_weights(names):
            ignored.append(Ignored(f"{child}/", aside))
    return tuple(ignored)


def _read_other(folder: Location, files: dict[str, Location], children: set[str]) -> Checkpoint:
    """Read a folder without weight files of its own: one GGUF file, or verl's actor; for any other, raise an error that describes it."""
    where = printable(folder)
    ggufs = [path for name, path in files.items() if name.endswith(".gguf")]
    if ggufs:
        from dynamics.checkpoints.gguf import read_gguf, split_parts

        if set(ggufs) <= set(split_parts(ggufs[0])):
            return replace(read_gguf(ggufs[0]), path=str(folder))
        raise InputError(f"{where}: holds {len(ggufs)} .gguf files; name one of them")
    if any(OPTIMIZER_STATES.fullmatch(name) for name in files):
        raise InputError(
            f"{where}: holds the optimizer files of DeepSpeed, but not the *_model_states.pt that name the weights; fetch them"
        )
    if "actor" in children:
        return read_folder(folder / "actor")
    adapters = [child for child in sorted(children) if (folder / child / "adapter_config.json").exists()]
    if adapters and not trainer_checkpoints(folder):
        raise InputError(
            f"{where}: holds no weights itself but {plural(len(adapters), 'adapter')}: {', '.join(map(printable, adapters[:6]))}; "
            f"name one of them, e.g. {folder / adapters[-1]}"
        )
    if step := step_folder(folder, children) or iteration_folder(folder, children):
        return _with_config(read_folder(step), folder, files)
    refuse_other_backend(folder)
    if checkpoint := read_ranks(folder, children):
        return checkpoint
    # accelerate and transformers store sharded weights in pytorch_model_fsdp_0/, NeMo in weights/, verl in dist_ckpt/
    distributed = [name for name in children if (folder / name / ".metadata").is_file() and not NOT_WEIGHTS.match(name)]
    if len(distributed) == 1:
        return _with_config(read_folder(folder / distributed[0]), folder, files)
    if checkpoints := trainer_checkpoints(folder):
        raise InputError(choose_checkpoint(folder, checkpoints))
    return _read_arrays(folder, files, children)


def _read_arrays(folder: Location, files: dict[str, Location], children: set[str]) -> Checkpoint:
    """Read a folder of arrays of numpy; for any other, raise an error that describes it."""
    if any(name.endswith(ARRAYS) for name in files):
        from dynamics.checkpoints.arrays import read_arrays

        return read_arrays(folder, files, children)
    held = [*sorted(files), *(f"{child}/" for child in sorted(children))]
    contents = f"no weights in it: holds {_listed(held)}" if held else "is an empty folder"
    raise InputError(f"{printable(folder)}: {contents}; expected *.safetensors, *.bin, *.pt, *.npy or a checkpoint folder")


def _listed(names: Sequence[str]) -> str:
    """Join the first names with commas, and count the others."""
    shown = ", ".join(map(printable, names[:4]))
    if len(names) <= 4:
        return f"only {shown}"
    return f"{shown} and {len(names) - 4} more"


def _with_config(checkpoint: Checkpoint, folder: Location, files: dict[str, Location]) -> Checkpoint:
    """Return a checkpoint of a sub-folder under the path of its folder, with the model's config if that lies there."""
    config = read_json(files["config.json"]) if "config.json" in files else checkpoint.config
    return replace(checkpoint, path=str(folder), config=config)


def _choose(folder: Location, files: dict[str, Location]) -> list[Location]:
    """Choose the weight files with the precedence of transformers: one safetensors file, an index, shards without an index, then .bin."""
    for single, index, suffix in (
        ("model.safetensors", INDEXES[0], ".safetensors"),
        ("pytorch_model.bin", INDEXES[1], ".bin"),
    ):
        if single in files:
            return [files[single]]
        if index in files:
            return _from_index(folder, index, files)
        loose = {
            name: path
            for name, path in files.items()
            if name.endswith(suffix) and not name.startswith("consolidated") and not NOT_WEIGHTS.match(name)
        }
        if loose:
            _refuse_ranks(folder, loose)
            return _complete(folder, loose)
    if any(name.endswith(".distcp") for name in files):
        raise InputError(f"{printable(folder)}: holds .distcp files, but not the file .metadata, which says what they hold; fetch it")
    rest = {name: path for name, path in files.items() if name.endswith(WEIGHTS) and not NOT_WEIGHTS.match(name)}
    return _complete(folder, rest) if rest else []


def _refuse_ranks(folder: Location, names: Iterable[str]) -> None:
    """Refuse the parts of several tensor-parallel ranks, as vLLM's ``save_sharded_state`` and TensorRT-LLM write them."""
    ranks = {match[1] for name in names if (match := re.search(r"rank[_-]?(\d+)", name))}
    if len(ranks) > 1:
        raise InputError(
            f"{printable(folder)}: its files are the parts of {len(ranks)} tensor-parallel ranks, which do not state how they are split; "
            "name the folder of the model they were made from"
        )


def _from_index(folder: Location, index: str, files: dict[str, Location]) -> list[Location]:
    where = printable(folder / index)
    weight_map = _read_index(folder / index)
    for shard in sorted(set(weight_map.values())):
        if PurePath(shard).name != shard or "\0" in shard:
            raise InputError(f"{where}: names the shard {printable(shard)}, which is outside the folder")
        if shard not in files:
            raise InputError(f"{where}: names the shard {printable(shard)}, which is not there; fetch it, or remove a stale index")
    return [files[shard] for shard in sorted(set(weight_map.values()))]


def _read_index(path: Location) -> dict[str, str]:
    """Read the file that each tensor is in."""
    weight_map = read_json(path, unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(f"{printable(path)}: has no weight_map of names to shards; the index is corrupt")
    return weight_map


def _complete(folder: Location, files: dict[str, Location]) -> list[Location]:
    """Return the files after checking that no shard of a series such as ``x-00001-of-00003`` is missing."""
    for name in files:
        numbered = NUMBERED.match(name)
        if numbered:
            stem, _, count, suffix = numbered.groups()
            if int(count) > 100_000:
                raise InputError(f"{printable(folder)}: {printable(name)} claims {count} shards")
            for number in range(1, int(count) + 1):
                shard = f"{stem}-{number:0{len(count)}d}-of-{count}{suffix}"
                if shard not in files:
                    raise InputError(f"{printable(folder)}: the shard {printable(shard)} is missing; fetch it")
    return list(files.values())


def _merge(folder: Location, files: dict[str, Location], chosen: list[Location]) -> Checkpoint:
    """Merge several files into one checkpoint. A name may occur in only one file, unless the index says which file to use."""
    weight_map = _weight_map(files, chosen)
    tensors: dict[str, Tensor] = {}
    ignored: list[Ignored] = []
    for path in chosen:
        part = _read_part(path)
        ignored += part.ignored
        for name, tensor in part.tensors.items():
            if weight_map and weight_map.get(name) != path.name:
                explanation = (
                    f"the index places it in {printable(weight_map[name])}" if name in weight_map else "the index does not name it"
                )
                ignored.append(Ignored(name, f"in {printable(path.name)}, but {explanation}"))
            elif name in tensors:
                raise InputError(
                    f"{printable(folder)}: {printable(name)} stands in two files, the second is {printable(path.name)}; "
                    "remove the stale one"
                )
            else:
                tensors[name] = tensor
    known = tensors.keys() | {entry.name for entry in ignored}
    for name, shard in weight_map.items():
        if name not in known:
            raise InputError(
                f"{printable(folder)}: the index places {printable(name)} in {printable(shard)}, which does not hold it; the index is stale"
            )
    unread = f"file not read: the weights were taken from {chosen[0].name}"
    others = [name for name, path in files.items() if path not in chosen and name.endswith((*WEIGHTS, ".gguf", *ARRAYS))]
    ignored += [Ignored(name, "not weights of the model" if NOT_WEIGHTS.match(name) else unread) for name in others]
    config = read_json(files["config.json"]) if "config.json" in files else None
    return Checkpoint(str(folder), "huggingface", tensors, config, tuple(ignored))


def _weight_map(files: dict[str, Location], chosen: list[Location]) -> dict[str, str]:
    """Return the index of the chosen files, a mapping of name to file; empty without an index and for a single file."""
    weight_map: dict[str, str] = {}
    if len(chosen) > 1 or chosen[0].name not in ("model.safetensors", "pytorch_model.bin"):
        for index in INDEXES:
            if index in files and index.split(".")[-3] == chosen[0].suffix[1:]:
                weight_map = _read_index(files[index])
    return weight_map


def _read_part(path: Location) -> Checkpoint:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    from dynamics.checkpoints.pickled import read_pickled

    return read_pickled(path)
