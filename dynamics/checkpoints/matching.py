"""Match the tensors of two checkpoints by name, or by a rule if it is unambiguous.

Each tensor of either checkpoint ends up either in a pair or, with a reason, in the list of skipped tensors.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dynamics.checkpoints import alignment, conversion, correspondence, parameter_names, views
from dynamics.checkpoints.quantised.notes import explain
from dynamics.checkpoints.tensor import Checkpoint, Skip, Tensor
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable

#: fused modules whose rows are the concatenated rows of several modules (Phi-3, GLM-4, vLLM, SGLang)
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
#: fused modules whose row order depends on the architecture (by head, by group, or transposed), which are never split
INTERLEAVED = ("query_key_value", "c_attn", "Wqkv", "wqkv", "linear_qkv", "linear_fc1")
#: embeddings and heads with which another one is compared
COPIES = 256
EXPERT = re.compile(r"^(.*\.)experts\.(\d+)\.(\w+)(?:\.weight)?$")
STACKED = re.compile(r"^(.*\.)experts\.(\w+?)(?:\.weight)?$")
ROLES = {
    "w1": "gate",
    "gate_proj": "gate",
    "w3": "up",
    "up_proj": "up",
    "w2": "down",
    "down_proj": "down",
    "gate_up_proj": "gate_up",
}


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
    #: tensors of the checkpoint that are in a pair, or their parts are
    compared: list[Tensor] = field(default_factory=list)
    #: the other side's name for a tensor -> its own
    own_names: dict[str, str] = field(default_factory=dict)

    def take(self, name: str) -> Tensor:
        tensor = self.left.pop(name)
        self.compared.append(tensor)
        return tensor


@dataclass
class _Attempt:
    """A match, and the line with which to refuse it if no other match is better."""

    match: Match
    refusal: str | None
    #: number of parameters of each side that have no counterpart, though the other side should have them
    missing: dict[str, int]


def match(base: Checkpoint, tuned: Checkpoint) -> Match:
    """Pair the tensors of two checkpoints.

    Names are matched as they are, then by structure (see ``alignment``). If tensors of both sides are left over, the names and the layout
    that transformers gives them in memory are tried (see ``conversion``).

    Raises
    ------
    InputError : no common tensors, or shapes that differ in more than the number of vocabulary rows.
    """
    attempt = _attempt(base, tuned)
    if attempt.refusal or all(attempt.missing.values()):
        converted = conversion.in_memory(base, tuned)
        if isinstance(converted, str):
            attempt.match.notes += [converted] if converted else []
        else:
            other = _attempt(*converted)
            if not other.refusal and (attempt.refusal or sum(other.missing.values()) < sum(attempt.missing.values())):
                other.match.notes.append("names were matched, and weights rearranged where needed, as transformers does on loading")
                attempt = other
    if attempt.refusal:
        raise InputError(attempt.refusal)
    attempt.match.notes += explain(base, tuned)
    if tuned.base_name and not base.base_name and not _is_named(base, tuned.base_name):
        attempt.match.notes.append(
            f"the adapter says that it was trained on {printable(tuned.base_name)}: the numbers hold only if BASE, {printable(base.path)}, "
            "has the weights of that model"
        )
    return attempt.match


def _is_named(base: Checkpoint, name: str) -> bool:
    """Tell whether a checkpoint is the one that an adapter names: by the end of its path, in the Hub's cache, or by its config."""
    known = [base.path, (base.config or {}).get("_name_or_path")]
    last = re.split(r"[/\\@]", name.rstrip("/\\"))[-1].lower()
    parts = {part.lower().rpartition("--")[2] for path in known if isinstance(path, str) for part in re.split(r"[/\\@]", path)}
    return not last or last in parts


def _attempt(base: Checkpoint, tuned: Checkpoint) -> _Attempt:
    result = Match()
    a, b = _side("base", base, result), _side("tuned", tuned, result)
    unreadable = len(result.skipped)
    if a.left.keys() != b.left.keys():
        _set_shifted_aside(a, b, result)
        _align(a, b, result)
        if b.own_names:
            _set_shifted_aside(a, b, result)
        _set_moved_layers_aside(a, b, result)
    _drop_aliases(a, b, result)
    refusal = _same_names(a, b, result)
    for side, other in ((a, b), (b, a)):
        _fused(side, other, result)
        _experts(side, other, result)
    for side, other in ((a, b), (b, a)):
        _alias_of_compared(side, result)
        _tied_head(side, other, result)
    drafts = {side.which for side, other in ((a, b), (b, a)) if any(_is_draft(name, side, other) for name in side.checkpoint.tensors)}
    for side, other in ((a, b), (b, a)):
        for name, tensor in side.left.items():
            reason = _only_reason(name, side, other)
            added = parameter_names.is_added_head(name) or (drafts == {side.which} and _is_draft(name, side, other))
            by_design = added or _is_replaced_head(name, other)
            result.skipped.append(Skip(side.own_names.get(name, name), side.which, reason, tensor.numel, by_design))
    if not result.pairs:
        refusal = refusal or _nothing_common(base, tuned, result)
    left = [skip for skip in result.skipped[unreadable:] if not skip.by_design]
    return _Attempt(result, refusal, {side: sum(skip.numel for skip in left if skip.where == side) for side in ("base", "tuned")})


def _side(which: str, checkpoint: Checkpoint, result: Match) -> _Side:
    """Collect the tensors of a checkpoint by canonical name, without buffers."""
    result.skipped += [Skip(entry.name, which, entry.reason, entry.numel) for entry in checkpoint.ignored]
    short = parameter_names.canonical(checkpoint.tensors)
    side = _Side(which, checkpoint, {})
    for stored, tensor in checkpoint.tensors.items():
        name = short[stored]
        if parameter_names.ADAPTED.search(stored):
            raise InputError(
                f"{printable(checkpoint.path)}: holds LoRA factors beside the weights ({printable(stored)}); "
                "merge them, put the adapter_config.json of the run beside them, or name the adapter's own folder"
            )
        if parameter_names.is_balancer(name):
            result.skipped.append(
                Skip(name, which, "a bias that balances the load of experts: no weight, the optimizer does not update it")
            )
        elif parameter_names.is_buffer(name, tensor.shape):
            result.skipped.append(Skip(name, which, "a buffer, not a weight: no optimizer updates it"))
        else:
            side.left[name] = tensor
    return side


def _set_aside(side: _Side, name: str, reason: str, result: Match) -> None:
    if name in side.left:
        result.skipped.append(Skip(side.own_names.get(name, name), side.which, reason, side.left.pop(name).numel))


def _set_shifted_aside(a: _Side, b: _Side, result: Match) -> None:
    """Leave out modules that are numbered from another number on the other side: their equal names are not the same module."""
    for name in alignment.renumbered(a.left, b.left):
        for side in (a, b):
            _set_aside(side, name, "numbered differently on the two sides, so that equal names are not the same module", result)


def _set_moved_layers_aside(a: _Side, b: _Side, result: Match) -> None:
    """Leave out layers that hold another layer's weights, where one side has layers that the other lacks: removed, or put in between."""
    layers: tuple[dict[str, list[str]], dict[str, list[str]]] = (defaultdict(list), defaultdict(list))
    for side, found in zip((a, b), layers, strict=True):
        for name in side.left:
            if (layer := parameter_names.layer(name)) is not None:
                found[layer].append(name)
    uneven = {layer.rpartition(".")[0] for layer in layers[0].keys() ^ layers[1].keys()}
    for layer in layers[0].keys() & layers[1].keys():
        if layer.rpartition(".")[0] not in uneven:
            continue
        pairs = [(a.left[name], b.left[name]) for name in layers[0][layer] if name in b.left]
        matrix = next(((x, y) for x, y in pairs if len(x.shape) == 2 and x.shape == y.shape and x.shape[0] >= correspondence.FEWEST), None)
        if matrix and not correspondence.rows_correspond(*matrix):
            reason = "one side has more layers, and the layer of this number is another one: its rows are not those of the other side"
            for side, names in ((a, layers[0][layer]), (b, layers[1][layer])):
                for name in names:
                    _set_aside(side, name, reason, result)


def _align(a: _Side, b: _Side, result: Match) -> None:
    """Give tensors of the tuned checkpoint the base's names where the two differ in prefixes or in usual names of modules."""
    common = a.left.keys() & b.left.keys()
    ours, theirs = ({_usual(name): name for name in side.left if name not in common} for side in (a, b))
    if len(ours) + len(theirs) < len(a.left) + len(b.left) - 2 * len(common):  # two tensors would have the same usual name
        ours, theirs = ({name: name for name in side.left if name not in common} for side in (a, b))
    aligned = alignment.align(
        {usual: a.left[name].shape for usual, name in ours.items()}, {usual: b.left[name].shape for usual, name in theirs.items()}, common
    )
    for usual in sorted(aligned.ambiguous):
        for side, names in ((a, ours), (b, theirs)):
            _set_aside(side, names.get(usual, usual), "fits more than one tensor of the other side by name and shape", result)
    renamed = {theirs[usual]: ours.get(target, target) for usual, target in aligned.renamed.items()}
    renamed |= {name: ours[usual] for usual, name in theirs.items() if usual in ours and name not in renamed}
    b.left = {renamed.get(name, name): tensor for name, tensor in b.left.items()}
    b.own_names = {target: name for name, target in renamed.items()}
    rules = sorted((rule for rule in aligned.rules if rule[0] != rule[1]), key=lambda rule: -aligned.rules[rule])
    if rules:
        texts = [f"{printable(prefix) + '.*' if prefix else '*'} = {printable(other) + '.*' if other else '*'}" for prefix, other in rules]
        rest = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        result.notes.append(f"names were matched by structure, base = tuned: {', '.join(texts[:3])}{rest}")
    elif renamed:
        result.notes.append("modules that have two usual names were paired, such as block_sparse_moe and mlp")


def _drop_aliases(a: _Side, b: _Side, result: Match) -> None:
    """Count tied weights once: two names on both sides that share memory or, for a head and an embedding, hold the same values."""
    aliases = [dict(_aliases(side)) for side in (a, b)]
    head, embedding = _name_of_kind(a, "head"), _name_of_kind(a, "embedding")
    pairs = {**aliases[0], **aliases[1]} | ({head: embedding} if head and embedding else {})
    for name, first in pairs.items():
        if first in a.left and all(_tied(side, name, first) for side in (a, b)):
            a.left.pop(name)
            b.left.pop(name)
            shared = aliases[0].get(name) == aliases[1].get(name) == first
            reason = f"the same memory as {first}, which is compared" if shared else f"tied: holds the values of {first}, which is compared"
            result.skipped.append(Skip(name, "both", reason))


def _name_of_kind(side: _Side, kind: str) -> str | None:
    names = [name for name in side.left if name.endswith("weight") and parameter_names.kind(name) == kind]
    names = [name for name in names if parameter_names.layer(name) is None and not parameter_names.is_added_head(name)]
    return names[0] if len(names) == 1 else None


def _tied(side: _Side, name: str, other: str) -> bool:
    if name not in side.left or other not in side.left:
        return False
    return side.left[name].shape == side.left[other].shape and equal(side.left[name], side.left[other])


def _aliases(side: _Side) -> Iterator[tuple[str, str]]:
    seen: dict[object, str] = {}
    for name, tensor in side.left.items():
        if tensor.source is not None and tensor.numel:
            if tensor.source in seen:
                yield name, seen[tensor.source]
            else:
                seen[tensor.source] = name


def _same_names(a: _Side, b: _Side, result: Match) -> str | None:
    """Pair tensors of equal names; return a line about those whose shapes differ."""
    mismatches: list[str] = []
    common = [name for name in a.left if name in b.left]
    transposed = {_module(name) for name in common if _is_transposed_stack(name, a.left[name], b.left[name])}
    for name in common:
        x, y = a.take(name), b.take(name)
        if _module(name) in transposed and len(x.shape) == 3 and x.shape == (y.shape[0], y.shape[2], y.shape[1]):
            result.pairs.append(Pair(name, x, views.swapped(y, 1)))
        elif x.shape == y.shape:
            result.pairs.append(Pair(name, x, y))
        elif _vocabulary(name, x, y) and not parameter_names.is_added_head(name):
            _common_rows(name, x, y, result)
        elif parameter_names.is_added_head(name):
            reason = f"a head of another size: {x.shape} in base, {y.shape} in tuned"
            result.skipped += [Skip(name, which, reason, tensor.numel, by_design=True) for which, tensor in (("base", x), ("tuned", y))]
        elif x.numel == y.numel == 1:  # a scalar is stored as () or (1,)
            result.pairs.append(Pair(name, x, y))
        else:
            mismatches.append(f"{printable(name)}: base {x.shape} vs tuned {y.shape}")
    if transposed:
        result.notes.append("stacked experts are (experts, in, out) on one side: they were compared after transposing")
    if not mismatches:
        return None
    rest = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
    return f"{mismatches[0]}{rest}: shapes differ; these are not two states of one model"


def _module(name: str) -> str:
    return name.rpartition(".experts.")[0]


def _is_transposed_stack(name: str, x: Tensor, y: Tensor) -> bool:
    return bool(STACKED.match(name)) and len(x.shape) == 3 and x.shape != y.shape and x.shape == (y.shape[0], y.shape[2], y.shape[1])


def _usual(name: str) -> str:
    """Return a name with the usual names of modules that have two: Mixtral's block and experts, GPT-NeoX's head."""
    name = re.sub(r"(^|\.)embed_out\.", r"\1lm_head.", re.sub(r"\.(block_sparse_moe|feed_forward|moe)\.", ".mlp.", name))
    return re.sub(r"(\.experts\.\d+\.)(w[123])\b", lambda found: f"{found[1]}{ROLES[found[2]]}_proj", name)


def _vocabulary(name: str, x: Tensor, y: Tensor) -> bool:
    """Tell whether two shapes differ only in the number of vocabulary rows."""
    same_width = len(x.shape) == len(y.shape) >= 1 and x.shape[1:] == y.shape[1:]
    return same_width and min(x.shape[0], y.shape[0]) > 0 and parameter_names.kind(name) in ("embedding", "head")


def _common_rows(name: str, x: Tensor, y: Tensor, result: Match) -> None:
    rows = min(x.shape[0], y.shape[0])
    if x.shape[0] != y.shape[0] and not correspondence.rows_correspond(x, y):
        reason = f"{x.shape[0]} vocabulary rows in base and {y.shape[0]} in tuned, which are in another order or belong to other tokens"
        result.skipped += [Skip(name, which, reason, tensor.numel) for which, tensor in (("base", x), ("tuned", y))]
        return
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
            single.setdefault((_usual(parsed.group(1)), ROLES[parsed.group(3)]), {})[int(parsed.group(2))] = name
    certain: set[str] = set()  # if one stack of a module fits in one orientation only, all its stacks have this orientation
    stacks = [(name, stacked) for name, stacked in side.left.items() if len(stacked.shape) == 3]
    for name, stacked in sorted(stacks, key=lambda item: item[1].shape[1] == item[1].shape[2]):
        parsed = STACKED.match(name)
        if not parsed or parsed.group(2) not in ROLES:
            continue
        stem, role = _usual(parsed.group(1)), ROLES[parsed.group(2)]
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


def _alias_of_compared(side: _Side, result: Match) -> None:
    """Count a tensor once that only this side stores under a second name: in the same memory, or a copy of an embedding or a head."""
    by_source = {tensor.source: tensor.name for tensor in side.compared if tensor.source is not None and tensor.numel}
    for name, tensor in list(side.left.items()):
        first = by_source.get(tensor.source) if tensor.source is not None else None
        if first is not None:
            del side.left[name]
            result.skipped.append(Skip(name, side.which, f"the same memory as {first}, which is compared"))
        elif parameter_names.kind(name) in ("head", "embedding") and parameter_names.layer(name) is None and name.endswith("weight"):
            copies = (x for x in side.compared if x.shape == tensor.shape and parameter_names.kind(x.name) in ("head", "embedding"))
            if any(equal(tensor, x) for x in itertools.islice(copies, COPIES)):
                del side.left[name]
                reason = "tied: holds the values of the input embedding, which is compared"
                result.skipped.append(Skip(name, side.which, reason))


def _tied_head(side: _Side, other: _Side, result: Match) -> None:
    """Match a head that only ``side`` stores with the embedding of ``other``, whose head shares it."""
    head = next(
        (
            name
            for name in side.left
            if parameter_names.kind(name) == "head"
            and parameter_names.layer(name) is None
            and name.endswith("weight")
            and not parameter_names.is_added_head(name)
        ),
        None,
    )
    if head is None:
        return
    theirs = _embedding(other.checkpoint)
    if theirs is not None and other.checkpoint.ties_head and _vocabulary(head, side.left[head], theirs):
        tensor = side.take(head)
        base, tuned = (tensor, theirs) if side.which == "base" else (theirs, tensor)
        _common_rows(head, base, tuned, result)
        result.notes.append(f"{head} of {side.which} was compared with the input embedding of {other.which}, whose config ties the two")


def _embedding(checkpoint: Checkpoint) -> Tensor | None:
    name = parameter_names.token_embedding(checkpoint.tensors)
    return None if name is None else checkpoint.tensors[name]


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


def _is_draft(name: str, side: _Side, other: _Side) -> bool:
    """Tell whether a tensor belongs to multi-token prediction, by its name or by a layer's number beyond those of the model."""
    if parameter_names.is_draft(name):
        return True
    config = side.checkpoint.config or other.checkpoint.config or {}
    layers, extra = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    layer = (parameter_names.layer(name) or "").rpartition(".")[2]
    return isinstance(layers, int) and isinstance(extra, int) and layer.isdecimal() and layers <= int(layer) < layers + extra


def _is_replaced_head(name: str, other: _Side) -> bool:
    """Tell whether a tensor is the output head of a language model, in place of which the other side has that of a reward model."""
    if parameter_names.kind(name) != "head" or parameter_names.layer(name) is not None:
        return False
    added = {theirs: parameter_names.is_added_head(theirs) for theirs in other.checkpoint.tensors}
    return any(added.values()) and all(added[theirs] for theirs in added if parameter_names.kind(theirs) == "head")


def _only_reason(name: str, side: _Side, other: _Side) -> str:
    if _is_draft(name, side, other):
        return f"only in {side.which}: a layer for multi-token prediction"
    if any(segment in INTERLEAVED for segment in name.split(".")):
        return f"only in {side.which}: a fused projection whose row order depends on the architecture"
    parsed = STACKED.match(name)
    if parsed and parsed.group(2) in ROLES and any(EXPERT.match(theirs) for theirs in other.left):
        return f"only in {side.which}: stacked experts that do not fit the separate ones as (experts, out, in), or fit both ways round"
    return f"only in {side.which}"


def _nothing_common(base: Checkpoint, tuned: Checkpoint, result: Match) -> str:
    quantised = [skip for skip in result.skipped if skip.reason.startswith("quantised as")]
    if quantised:
        weights = f"{plural(len(quantised), 'weight')} {quantised[0].reason}"
        return f"{printable(base.path)} and {printable(tuned.path)}: nothing to compare: {weights}"
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
