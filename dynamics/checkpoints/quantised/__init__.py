"""Quantised weights: replace codes and their scales by lazy dense weights, or set them aside by the format's name.

Codes are never weights, and scales are never compared. What a tensor is follows from its name, its companions, its dtype and the
checkpoint's ``quantization_config``. A module for each format reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dynamics.checkpoints.parameter_names import is_buffer
from dynamics.checkpoints.quantised.layout import DENSE, Group, Settings, Unreadable
from dynamics.checkpoints.quantised.names import SMOOTHED, Sorted, sort
from dynamics.checkpoints.tensor import MOST_ELEMENTS, Checkpoint, Ignored, Tensor
from dynamics.errors import InputError, printable
from dynamics.io.locations import location

__all__ = ["dequantise"]

#: ``quant_method`` of formats that are not dequantised, whatever their tensors look like -> name
REFUSED = {
    "aqlm": "AQLM", "auto-round": "AutoRound", "autoround": "AutoRound", "bitblas": "BitBLAS", "bitnet": "BitNet",
    "deepspeedfp": "DeepSpeed FP", "eetq": "EETQ", "exl2": "EXL2", "exl3": "EXL3", "fouroversix": "Four Over Six",
    "fp_quant": "FP-Quant", "gemma": "Gemma's own quantisation", "higgs": "HIGGS", "hqq": "HQQ", "ipex": "IPEX",
    "marlin": "Marlin", "metal": "Metal", "nvfp4": "NVFP4 of transformers", "paroquant": "ParoQuant", "qqq": "QQQ", "quark": "Quark",
    "quip": "QuIP#", "sinq": "SINQ", "spqr": "SpQR", "vptq": "VPTQ",
}  # fmt: skip
ADVICE = "dequantise it with its own library and save it in bfloat16"
#: JSON files that state how a folder's weights are quantised, beside config.json: ModelOpt, AutoGPTQ, AutoAWQ
EXTRA = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
#: roles of tensors that hold codes
CODE_ROLES = frozenset(["weight", "packed", "qweight", "blocks", "_data", "_data._data", "qdata"])

FLOATS_OF_8_BITS = ("float8_e4m3fn", "float8_e5m2")
#: root mean square above which matrices of 8-bit floats are codes: weights are far smaller, codes reach 448 or 57344
LARGE = 8.0
#: number of matrices that are tried for it
SAMPLED = 8

Reader = Callable[[Group, Settings], "tuple[str, Tensor]"]


def dequantise(checkpoint: Checkpoint) -> Checkpoint:
    """Replace quantised weights by lazy dense ones; set aside what is not read, and every tensor that is no weight.

    Returns
    -------
    The same checkpoint with dense weights under their usual names; ``dequantised`` counts them by format, ``ignored`` names the rest.
    """
    settings = settings_of(checkpoint)
    found = sort(checkpoint.tensors, settings.method)
    tensors = dict(found.rest)
    ignored: list[Ignored] = []
    counts: Counter[str] = Counter(checkpoint.dequantised)
    position = {name: number for number, name in enumerate(checkpoint.tensors)}
    for group in found.groups.values():
        if group.parts.keys().isdisjoint(CODE_ROLES):
            ignored.append(_without_codes(group, tensors))
            continue
        try:
            label, tensor = _read(group, settings)
        except Unreadable as error:
            ignored.append(Ignored(group.name, f"quantised as {error}; {ADVICE}", numel_of(group)))
        else:
            if tensor.name in tensors:
                ignored.append(Ignored(tensor.name, f"{label} codes of a weight that is also stored as it is"))
            else:
                tensors[tensor.name] = tensor
                counts[label] += tensor.numel
                position[tensor.name] = min(position[part.name] for part in group.parts.values())
    ignored += _unsupported(found)
    ignored += _activations(found)
    quantised = bool(found.groups or found.unsupported or settings.method) or _are_codes(tensors.values())
    tensors, others = _weights_only(tensors, quantised)
    ignored += others
    if not ignored and not counts:
        return checkpoint
    tensors = dict(sorted(tensors.items(), key=lambda item: position[item[0]]))
    return replace(checkpoint, tensors=tensors, ignored=(*checkpoint.ignored, *ignored), dequantised=dict(counts))


def _without_codes(group: Group, tensors: dict[str, Tensor]) -> Ignored:
    """Set aside scales whose codes are in no file, or that lie beside a weight of plain floats."""
    if group.name in tensors:
        name, weight = next(iter(group.parts.values())).name, tensors[group.name]
        if len(weight.shape) > 1 and weight.numel >= 256 and _fills_its_range(weight):
            del tensors[group.name]
            return Ignored(
                group.name, f"{weight.dtype} beside {name}: its values are too large for weights, so they are codes", weight.numel
            )
        return Ignored(name, f"a scale beside {group.name}, which is stored as {tensors[group.name].dtype}")
    return Ignored(group.name, "a scale of a quantised weight whose codes are not beside it")


def settings_of(checkpoint: Checkpoint) -> Settings:
    """Collect what config.json, or the JSON files beside the weights, say about the quantisation."""
    config = checkpoint.config
    if config is None and checkpoint.format in ("safetensors", "torch"):
        config = _json_beside(checkpoint, "config.json")
    config = config or {}
    text = config.get("text_config")
    inner: dict[str, Any] = text if isinstance(text, dict) else {}
    keys = ("quantization_config", "compression_config", "quantization")
    found = [source[key] for source in (config, inner) for key in keys if isinstance(source.get(key), dict)]
    if not found and checkpoint.format in ("huggingface", "safetensors", "torch"):
        extra = (_json_beside(checkpoint, name) for name in EXTRA)
        found = [entry for entry in extra if entry]
    options: dict[str, Any] = found[0] if found else {}
    stated = (source.get(key) for source in (inner, config) for key in ("dtype", "torch_dtype"))
    dtype = next((str(value).removeprefix("torch.") for value in stated if value), "")
    return Settings(_method(options), options, dtype if dtype in DENSE else "")


def _method(options: dict[str, Any]) -> str:
    method = options.get("quant_method") or options.get("method")
    if not method and "quantization" in options:  # hf_quant_config.json
        method = "modelopt"
    if not method and {"bits", "desc_act"} <= options.keys():
        method = "gptq"
    if not method and "w_bit" in options:
        method = "awq"
    if not method and {"bits", "group_size"} <= options.keys():
        method = "mlx"
    return method.lower() if isinstance(method, str) else ""


def _json_beside(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """Read a JSON file that lies in the folder of the weights."""
    from dynamics.io.side_files import read_json

    folder = location(checkpoint.path)
    try:
        path = (folder if folder.is_dir() else folder.parent) / name
        exists = path.is_file()
    except InputError:  # a store that gives access to the one file only
        return None
    return read_json(path) if exists else None


def _read(group: Group, settings: Settings) -> tuple[str, Tensor]:
    """Dequantise a group by the format that its parts show."""
    if settings.method in REFUSED:
        raise Unreadable(f"{REFUSED[settings.method]}, which is not read")
    label, reader = _reader(group, settings)
    if reader is None:
        raise Unreadable(f"{label}, which is not read")
    if SMOOTHED in group.parts:
        raise Unreadable(f"{label} after smoothing ({SMOOTHED}), which is not read")
    try:
        return reader(group, settings)
    except Unreadable as error:
        raise Unreadable(f"{label}, but {error}") from None


def _reader(group: Group, settings: Settings) -> tuple[str, Reader | None]:  # noqa: C901 - one line for each format
    """Find the format of a group; None for a format that is not read."""
    from dynamics.checkpoints.quantised import awq, bitsandbytes, block_fp8, compressed_tensors, gptq, mlx, mxfp4, nvfp4

    parts = group.parts
    if "absmax" in parts or any(role.startswith("quant_state.") for role in parts):
        return "bitsandbytes 4-bit", bitsandbytes.read_4bit
    if "SCB" in parts:
        return "bitsandbytes int8", bitsandbytes.read_int8
    if "qweight" in parts:
        return ("AWQ", awq.read) if settings.method == "awq" or awq.is_awq(group) else ("GPTQ", gptq.read)
    if "blocks" in parts:
        return "MXFP4", mxfp4.read_experts
    if "qdata" in parts:
        return "torchao", block_fp8.read_torchao
    if "_data" in parts:
        return "quanto", block_fp8.read
    if "_data._data" in parts:
        return "quanto in packed bits", None
    if "packed" in parts and parts["packed"].dtype == "int32":
        return "compressed-tensors", compressed_tensors.read
    codes = parts.get("packed") or parts["weight"]
    if codes.dtype == "uint8" and not parts.keys().isdisjoint({"global_scale", "scale_2"}):
        return "NVFP4", nvfp4.read
    if codes.dtype == "uint8" and "scale" in parts and parts["scale"].dtype in mxfp4.EXPONENTS:
        return "MXFP4", mxfp4.read
    if codes.dtype in ("uint32", "int32") and "scales" in parts:
        return "MLX", mlx.read
    if codes.dtype in block_fp8.CODES and "scales" not in parts:
        return "INT8" if codes.dtype == "int8" else "FP8", block_fp8.read
    if codes.dtype == "int8" and "scales" in parts:
        return "EETQ", None
    companions = ", ".join(sorted(role for role in parts if role != "weight"))
    return f"{printable(settings.method or 'an unknown format', 40)} ({codes.dtype} with {companions})", None


def numel_of(group: Group) -> int:
    """Estimate the number of weights of a group that is not read: exactly where a tensor states the shape, else by bits of a code."""
    parts = group.parts
    if "shape" in parts and 0 < parts["shape"].numel <= 8:
        return min(math.prod(max(0, int(size)) for size in parts["shape"].stored()), MOST_ELEMENTS)
    if "qweight" in parts:
        return parts["qweight"].numel * 8
    if "blocks" in parts:
        return parts["blocks"].numel * 2
    codes = next(parts[role] for role in ("weight", "packed", "_data", "_data._data", "qdata") if role in parts)
    halves = "absmax" in parts or (codes.dtype == "uint8" and "scale" in parts) or codes.dtype in ("int32", "uint32")
    return codes.numel * codes.storage.itemsize * (2 if halves else 1)


def _unsupported(found: Sorted) -> list[Ignored]:
    """List the modules of formats that are not dequantised, each with the size of its largest tensor of codes."""
    rows = []
    for (module, label), tensors in found.unsupported.items():
        codes = [tensor.numel * tensor.storage.itemsize for tensor in tensors]
        rows.append(Ignored(f"{module}.weight", f"quantised as {label}, which is not read; {ADVICE}", max(codes)))
    return rows


def _activations(found: Sorted) -> list[Ignored]:
    if not found.activations:
        return []
    first, more = found.activations[0].name, len(found.activations) - 1
    name = f"{first} and {more} more" if more else first
    return [Ignored(name, "scales of activations of a quantised model, not weights")]


def _are_codes(tensors: Iterable[Tensor]) -> bool:
    """Tell whether matrices of 8-bit floats are codes whose scales are not stored."""
    matrices = [tensor for tensor in tensors if tensor.dtype in FLOATS_OF_8_BITS and len(tensor.shape) > 1 and tensor.numel >= 256]
    return any(_fills_its_range(tensor) for tensor in matrices[:SAMPLED])


def _fills_its_range(tensor: Tensor) -> bool:
    """Tell whether values are too large for weights: a quantiser fills the range of the dtype of its codes."""
    values = tensor.values(0, min(tensor.numel, 4096))
    finite = values[np.isfinite(values)]
    return finite.size > 0 and bool(np.sqrt(np.mean(np.square(finite))) > LARGE)


def _weights_only(tensors: dict[str, Tensor], quantised: bool) -> tuple[dict[str, Tensor], list[Ignored]]:
    """Set aside integers of a model of floats, and 8-bit floats without a scale in a quantised model."""
    floats = quantised or any("float" in tensor.dtype and tensor.dtype != "float8_e8m0fnu" for tensor in tensors.values())
    kept: dict[str, Tensor] = {}
    others: list[Ignored] = []
    coded: dict[str, int] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == "float8_e8m0fnu":
            others.append(Ignored(name, "float8_e8m0fnu holds scales, not weights"))
        elif quantised and tensor.dtype.startswith("float8"):
            others.append(Ignored(name, f"{tensor.dtype} codes without a scale", tensor.numel))
            coded[name.rpartition(".")[0]] = tensor.numel
        elif floats and "float" not in tensor.dtype and not is_buffer(name, tensor.shape):
            codes = tensor.dtype not in ("bool", "int64", "uint64") and len(tensor.shape) > 1 and not name.endswith("mask")
            reason = "integers in a model of floats: codes or a buffer, not a weight"
            others.append(Ignored(name, reason, tensor.numel if codes else 0))
            if codes:
                coded[name.rpartition(".")[0]] = tensor.numel
        else:
            kept[name] = tensor
    for name, tensor in list(kept.items()):
        module, _, child = name.rpartition(".")
        if module in coded and child not in ("weight", "bias") and tensor.numel < coded[module]:
            others.append(Ignored(name, "beside codes in the same module: a scale, not a weight"))
            del kept[name]
    return kept, others
