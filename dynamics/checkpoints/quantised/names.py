"""Sort the stored names of a checkpoint into quantised weights with their companions, scales of activations, and the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dynamics.checkpoints.quantised.layout import Group

if TYPE_CHECKING:
    from dynamics.checkpoints.tensor import Tensor

#: dtypes whose values can be codes of a quantised weight
CODES = frozenset(["float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])

#: names that only a quantised weight has: pattern of (name of the weight or its module, role)
CERTAIN = (
    (re.compile(r"^(.*)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$"), ""),
    (re.compile(r"^(.*)\.(SCB|weight_format|qweight|qzeros|g_idx|qscale_weight|scale_weight|weight_offset)$"), ".weight"),
    (re.compile(r"^(.*)\.weight_(packed|shape|scale|scale_inv|scale_2|zero_point|global_scale|g_idx)$"), ".weight"),
    (re.compile(r"^(.*)\._weight_(\w+)$"), ".weight"),
    (re.compile(r"^(.*)_(scale_inv)$"), ""),
    (re.compile(r"^(.*?\.\w+)\.(_data|_scale|_shift|_data\._data)$"), ""),
)
#: names that belong to a quantised weight only if its codes are there
WITH_CODES = (
    (re.compile(r"^(.*)_(scale|scales|scale_2|packed|shape|zero_point|global_scale)$"), ""),
    (re.compile(r"^(.*)\.(scales|biases)$"), ".weight"),
)
MODULE_SCALE = re.compile(r"^(.*)\.scale$")
#: scales of activations and of the key-value cache, which are no part of a weight
ACTIVATIONS = re.compile(
    r"(^|\.|_proj_)((input|output|activation|act|[kvq]|kv|prob|prob_output|attn)_(global_)?(scale|zero_point|scale_ub|offset)"
    r"|qscale_act|scale_input|deq_scale|quant_bias|weight_sf\w*)$"
)
#: scales that are set aside in a quantised model even where their codes are missing
PLURAL = re.compile(r"^(.*)(?:\.|_)(scales|biases|zeros)$")
#: what ModelOpt multiplies the inputs of a layer by (AWQ, SmoothQuant); the stored weight is divided by it
SMOOTHED = "pre_quant_scale"

#: formats that are not dequantised: label -> names of tensors that a module has in this format only
UNSUPPORTED: dict[str, frozenset[str]] = {
    "HQQ": frozenset(["W_q"]),
    "AQLM": frozenset(["codebooks"]),
    "QuIP#": frozenset(["Qidxs"]),
    "EXL2": frozenset(["q_weight", "q_invperm"]),
    "EXL3": frozenset(["trellis"]),
    "SpQR": frozenset(["dense_weights"]),
    "VPTQ": frozenset(["centroids", "res_centroids"]),
    "HIGGS": frozenset(["tables2"]),
    "Marlin": frozenset(["B"]),
    "QQQ": frozenset(["s_group", "s_channel"]),
    "NVFP4 of transformers": frozenset(["weight_sf_rowmajor"]),
    "FP-Quant": frozenset(["dqweight", "forward_hadamard_matrix"]),
}


@dataclass
class Sorted:
    """The tensors of a checkpoint by what they are.

    Attributes
    ----------
    groups : name of the weight -> its quantised parts.
    unsupported : (module, label) -> tensors of a format that is not dequantised.
    activations : scales of activations.
    rest : tensors that no rule names.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    unsupported: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)
    activations: list[Tensor] = field(default_factory=list)
    rest: dict[str, Tensor] = field(default_factory=dict)


def sort(tensors: Mapping[str, Tensor], method: str) -> Sorted:
    """Sort the tensors of a checkpoint; ``method`` is the ``quant_method`` of its config, or empty."""
    result = Sorted()
    modules = _unsupported_modules(tensors)
    left: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, child = name.rpartition(".")
        if module in modules and child != "bias":
            result.unsupported.setdefault((module, modules[module]), []).append(tensor)
        elif (found := _certain(name)) is not None:
            result.groups.setdefault(found[0], Group(found[0])).parts[found[1]] = tensor
        else:
            left[name] = tensor
    _attach(left, result)
    quantised = bool(result.groups or result.unsupported or method)
    for name, tensor in left.items():
        if quantised and (ACTIVATIONS.search(name) or name.endswith("." + SMOOTHED)):
            result.activations.append(tensor)
        elif quantised and (matched := PLURAL.match(name)):
            result.groups.setdefault(name, Group(name)).parts[matched.group(2)] = tensor
        else:
            result.rest[name] = tensor
    return result


def _unsupported_modules(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Find the modules that hold a tensor whose name belongs to a format that is not dequantised."""
    label_of = {child: label for label, children in UNSUPPORTED.items() for child in children}
    found = {}
    for name, tensor in tensors.items():
        module, _, child = name.rpartition(".")
        if child in label_of and module and not (child == "B" and tensor.dtype != "int32"):
            found[module] = label_of[child]
    return found


def _certain(name: str) -> tuple[str, str] | None:
    for pattern, suffix in CERTAIN:
        if matched := pattern.match(name):
            return matched.group(1) + suffix, matched.group(2)
    return None


def _attach(left: dict[str, Tensor], result: Sorted) -> None:
    """Move codes, and names that only codes give a meaning, from ``left`` into their groups."""

    def take(name: str, weight: str, role: str) -> None:
        result.groups.setdefault(weight, Group(weight)).parts[role] = left.pop(name)

    for name in [name for name in left if name.endswith(("_blocks", ".blocks"))]:  # gpt-oss, and its original files
        weight, scales = name[: -len("_blocks")], f"{name.removesuffix('blocks')}scales"
        if scales in left and "uint8" in (left[name].dtype, left[scales].dtype):
            take(name, weight, "blocks")
            take(scales, weight, "scales")
    for name in list(left):
        found = _with_codes(name, left, result)
        if found is not None:
            take(name, *found)
    for weight, group in result.groups.items():
        any_dtype = any(role == "absmax" or role.startswith("quant_state.") for role in group.parts)  # quant_storage of bitsandbytes
        if weight in left and (_codes(left[weight]) or any_dtype):
            group.parts["weight"] = left.pop(weight)
        if (smooth := f"{group.module}.{SMOOTHED}") in left:
            group.parts[SMOOTHED] = left.pop(smooth)


def _with_codes(name: str, left: Mapping[str, Tensor], result: Sorted) -> tuple[str, str] | None:
    """Return the weight and the role of a companion, if that weight is stored as codes."""
    for pattern, suffix in WITH_CODES:
        if matched := pattern.match(name):
            weight = matched.group(1) + suffix
            if weight in result.groups or _codes(left.get(weight)):
                return weight, matched.group(2)
    matched = MODULE_SCALE.match(name)
    if matched and _codes(left.get(f"{matched.group(1)}.weight")):
        return f"{matched.group(1)}.weight", "module_scale"
    return None


def _codes(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dtype in CODES
