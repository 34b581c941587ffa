"""Match the tensors of two checkpoints by name, or by a rule if it is unambiguous.

Each tensor of either checkpoint ends up either in a pair or, with a reason, in the list of skipped tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.tensor import Checkpoint, Skip, Tensor
from dynamics.errors import InputError, printable

#: fused modules whose rows are the concatenated rows of several modules (Phi-3, GLM-4, vLLM, SGLang)
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
#: fused modules whose row order depends on the architecture (by head, by group, or transposed), which are never split
INTERLEAVED = ("query_key_value", "c_attn", "Wqkv", "wqkv", "linear_qkv", "linear_fc1")
EXPERT = re.compile(r"^(.*\.)(?:mlp|block_sparse_moe|feed_forward|moe)\.experts\.(\d+)\.(\w+)(?:\.weight)?$")
STACKED = re.compile(r"^(.*\.)(?:mlp|block_sparse_moe|feed_forward|moe)\.experts\.(\w+?)(?:\.weight)?$")
ROLES = {
    "w1": "gate",
    "gate_proj": "gate",
    "w3": "up",
    "up_proj": "up",
    "w2": "down",
    "down_proj": "down",
    "gate_up_proj": "gate_up",
}

PACKED = re.compile(
    r"\.(qweight|qzeros|g_idx|absmax|quant_map|quant_state\.\w+|nested_absmax|nested_quant_map|weight_packed|weight_shape|SCB)$"
)
SCALE = re.compile(r"(\.weight_scale_inv|\.weight_scale|\.scales|_scale_inv|_scales|\.input_scale|\.weight_zero_point|_blocks)$")
LORA = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)\b")


@dataclass(frozen=True)
class Pair:
    """Two tensors to compare. ``name`` is the base's name without wrappers."""

    name: str
    base: Tensor
    tuned: Tensor


@dataclass
class Match:
    """The pairs to compare, the skipped tensors, and notes on assumptions of the matching."""

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Side:
    """The unmatched tensors of one checkpoint, by canonical name."""

    which: str
    checkpoint: Checkpoint
    left: dict[str, Tensor]

    def take(self, name: str) -> Tensor:
        return self.left.pop(name)


def match(base: Checkpoint, tuned: Checkpoint) -> Match:
    """Pair the tensors of two checkpoints.

    Raises
    ------
    InputError : no common tensors, or shapes that differ in more than the number of vocabulary rows.
    """
    result = Match()
    a, b = _side("base", base, result), _side("tuned", tuned, result)
    _align_stems(a, b, result)
    _drop_aliases(a, b, result)
    _same_names(a, b, result)
    _renamed(a, b, result)
    for side, other in ((a, b), (b, a)):
        _fused(side, other, result)
        _experts(side, other, result)
        _tied_head(side, other, result)
    for side, other in ((a, b), (b, a)):
        for name, tensor in side.left.items():
            reason = _only_reason(name, side, other)
            result.skipped.append(Skip(name, side.which, reason, tensor.numel, parameter_names.is_added_head(name)))
    if not result.pairs:
        raise InputError(_nothing_common(base, tuned, result))
    return result


def _side(which: str, checkpoint: Checkpoint, result: Match) -> _Side:
    """Collect the tensors of a checkpoint by canonical name, without buffers and packed weights."""
    result.skipped += [Skip(entry.name, which, entry.reason, entry.numel) for entry in checkpoint.ignored]
    short = parameter_names.canonical(checkpoint.tensors)
    side = _Side(which, checkpoint, {})
    scaled = {SCALE.sub("", name) for name in checkpoint.tensors if SCALE.search(name)}
    for stored, tensor in checkpoint.tensors.items():
        name = short[stored]
        stem = re.sub(r"\.weight$", "", stored)
        if LORA.search(stored):
            raise InputError(
                f"{printable(checkpoint.path)}: holds LoRA factors beside the weights ({printable(stored)}); "
                "merge them first, or name the adapter's own folder"
            )
        if parameter_names.is_buffer(name, tensor.shape):
            result.skipped.append(Skip(name, which, "a buffer, not a weight: no optimizer updates it"))
        elif PACKED.search(stored) or SCALE.search(stored) or (stem in scaled and tensor.storage.itemsize == 1):
            reason = "quantised with separate scales: its stored values are not weights; dequantise first"
            result.skipped.append(Skip(name, which, reason, tensor.numel))
        else:
            side.left[name] = tensor
    return side


def _align_stems(a: _Side, b: _Side, result: Match) -> None:
    """Add a prefix to the names of one side if more names match with it."""
    best, change = len(a.left.keys() & b.left.keys()), None
    for side, other in ((a, b), (b, a)):
        for stem in parameter_names.STEMS:
            common = sum(stem + name in other.left for name in side.left)
            if common > best:
                best, change = common, (side, other, stem)
    if change:
        side, other, stem = change
        renamed = {stem + name if stem + name in other.left or name not in other.left else name: t for name, t in side.left.items()}
        if len(renamed) == len(side.left):
            side.left = renamed
            result.notes.append(f"names of {side.which} were matched after adding {stem!r} before them")


def _drop_aliases(a: _Side, b: _Side, result: Match) -> None:
    """Count a tensor that has two names on both sides (tied weights in a state dict) only once."""
    theirs = dict(_aliases(b))
    for name, first in list(_aliases(a)):
        if theirs.get(name) == first:
            a.take(name)
            b.take(name)
            result.skipped.append(Skip(name, "both", f"the same memory as {first}, which is compared"))


def _aliases(side: _Side) -> Iterator[tuple[str, str]]:
    seen: dict[object, str] = {}
    for name, tensor in side.left.items():
        if tensor.source is not None and tensor.numel:
            if tensor.source in seen:
                yield name, seen[tensor.source]
            else:
                seen[tensor.source] = name


def _same_names(a: _Side, b: _Side, result: Match) -> None:
    mismatches: list[str] = []
    for name in [name for name in a.left if name in b.left]:
        x, y = a.take(name), b.take(name)
        if x.shape == y.shape:
            result.pairs.append(Pair(name, x, y))
        elif _vocabulary(name, x, y):
            _common_rows(name, x, y, result)
        elif x.numel == y.numel == 1:  # a scalar is stored as () or (1,)
            result.pairs.append(Pair(name, x, y))
        else:
            mismatches.append(f"{printable(name)}: base {x.shape} vs tuned {y.shape}")
    if mismatches:
        rest = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
        raise InputError(f"{mismatches[0]}{rest}: shapes differ; these are not two states of one model")


def _renamed(a: _Side, b: _Side, result: Match) -> None:
    """Rename modules whose names differ on disk and in memory in transformers: the block of Mixtral's router, the head of GPT-NeoX."""
    theirs = {_usual(name): name for name in b.left}
    if len(theirs) < len(b.left):
        return
    for name in list(a.left):
        other = theirs.get(_usual(name))
        if other in b.left and a.left[name].shape == b.left[other].shape:
            result.pairs.append(Pair(name, a.take(name), b.take(other)))


def _usual(name: str) -> str:
    return re.sub(r"(^|\.)embed_out\.", r"\1lm_head.", re.sub(r"\.(block_sparse_moe|feed_forward|moe)\.", ".mlp.", name))


def _vocabulary(name: str, x: Tensor, y: Tensor) -> bool:
    """Tell whether two shapes differ only in the number of vocabulary rows."""
    same_width = len(x.shape) == len(y.shape) >= 1 and x.shape[1:] == y.shape[1:]
    return same_width and min(x.shape[0], y.shape[0]) > 0 and parameter_names.kind(name) in ("embedding", "head")


def _common_rows(name: str, x: Tensor, y: Tensor, result: Match) -> None:
    rows = min(x.shape[0], y.shape[0])
    result.pairs.append(Pair(name, x.rows(0, rows), y.rows(0, rows)))
    if x.shape[0] != y.shape[0]:
        longer, where = (x, "base") if x.shape[0] > rows else (y, "tuned")
        extra = longer.numel - rows * (longer.numel // longer.shape[0])
        result.skipped.append(
            Skip(
                f"{name}[{rows}:{longer.shape[0]}]",
                where,
                f"vocabulary rows only in {where}: {extra} values; the common {rows} rows are compared",
                extra,
                by_design=True,
            )
        )


def _fused(side: _Side, other: _Side, result: Match) -> None:
    """Split a fused projection of ``side`` into the separate projections of ``other``."""
    for name, fused in list(side.left.items()):
        module = next((segment for segment in name.split(".") if segment in FUSED), None)
        if module is None:
            continue
        parts = [re.sub(rf"(^|\.){module}(?=\.|$)", rf"\g<1>{part}", name) for part in FUSED[module]]
        if not all(part in other.left for part in parts):
            continue
        tensors = [other.left[part] for part in parts]
        fits = all(t.shape[1:] == fused.shape[1:] for t in tensors) and sum(t.shape[0] for t in tensors) == fused.shape[0]
        if not fits:
            continue
        side.take(name)
        start = 0
        for part, tensor in zip(parts, tensors, strict=True):
            other.take(part)
            part_of_fused = fused.rows(start, start + tensor.shape[0])
            start += tensor.shape[0]
            _pair(part, side, part_of_fused, tensor, result)


def _experts(side: _Side, other: _Side, result: Match) -> None:
    """Split stacked experts of ``side``, ``(experts, out, in)``, into the per-expert weights of ``other``."""
    single: dict[tuple[str, str], dict[int, str]] = {}
    for name in other.left:
        parsed = EXPERT.match(name)
        if parsed and parsed.group(3) in ROLES:
            single.setdefault((parsed.group(1), ROLES[parsed.group(3)]), {})[int(parsed.group(2))] = name
    certain: set[str] = set()  # if one stack of a module fits in one orientation only, all its stacks have this orientation
    stacks = [(name, stacked) for name, stacked in side.left.items() if len(stacked.shape) == 3]
    for name, stacked in sorted(stacks, key=lambda item: item[1].shape[1] == item[1].shape[2]):
        parsed = STACKED.match(name)
        if not parsed or parsed.group(2) not in ROLES:
            continue
        stem, role = parsed.group(1), ROLES[parsed.group(2)]
        parts = [single.get((stem, part), {}) for part in (("gate", "up") if role == "gate_up" else (role,))]
        count, rows, width = stacked.shape
        if not all(sorted(part) == list(range(count)) for part in parts) or rows % len(parts):
            continue
        shape = (rows // len(parts), width)
        if not all(other.left[part[index]].shape == shape for part in parts for index in part):
            continue
        if rows == width and stem not in certain:
            continue
        certain.add(stem)
        side.take(name)
        for index in range(count):
            expert = stacked.item(index)
            for position, part in enumerate(parts):
                part_of_fused = expert.rows(position * shape[0], (position + 1) * shape[0])
                _pair(part[index], side, part_of_fused, other.take(part[index]), result)


def _tied_head(side: _Side, other: _Side, result: Match) -> None:
    """Match a head that only ``side`` stores: a copy of its embedding, or untied from the embedding that ``other`` still shares."""
    head = next(
        (
            name
            for name in side.left
            if parameter_names.kind(name) == "head" and parameter_names.layer(name) is None and name.endswith("weight")
        ),
        None,
    )
    if head is None:
        return
    embedding, theirs = _embedding(side.checkpoint), _embedding(other.checkpoint)
    if embedding is not None and embedding.shape == side.left[head].shape and equal(side.left[head], embedding):
        side.take(head)
        result.skipped.append(Skip(head, side.which, "tied: holds the values of the input embedding, which is compared"))
    elif (
        theirs is not None
        and (other.checkpoint.config or {}).get("tie_word_embeddings") is True
        and _vocabulary(head, side.left[head], theirs)
    ):
        tensor = side.take(head)
        base, tuned = (tensor, theirs) if side.which == "base" else (theirs, tensor)
        _common_rows(head, base, tuned, result)
        result.notes.append(f"{head} of {side.which} was compared with the input embedding of {other.which}, whose config ties the two")


def _embedding(checkpoint: Checkpoint) -> Tensor | None:
    suffixes = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "embed_in.weight", "word_embeddings.weight")
    return next((tensor for name, tensor in checkpoint.tensors.items() if name.endswith(suffixes)), None)


def equal(x: Tensor, y: Tensor, chunk: int = 1 << 20) -> bool:
    """Tell whether two tensors hold the same bits. They are read in chunks up to the first difference."""
    if x.dtype != y.dtype or x.numel != y.numel:
        return False
    if x.source is not None and x.source == y.source:
        return True
    spans = ((start, min(start + chunk, x.numel)) for start in range(0, x.numel, chunk))
    return all(np.array_equal(x.stored(*span).view(np.uint8), y.stored(*span).view(np.uint8)) for span in spans)


def _pair(name: str, side: _Side, tensor: Tensor, other: Tensor, result: Match) -> None:
    base, tuned = (tensor, other) if side.which == "base" else (other, tensor)
    result.pairs.append(Pair(name, base, tuned))


def _only_reason(name: str, side: _Side, other: _Side) -> str:
    if any(segment in INTERLEAVED for segment in name.split(".")):
        return f"only in {side.which}: a fused projection whose row order depends on the architecture"
    parsed = STACKED.match(name)
    if parsed and parsed.group(2) in ROLES and any(EXPERT.match(theirs) for theirs in other.left):
        return f"only in {side.which}: stacked experts that do not fit the separate ones as (experts, out, in), or fit both ways round"
    return f"only in {side.which}"


def _nothing_common(base: Checkpoint, tuned: Checkpoint, result: Match) -> str:
    quantised = sum("quantised" in skip.reason for skip in result.skipped)
    if quantised:
        return (
            f"{printable(base.path)} and {printable(tuned.path)}: nothing to compare: {quantised} tensors are quantised with separate "
            "scales; dequantise first"
        )
    if (base.format == "megatron") != (tuned.format == "megatron"):
        return (
            f"{printable(base.path)} and {printable(tuned.path)}: one has the names of Megatron, whose fused rows have another order; "
            "convert it to the names of the other, or name another Megatron checkpoint"
        )
    of_base, of_tuned = (next(iter(checkpoint.tensors), "nothing") for checkpoint in (base, tuned))
    return (
        f"{printable(base.path)} and {printable(tuned.path)} have no tensor in common "
        f"(base has {printable(of_base, 60)}, tuned has {printable(of_tuned, 60)}); these are not two states of one model"
    )
