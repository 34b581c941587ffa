"""DeepSpeed checkpoints: the fp32 master weights, which ZeRO cuts into flat vectors and spreads over the optimizer files of all ranks.

``mp_rank_00_model_states.pt`` (ZeRO-3: ``zero_pp_rank_R_mp_rank_00_model_states.pt``) gives the names and shapes, and
``*zero_pp_rank_R_mp_rank_00_optim_states.pt`` the values of rank R. The rules are those of DeepSpeed's ``zero_to_fp32.py``. With ZeRO-1 and
ZeRO-2 the model states also hold the 16-bit weights; the first values of each parameter are checked against them.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import BUFFER, Saved, Strided, as_strided, grouped, load_state, texts_in
from dynamics.checkpoints.sharded import concatenated
from dynamics.checkpoints.tensor import LONGEST_NAME, Checkpoint, Ignored, Reader, Tensor, natural_shape, naturals
from dynamics.checkpoints.unpickle import ALLOWED, Node, plain
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.paths import natural_key
from dynamics.io.side_files import read_pointer

#: model states: data-parallel rank (ZeRO-3 only), tensor-parallel rank
MODEL_STATES = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
OPTIMIZER_STATES = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt")
#: parameters, ranks; groups of parameters of an optimizer
MOST_PARTS, MOST_GROUPS = 1 << 20, 10_000
#: parts of models that are split in ways other than ZeRO's
OTHER_SPLITS = {
    re.compile(r"layer_\d+-model_\d+-model_states\.pt"): "is split into pipeline stages",
    re.compile(r"layer_\d+_expert_\d+_mp_rank_\d+_model_states\.pt|expp_rank_\d+_mp_rank_\d+_optim_states\.pt"): "holds experts apart",
}
CONVERT = "convert it with DeepSpeed's ds_to_universal.py and name the folder it writes"

#: classes in DeepSpeed's files beside those of torch
CLASSES = ALLOWED | {
    f"deepspeed.{name}"
    for name in [
        "utils.tensor_fragment.fragment_address",
        "runtime.zero.config.ZeroStageEnum",
        *(f"runtime.fp16.loss_scaler.{name}" for name in ("LossScaler", "DynamicLossScaler", "LossScaleConfig", "LossScaleProfile")),
    ]
}
CHECKED = 64  # values of each parameter that are compared with its 16-bit copy


def is_deepspeed(names: Sequence[str]) -> bool:
    """Tell whether files with these names are DeepSpeed's."""
    return any(pattern.fullmatch(name) for name in names for pattern in (MODEL_STATES, *OTHER_SPLITS))


def step_folder(folder: Location, children: set[str]) -> Location | None:
    """Return the sub-folder that holds the files, as ``latest`` names it; None if this is not the folder of a DeepSpeed run."""
    for pointer in ("latest", "latest_universal"):
        if (folder / pointer).is_file():
            name = read_pointer(folder / pointer)
            if name not in children:
                raise InputError(
                    f"{printable(folder)}: its file {pointer} names the folder {printable(name)}, which is not there; fetch it"
                )
            return folder / name
    steps = [name for name in children if re.fullmatch(r"global_step\d+(_universal)?", name)]
    if len(steps) > 1:
        raise InputError(
            f"{printable(folder)}: holds {len(steps)} DeepSpeed steps ({', '.join(sorted(steps, key=natural_key)[:4])}); name one of them"
        )
    return folder / steps[0] if steps else None


def read_deepspeed(folder: Location, names: Sequence[str]) -> Checkpoint:
    """Read the folder of one step, whose files have these names."""
    where = printable(folder)
    for pattern, how in OTHER_SPLITS.items():
        if any(pattern.fullmatch(name) for name in names):
            raise InputError(f"{where}: is a DeepSpeed checkpoint that {how}; {CONVERT}")
    model_files, optimizer_files = (_by_rank(where, names, pattern) for pattern in (MODEL_STATES, OPTIMIZER_STATES))
    models = [_load(folder / name) for name in model_files]
    optimizers = [_load(folder / name) for name in optimizer_files]
    try:
        return _zero(folder, models, optimizers) if optimizers else _without_zero(folder, models)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{where}: is a DeepSpeed checkpoint of an unknown layout ({type(error).__name__}: {printable(error, 60)})"
        ) from None


def _by_rank(where: str, names: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """Order file names by data-parallel rank; none may be missing in between."""
    name_of: dict[int, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if not match:
            continue
        if int(match[2]):
            raise InputError(f"{where}: is a DeepSpeed checkpoint with tensor parallelism ({printable(name)}); {CONVERT}")
        name_of[int(match[1] or 0)] = name
    missing = next((rank for rank in range(len(name_of)) if rank not in name_of), None)
    if missing is not None:
        raise InputError(
            f"{where}: holds {len(name_of)} files like {printable(next(iter(name_of.values())))}, but not rank {missing}'s; fetch it"
        )
    return [name_of[rank] for rank in range(len(name_of))]


def _load(path: Location) -> Saved:
    saved = load_state(File(path), allowed=CLASSES)
    if not isinstance(saved.root, dict):
        raise InputError(f"{printable(path)}: holds no DeepSpeed states")
    return saved


def _tensor(saved: Saved, name: str, value: Any) -> Tensor:
    strided = as_strided(value, name, saved)
    if not isinstance(strided, Strided):
        raise InputError(f"{printable(saved.file.path)}: {printable(name)} is {strided or 'not a tensor'}; save the checkpoint again")
    return strided.tensor(name)


def _without_zero(folder: Location, models: list[Saved]) -> Checkpoint:
    """Read the module states of a run without ZeRO."""
    saved = models[0]
    module = saved.root.get("module")
    buffers = texts_in(saved.root.get("buffer_names"))
    tensors: dict[str, Tensor] = {}
    ignored: list[Ignored] = []
    for name, value in module.items() if isinstance(module, dict) else ():
        strided = as_strided(value, name, saved)
        if name in buffers or not isinstance(name, str) or not isinstance(strided, Strided):
            reason = strided if isinstance(strided, str) else "not a tensor"
            ignored.append(Ignored(str(name), BUFFER if name in buffers else reason))
        else:
            tensors[name] = strided.tensor(name)
    if len(models) > 1 or any(tensor.shape == (0,) for tensor in tensors.values()) or not tensors:
        raise InputError(
            f"{printable(folder)}: holds the model states of DeepSpeed, but not the optimizer files with the weights "
            "(*_optim_states.pt); fetch them"
        )
    return Checkpoint(str(folder), "deepspeed", tensors, ignored=grouped(ignored))


def _zero(folder: Location, models: list[Saved], optimizers: list[Saved]) -> Checkpoint:
    where = printable(folder)
    states = [saved.root["optimizer_state_dict"] for saved in optimizers]
    stage = _number(states[0].get("zero_stage", 1))  # DeepSpeed's BF16_Optimizer, which is like ZeRO-1, does not store it
    counts = states[0]["partition_count"]
    world = max(naturals(counts, MOST_PARTS)) if isinstance(counts, list) else counts
    if type(stage) is not int or stage not in (1, 2, 3):
        raise InputError(f"{where}: is of ZeRO stage {plain(stage)}, which is not known here")
    if type(world) is not int:
        raise ValueError("the number of ranks is no number")
    for files, kind in ((optimizers, "optim"), (models, "model")):
        if len(files) != world and (kind == "optim" or stage == 3):
            raise InputError(f"{where}: {len(files)} of {world} ranks' *_{kind}_states.pt are there; fetch the others")
    root = models[0].root
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    vectors = [_vectors(saved, state[key]) for saved, state in zip(optimizers, states, strict=True)]
    shapes = root["param_shapes"]
    groups = [_shapes(group) for group in _few(shapes if isinstance(shapes, list) else [shapes])]
    if stage == 3:
        tensors = dict(_partitioned(where, {name: shape for group in groups for name, shape in group.items()}, vectors))
    else:
        tensors = _contiguous(where, groups, vectors, _paddings(states[0], groups))
    frozen = _shapes(root.get("frozen_param_shapes") or {})
    if root.get("frozen_param_fragments"):
        tensors |= _frozen(where, frozen, models if stage == 3 else models[:1])
        frozen = {}
    tensors |= _aliases(tensors, root)
    buffers = texts_in(root["buffer_names"])
    ignored = [Ignored(name, BUFFER) for name in root["buffer_names"] if isinstance(name, str)]
    ignored += [Ignored(name, "frozen, and saved without its values", math.prod(shape)) for name, shape in frozen.items()]
    if stage < 3:
        _check_rounded(where, tensors, models[0])
        ignored.append(Ignored(models[0].file.path.name, "16-bit weights; the fp32 weights they are rounded from were read"))
    known = tensors.keys() | frozen.keys() | buffers
    for name, value in root["module"].items():
        if name not in known:
            copy = as_strided(value, name, models[0])
            reason = "its fp32 weights are not in the optimizer files" if isinstance(copy, Strided) else copy or "not a tensor"
            ignored.append(Ignored(str(name), reason, math.prod(copy.shape) if isinstance(copy, Strided) else 0))
    ordered = {name: tensors[name] for name in root["module"] if name in tensors} | tensors  # as in the module, and in other formats
    return Checkpoint(str(folder), f"deepspeed-zero{stage}", ordered, ignored=grouped(ignored))


def _number(value: Any) -> Any:
    return value.args[0] if isinstance(value, Node) and value.args else value  # an enum is stored as a call with its number


def _shapes(group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in group):
        raise ValueError("a name of a parameter is no text, or endless")
    return {name: natural_shape(shape) for name, shape in group.items()}


def _paddings(state: dict[str, Any], groups: list[dict[str, tuple[int, ...]]]) -> list[tuple[int, ...]]:
    """Return the values that follow each parameter of a group to align the next one."""
    if stated := state.get("param_alignment_paddings"):
        return [naturals(padding, len(group)) for padding, group in zip(stated, groups, strict=True)]
    return [(0,) * len(group) for group in groups]


def _few(groups: list[Any]) -> list[Any]:
    """Check that groups of parameters are not one group many times."""
    if len(groups) > MOST_GROUPS or sum(len(group) for group in groups if isinstance(group, dict)) > MOST_PARTS:
        raise ValueError("too many groups of parameters")
    return groups


def _aliases(tensors: dict[str, Tensor], root: dict[str, Any]) -> dict[str, Tensor]:
    """Return the parameters that share the values of others, by their names."""
    aliases = {alias: name for alias, name in (root.get("shared_params") or {}).items() if isinstance(name, str) and name in tensors}
    return {alias: tensors[name].named(alias) for alias, name in aliases.items() if isinstance(alias, str)}


def _vectors(saved: Saved, flat: list[Any]) -> list[Tensor]:
    vectors = [_tensor(saved, f"flat group {index}", value) for index, value in enumerate(_few(flat))]
    if any(len(vector.shape) != 1 for vector in vectors):
        raise ValueError("a flat group is not a vector")
    return vectors


def _cut(vectors: Sequence[Tensor], ends: Sequence[int], start: int, stop: int) -> Iterator[Tensor]:
    """Cut elements ``start:stop`` out of vectors that follow one another and end at ``ends``."""
    index = bisect_right(ends, start)
    while start < stop and index < len(vectors):
        begin = ends[index] - vectors[index].numel
        last = min(stop, ends[index])
        if last > start:
            yield vectors[index].rows(start - begin, last - begin)
        start, index = last, index + 1


def _contiguous(
    where: str, groups: list[dict[str, tuple[int, ...]]], vectors: list[list[Tensor]], paddings: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Cut the parameters of each group out of the vector that the ranks' parts form (ZeRO-1, ZeRO-2)."""
    sizes = [len(group) for group in groups]
    if any(len(of_rank) != len(groups) for of_rank in vectors) or [len(padding) for padding in paddings] != sizes:
        raise InputError(f"{where}: a rank has other parameter groups than the model states; the files are not of one run")
    tensors = {}
    for group, flat, padding in zip(groups, zip(*vectors, strict=True), paddings, strict=True):
        ends = list(accumulate(vector.numel for vector in flat))
        offset = 0
        for (name, shape), extra in zip(group.items(), padding, strict=True):
            pieces = list(_cut(flat, ends, offset, offset + math.prod(shape)))
            tensors[name] = concatenated(f"{where}: {printable(name)}", shape, flat[0].dtype, pieces).named(name)
            offset += math.prod(shape) + extra
        if not 0 <= ends[-1] - offset < 2 * len(flat):  # the vector is padded to a multiple of twice the number of ranks
            raise InputError(f"{where}: a flat group has {ends[-1]} values, its parameters have {offset}; the layout is not known")
    return tensors


def _partitioned(where: str, shapes: dict[str, tuple[int, ...]], vectors: list[list[Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Join the parameters of which each rank holds an equal part, one after another in its vectors (ZeRO-3)."""
    dtype = vectors[0][0].dtype
    ends = [list(accumulate(vector.numel for vector in of_rank)) for of_rank in vectors]
    parts = {name: -(-math.prod(shape) // len(vectors)) for name, shape in shapes.items()}
    if any(end[-1] != sum(parts.values()) for end in ends):
        raise InputError(f"{where}: a rank holds {ends[0][-1]} values, its parameters take {sum(parts.values())}; the layout is not known")
    if any(vector.dtype != dtype for of_rank in vectors for vector in of_rank):
        raise InputError(f"{where}: its flat groups have several dtypes; the layout is not known")
    sources = tuple(vector.source for of_rank in vectors for vector in of_rank)
    offset = 0
    for name, shape in shapes.items():
        source = ("parts", name, offset, sources)
        yield name, Tensor(name, shape, dtype, _reader(vectors, ends, offset, parts[name]), source)
        offset += parts[name]


def _reader(vectors: list[list[Tensor]], ends: list[list[int]], offset: int, part: int) -> Reader:
    """Return the reader of a parameter of which each rank has ``part`` elements from ``offset`` on.

    The pieces are looked up when they are read, because there are as many as parameters times ranks.
    """

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        done = 0
        while start + done < stop:
            rank, first = divmod(start + done, part)
            last = min(part, first + stop - start - done)
            for piece in _cut(vectors[rank], ends[rank], offset + first, offset + last):
                out[done : done + piece.numel] = piece.stored()
                done += piece.numel
        return out[:done]

    return read


def _frozen(where: str, shapes: dict[str, tuple[int, ...]], ranks: list[Saved]) -> dict[str, Tensor]:
    """Read the parameters that the optimizer does not have; they lie in the model states, with ZeRO-3 as each rank's part."""
    tensors = {}
    for name, shape in shapes.items():
        parts = [_tensor(saved, name, saved.root["frozen_param_fragments"][name]) for saved in ranks]
        flat = [part.rows(0, part.numel) if len(part.shape) == 1 else _flattened(part) for part in parts]
        tensors[name] = concatenated(f"{where}: {printable(name)}", shape, parts[0].dtype, flat).named(name)
    return tensors


def _flattened(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, (tensor.numel,), tensor.dtype, tensor.read, tensor.source)


def _check_rounded(where: str, tensors: dict[str, Tensor], model: Saved) -> None:
    """Compare the first values of each parameter with the copy in the module, which is the same rounded to 16 bits."""
    for name, tensor in tensors.items():
        copy = _tensor(model, name, model.root["module"][name])
        count = min(CHECKED, tensor.numel)
        ours, theirs = tensor.values(0, count), copy.values(0, min(count, copy.numel))
        unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(copy.dtype, 2.0**-23)
        with np.errstate(all="ignore"):
            same = np.array_equal(ours.shape, theirs.shape) and np.allclose(ours, theirs, rtol=unit, atol=2.0**-24, equal_nan=True)
        if not same:
            raise InputError(
                f"{where}: the fp32 weights of {printable(name)} do not round to those in {printable(model.file.path.name)}; "
                "the files are not of one step, or their order is not known; name that file to compare its 16-bit weights"
            )


def is_universal(folder: Location, children: set[str]) -> bool:
    """Tell whether a folder is a universal checkpoint of DeepSpeed: ``zero/NAME/fp32.pt`` for each parameter."""
    return "zero" in children and bool(_universal_parameters(folder))


def _universal_parameters(folder: Location) -> list[Location]:
    """List the folders of the parameters of a universal checkpoint, by name."""
    folders: list[Location] = sorted((folder / "zero").iterdir(), key=lambda entry: entry.name)
    return [entry for entry in folders if (entry / "fp32.pt").exists()]


def read_universal(folder: Location) -> Checkpoint:
    """Read a universal checkpoint, which holds each parameter whole, in fp32; frozen ones lie in the model states."""
    where = printable(folder)
    tensors = {}
    for entry in _universal_parameters(folder):
        saved = load_state(File(entry / "fp32.pt"), allowed=CLASSES)
        value = saved.root.get("param") if isinstance(saved.root, dict) else saved.root
        tensors[entry.name] = _tensor(saved, entry.name, value)
    ignored = []
    states = folder / "mp_rank_00_model_states.pt"
    if states.exists():
        saved = _load(states)
        try:
            for name, shape in _shapes(saved.root.get("frozen_param_shapes") or {}).items():
                fragment = _tensor(saved, name, (saved.root.get("frozen_param_fragments") or {})[name])
                if fragment.shape == shape:
                    tensors[name] = fragment
                else:  # with ZeRO-3, the first rank's part
                    ignored.append(Ignored(name, "frozen, and saved without its values", math.prod(shape)))
            buffers = texts_in(saved.root.get("buffer_names"))
            ignored += [Ignored(name, BUFFER) for name in tensors if name in buffers]
            tensors = {name: tensor for name, tensor in tensors.items() if name not in buffers}
            tensors |= _aliases(tensors, saved.root)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: has model states of an unknown layout ({type(error).__name__}: {printable(error, 60)})") from None
    return Checkpoint(str(folder), "deepspeed-universal", tensors, ignored=grouped(ignored))
