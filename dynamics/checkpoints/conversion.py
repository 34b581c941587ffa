"""Give the tensors of a checkpoint the names and the layout that transformers gives them in memory.

transformers 5 renames, stacks, fuses, splits and transposes the weights of many models when it loads them. Its mapping from a file to the
model is used here where it is installed and the model's ``config.json`` is known: on names and shapes alone, with a model without storage
(torch's device ``meta``) and with lazy tensors. The mapping is not a public interface, so any failure only means that it is not used.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dynamics.checkpoints import parameter_names, views
from dynamics.checkpoints.tensor import Checkpoint, Tensor
from dynamics.errors import printable

#: a configuration with more layers or experts than this is not built, even without storage
LARGEST_COUNT = 2048

#: a count of classes, each of which gets a name
LARGEST_CLASSES = 100_000
#: settings that name code or a quantisation, which the names and shapes of weights do not need
NOT_NEEDED = re.compile(r"quantization_config|auto_map|use_kernels|kernel_config|\w*implementation\w*")
#: settings that make transformers fetch another model
FETCHED = re.compile(r"backbone|timm|pretrained")
#: models that compute a table of sines for all positions when they are built, one value after another, and the largest table
TABLES = re.compile(r"distilbert|flaubert|xlm\b|marian|pegasus|roformer|informer|autoformer|time_series|videomae|fsmt|ctrl|speech")
LARGEST_TABLE = 1 << 14

#: source pattern -> its tensors
Collected = dict[str, list[Tensor]]


class UnsupportedError(Exception):
    """An operation of the mapping that has no lazy counterpart here, or tensors that it does not fit."""


@dataclass(frozen=True)
class Mapper:
    """The mapping of one model from its files to memory.

    Attributes
    ----------
    shapes : name in memory -> shape.
    prefix : name of the inner model, by which names of a model and of its inner model differ.
    renamings, converters : transformers' own objects, in the order of their application.
    config : the configuration as a transformers object.
    rename : transformers' function that applies renamings and converters to one name.
    order : transformers' sort key, which puts expert 10 after expert 9.
    """

    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    renamings: list[Any]
    converters: list[Any]
    config: Any
    rename: Callable[..., tuple[str, str | None]]
    order: Callable[[str], Any]

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Tell whether a checkpoint has the names and the layout of the model in memory; vocabulary rows and added heads may differ."""
        short = parameter_names.canonical(checkpoint.tensors)
        rename = self._renaming()
        for stored, tensor in checkpoint.tensors.items():
            name = short[stored]
            expected = self._shape(name)
            if expected is None:
                if rename(name) != (name, None):
                    return False
            elif len(tensor.shape) != len(expected) or tensor.shape[1:] != expected[1:]:
                return False
        return True

    def _renaming(self) -> Callable[[str], tuple[str, str | None]]:
        """Return transformers' renaming with objects of its own: some of them remember which names they have seen."""
        renamings, converters = copy.deepcopy(self.renamings), copy.deepcopy(self.converters)
        return lambda name: self.rename(name, renamings, converters, self.prefix, self.shapes)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        for candidate in (name, f"{self.prefix}.{name}", name.removeprefix(f"{self.prefix}.")):
            if candidate in self.shapes:
                return self.shapes[candidate]
        return None

    def convert(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with the names and the layout of memory; what cannot be converted keeps its name."""
        short = parameter_names.canonical(checkpoint.tensors)
        stored = {short[name]: tensor for name, tensor in checkpoint.tensors.items()}
        plain: dict[str, Tensor] = {}
        groups: dict[str, tuple[Any, Collected, list[str]]] = {}
        rename = self._renaming()
        by_pattern = {pattern: converter for converter in self.converters for pattern in converter.source_patterns}
        for name in sorted(stored, key=self.order):
            target, pattern = rename(name)
            if pattern is None:
                _add(plain, target, name, stored[name])
            else:
                _, collected, names = groups.setdefault(target, (by_pattern[pattern], {}, []))
                collected.setdefault(pattern, []).append(stored[name])
                names.append(name)
        for target, (converter, collected, names) in groups.items():
            try:
                converted = self._apply(converter, target, collected)
            except (UnsupportedError, ValueError):
                converted = {name: stored[name] for name in names}
            for name, tensor in converted.items():
                _add(plain, name, names[0], tensor)
        return replace(checkpoint, tensors={name: tensor.named(name) for name, tensor in plain.items()})

    def _apply(self, converter: Any, target: str, collected: Collected) -> dict[str, Tensor]:
        whole = target.replace("*.", "0.")
        for operation in converter.operations:
            step = OPERATIONS.get(type(operation).__name__)
            if step is None:
                raise UnsupportedError(type(operation).__name__)
            collected = step(operation, collected, converter, whole, self)
        around = next((whole.partition(key) for key in collected if key in whole), None)
        if around is None:
            raise UnsupportedError(target)
        return {f"{around[0]}{key}{around[2]}": _only(tensors) for key, tensors in collected.items()}


def _add(tensors: dict[str, Tensor], target: str, name: str, tensor: Tensor) -> None:
    tensors[name if target in tensors else target] = tensor


def _only(tensors: list[Tensor]) -> Tensor:
    if len(tensors) != 1:
        raise UnsupportedError("several tensors for one name")
    return tensors[0]


def _merge(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    stacks = {pattern: [views.stacked(tensors, operation.dim)] for pattern, tensors in collected.items()}
    if len(stacks) > 1:
        return stacks
    (stack,) = stacks.values()
    return {converter.target_patterns[0]: stack}


def _concatenate(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    parts = [tensor for pattern in converter.source_patterns for tensor in collected.get(pattern, [])]
    return {converter.target_patterns[0]: [views.joined(parts, operation.dim)]}


def _chunk(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    (tensors,) = collected.values()
    size, parts = _only(tensors).shape[operation.dim], len(converter.target_patterns)
    if getattr(operation, "num_shards_attribute", None) is not None or size % parts:
        raise UnsupportedError("chunks of a number or size that is not known here")
    return _parts(_only(tensors), operation.dim, [size // parts] * parts, converter)


def _split(operation: Any, collected: Collected, converter: Any, whole: str, mapper: Mapper) -> Collected:
    (tensors,) = collected.values()
    names = [whole.replace(converter.target_patterns[0], target) for target in converter.target_patterns]
    return _parts(_only(tensors), operation.dim, [_expected(mapper, name)[operation.dim] for name in names], converter)


def _parts(tensor: Tensor, axis: int, sizes: list[int], converter: Any) -> Collected:
    if sum(sizes) != tensor.shape[axis]:
        raise UnsupportedError("parts do not add up")
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    parts = [views.narrowed(tensor, axis, start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return {target: [part] for target, part in zip(converter.target_patterns, parts, strict=True)}


def _transpose(operation: Any, collected: Collected, converter: Any, whole: str, mapper: Mapper) -> Collected:
    ((pattern, tensors),) = collected.items()
    tensor = _only(tensors)
    first, second = sorted(axis % len(tensor.shape) for axis in (operation.dim0, operation.dim1))
    if second != first + 1:
        raise UnsupportedError("axes that are not neighbours")
    key = pattern if len(converter.target_patterns) > 1 else converter.target_patterns[0]
    if getattr(operation, "check_dims", False) and tensor.shape == _expected(mapper, whole):
        return {key: [tensor]}
    return {key: [views.swapped(tensor, first)]}


def _interleave(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    (tensors,) = collected.values()
    tensor, axis = _only(tensors), operation.dim
    half, odd = divmod(tensor.shape[axis], 2)
    if odd:
        raise UnsupportedError("an odd number of rows")
    return {converter.target_patterns[0]: [_regrouped(tensor, axis, (2, half) if operation.inverse else (half, 2))]}


def _permute_for_rope(operation: Any, collected: Collected, converter: Any, _whole: str, mapper: Mapper) -> Collected:
    config = mapper.config if operation.subconfig_key is None else getattr(mapper.config, operation.subconfig_key, mapper.config)
    heads = getattr(config, "num_attention_heads", 1)
    one_to_one = len(converter.target_patterns) == len(converter.source_patterns) == 1
    result: Collected = {}
    for pattern, tensors in collected.items():
        tensor = _only(tensors)
        key = converter.target_patterns[0] if one_to_one else pattern
        names = operation.permute_layer_names
        if names is None or any(name in pattern for name in names):
            half, rest = divmod(tensor.shape[0], 2 * heads)
            if rest:
                raise UnsupportedError("rows that are not whole heads")
            order = (2, half) if operation.inverse else (half, 2)
            by_head = views.reshaped(tensor, (heads, 2 * half, *tensor.shape[1:]))
            tensor = views.reshaped(_regrouped(by_head, 1, order), tensor.shape)
        result[key] = [tensor]
    return result


def _regrouped(tensor: Tensor, axis: int, groups: tuple[int, int]) -> Tensor:
    """Read an axis as two, swap these, and join them to one again."""
    split = views.reshaped(tensor, (*tensor.shape[:axis], *groups, *tensor.shape[axis + 1 :]))
    return views.reshaped(views.swapped(split, axis), tensor.shape)


def _flatten(_operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    ((pattern, tensors),) = collected.items()
    key = pattern if len(converter.target_patterns) > 1 else converter.target_patterns[0]
    tensor = _only(tensors)
    return {key: [views.reshaped(tensor, (tensor.shape[0], tensor.numel // tensor.shape[0]))]}


def _unflatten(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    ((pattern, tensors),) = collected.items()
    key = pattern if len(converter.target_patterns) > 1 else converter.target_patterns[0]
    tensor = _only(tensors)
    return {key: [views.reshaped(tensor, (tensor.shape[0], operation.in_channels, *operation.kernel_size))]}


def _text_and_vision_experts(operation: Any, collected: Collected, converter: Any, _whole: str, _mapper: Mapper) -> Collected:
    """Divide the experts of each source among the targets, stack them, and join the sources."""
    targets = converter.target_patterns
    result: dict[str, list[Tensor]] = {target: [] for target in targets}
    for pattern in converter.source_patterns:
        tensors = collected.get(pattern, [])
        size = math.ceil(len(tensors) / len(targets))
        if not size or size * len(targets) != len(tensors):
            raise UnsupportedError("experts that cannot be divided")
        for index, target in enumerate(targets):
            result[target].append(views.stacked(tensors[index * size : (index + 1) * size], operation.stack_dim))
    return {target: [views.joined(parts, operation.concat_dim)] for target, parts in result.items()}


#: name of an operation of transformers -> its lazy counterpart
OPERATIONS: dict[str, Callable[[Any, Collected, Any, str, Mapper], Collected]] = {
    "MergeModulelist": _merge,
    "Concatenate": _concatenate,
    "Chunk": _chunk,
    "Split": _split,
    "Transpose": _transpose,
    "Interleave": _interleave,
    "PermuteForRope": _permute_for_rope,
    "Conv3dToLinear": _flatten,
    "LinearToConv3d": _unflatten,
    "ErnieFuseAndSplitTextVisionExperts": _text_and_vision_experts,
}


def _expected(mapper: Mapper, name: str) -> tuple[int, ...]:
    if name not in mapper.shapes:
        raise UnsupportedError(f"{name} is not in the model")
    return mapper.shapes[name]


def in_memory(base: Checkpoint, tuned: Checkpoint) -> tuple[Checkpoint, Checkpoint] | str:
    """Convert two checkpoints to the names and the layout of memory.

    Returns
    -------
    The two checkpoints, of which one may be the same as before; or a line that says why the mapping could not be used, empty if there is
    no configuration.
    """
    configs = [base.config or tuned.config, tuned.config or base.config]
    if not all(isinstance(config, dict) and config.get("model_type") for config in configs):
        return ""
    converted = []
    try:
        mappers: dict[int, Mapper] = {}
        for checkpoint, config in zip((base, tuned), configs, strict=True):
            mapper = mappers.get(id(config)) or mappers.setdefault(id(config), load(config))  # type: ignore[arg-type]
            converted.append(checkpoint if mapper.holds(checkpoint) else mapper.convert(checkpoint))
    except ImportError:
        return "transformers, whose mapping of names could have matched more tensors, is not installed"
    except UnsupportedError as error:
        return f"transformers' mapping of names was not used: {error}"
    except Exception as error:
        return f"transformers' mapping of names was not used: {type(error).__name__}"
    return converted[0], converted[1]


def load(config: dict[str, Any]) -> Mapper:
    """Build the model of a configuration without storage, and collect transformers' mapping from files to this model."""
    _check_counts(config)
    import torch
    import transformers
    from transformers import conversion_mapping, core_model_loading

    settings = _without_code(config)
    if config["model_type"] not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(f"this version does not know {printable(config['model_type'])!r}")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        built = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_with_floats(settings))
        with torch.device("meta"):
            model = _model_class(transformers, config, built)(built)
        transforms = conversion_mapping.get_model_conversion_mapping(model)
    finally:
        transformers.logging.set_verbosity(verbosity)
    return Mapper(
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        model.base_model_prefix,
        [transform for transform in transforms if isinstance(transform, core_model_loading.WeightRenaming)],
        [transform for transform in transforms if isinstance(transform, core_model_loading.WeightConverter)],
        built,
        core_model_loading.rename_source_key,
        core_model_loading.dot_natural_key,
    )


def _with_floats(value: Any) -> Any:
    """Replace what stands in a ``config.json`` for a number that JSON does not have, ``{"__float__": "Infinity"}``."""
    if isinstance(value, dict):
        text = value.get("__float__")
        return float(text) if isinstance(text, str) else {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _without_code(value: Any) -> Any:
    """Leave out settings that name code, such as a kernel on the Hub; refuse those that name another model to fetch."""
    if isinstance(value, list):
        return [_without_code(item) for item in value]
    if not isinstance(value, dict):
        return value
    for key, item in value.items():
        if item and isinstance(item, (str, bool)) and (FETCHED.search(str(key)) or (key == "model_type" and "timm" in str(item))):
            raise UnsupportedError(f"its configuration names another model ({printable(key, 40)})")
    return {key: _without_code(item) for key, item in value.items() if not NOT_NEEDED.fullmatch(str(key))}


def _model_class(transformers: Any, config: dict[str, Any], built: Any) -> Any:
    """Return the class of the model that the configuration names, or that transformers loads for it."""
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else []:
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    tasks = ["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel"]
    for auto in (tasks[1::-1] if "text_config" in config else tasks[:2]) + tasks[2:]:
        classes = getattr(getattr(transformers, auto, None), "_model_mapping", {})
        if type(built) in classes:
            found = classes[type(built)]
            return found[0] if isinstance(found, tuple) else found
    raise UnsupportedError(f"no class for {printable(config['model_type'])}")


def _check_counts(config: Mapping[str, Any]) -> None:
    """Refuse a configuration with so many layers or experts that building it would take minutes."""
    tabulated = bool(TABLES.search(str(config.get("model_type"))))
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_counts(value)
        counts = [item for item in value if isinstance(item, int)] + [len(value)] if isinstance(value, list) else [value]
        for count in counts:
            if isinstance(count, int) and count > _largest(str(key), tabulated):
                raise UnsupportedError(f"its configuration says {printable(key, 40)} {printable(count, 40)}")


def _largest(key: str, tabulated: bool) -> float:
    """Return the largest number that a setting may have."""
    if re.search(r"layer|depth|block|expert|stage|level|codebook|heads", key):
        return LARGEST_COUNT
    if re.search(r"label|class", key):
        return LARGEST_CLASSES
    return LARGEST_TABLE if tabulated and re.search(r"position|length|size|frames", key) and "vocab" not in key else math.inf
