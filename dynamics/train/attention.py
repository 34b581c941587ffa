"""Attention for prompts and completions packed into one row, in memory linear in their length, with grouped-query attention.

A packed row holds several segments (``batch.Segment``): a segment attends causally to itself and, if it is a completion that shares its
prompt with others, to the whole prompt, and to nothing else. Each part of the softmax, over a segment's own keys and over its prompt's, is
computed by torch's fused kernel and the parts are merged by their log-sum-exp. No attention weight is kept for the backward pass, which
recomputes them (FlashAttention, arXiv 2205.14135). Devices without the kernel compute the parts in blocks of queries.

``attend`` is registered with transformers as ``NAME``. Models differ in what they expect of their attention, so the caller must check that
it reproduces the model's own log-probabilities (``Policy`` does).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.train.batch import Segment

NAME = "packed_segments"
#: attention arguments of some models that are not supported
_UNSUPPORTED = ("softcap", "s_aux")
#: log-sum-exp of slots without a token: it makes their attention weights 0
_UNSEEN = 1e30
#: queries per block where there is no fused kernel
BLOCK = 256
#: segments are batched, padded to the longest, if it is at most this long, or up to PADDED_LENGTH if it is at most twice as long as each;
#: longer ones only if their lengths are equal
SHORT_LENGTH, PADDED_LENGTH = 32, 128


@dataclass(frozen=True)
class SegmentBatch:
    """Segments of similar length that are computed together.

    Attributes
    ----------
    shape : number of segments N and length L of the longest.
    gather : (N * L,) token of each slot; padding slots, on the right of a segment, repeat its first token. A slice if the segments are of
        equal length and follow each other, so that nothing need be copied.
    tokens, slots : (tokens,) each token and its slot, or slices.
    """

    shape: tuple[int, int]
    gather: Int[Tensor, " slots"] | slice
    tokens: Int[Tensor, " tokens"] | slice
    slots: Int[Tensor, " tokens"] | slice


@dataclass(frozen=True)
class Layout:
    """Which tokens of one packed row attend to which.

    Attributes
    ----------
    own : every token is in one of these segments and attends to the tokens of it up to itself.
    prompts : (start, end, prompt start, prompt end): tokens from start to end also attend to all tokens of the prompt.
    longest : largest distance between a token and one it attends to, plus one.
    past : keys and values of tokens before the row, to which all of its tokens attend; None if there are none.
    """

    own: Sequence[SegmentBatch]
    prompts: Sequence[tuple[int, int, int, int]]
    longest: int
    past: Past | None = None

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device, past: Past | None = None) -> Layout:
        """Compute the layout of a row of these segments."""
        segments = [segment for segment in segments if segment.start < segment.end]
        batches: list[list[Segment]] = []
        for segment in sorted(segments, key=lambda segment: segment.start - segment.end):
            longest, length = _length(batches[-1][0]) if batches else 0, _length(segment)
            if batches and longest <= max(SHORT_LENGTH, length, min(PADDED_LENGTH, 2 * length)):
                batches[-1].append(segment)
            else:
                batches.append([segment])
        prompts: list[tuple[int, int, int, int]] = []
        for start, end, first, last in segments:
            if first == last:
                continue
            if prompts and prompts[-1][1:] == (start, first, last):  # the next completion of the same prompt
                start = prompts.pop()[0]
            prompts.append((start, end, first, last))
        longest = max(_length(segment) + segment.prompt_end - segment.prompt_start for segment in segments)
        return cls([_batched(batch, device) for batch in batches], prompts, longest, past)


def _length(segment: Segment) -> int:
    return segment.end - segment.start


def _batched(segments: Sequence[Segment], device: torch.device) -> SegmentBatch:
    starts = np.array([segment.start for segment in segments])
    lengths = np.array([_length(segment) for segment in segments])
    if (lengths == lengths[0]).all() and (np.diff(starts) == lengths[0]).all():
        whole = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
        return SegmentBatch((len(segments), int(lengths[0])), whole, whole, slice(None))
    inside = np.arange(lengths.max())[None] < lengths[:, None]
    gather = np.where(inside, starts[:, None] + np.arange(lengths.max())[None], starts[:, None])
    as_tensor = (torch.from_numpy(index).to(device) for index in (gather.ravel(), gather[inside], np.flatnonzero(inside)))
    return SegmentBatch((len(segments), int(lengths.max())), *as_tensor)


@dataclass
class Past:
    """Keys and values of the earlier pieces of a sequence that is computed piece by piece, by attention module.

    Attributes
    ----------
    earlier : (keys, values) of each earlier piece, (1, key heads, tokens, size) each, in order.
    current : those of the piece that is being computed, with their graph; set by ``attend`` while ``recording``.
    recording : whether ``attend`` sets ``current``; not while a layer is computed again for its gradient.
    """

    earlier: dict[Any, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    current: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)
    recording: bool = True

    def length(self, module: Any) -> int:
        """Count the tokens of the earlier pieces."""
        return sum(key.shape[2] for key, _ in self.earlier.get(module, ()))

    def advance(self) -> None:
        """Append the current piece to the earlier ones, as leaves that collect the gradients of later pieces."""
        for module, (key, value) in self.current.items():
            leaves = key.detach().requires_grad_(), value.detach().requires_grad_()
            self.earlier.setdefault(module, []).append(leaves)
        self.current = {}

    def retreat(self) -> dict[Any, tuple[Tensor, Tensor]]:
        """Remove the last earlier piece, if there is one, and return its leaves with the gradients that later pieces gave them."""
        return {module: pieces.pop() for module, pieces in self.earlier.items() if pieces}


def use(model: Any) -> None:
    """Set ``attend`` as the attention implementation of a transformers model."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(*args: Any, **more: Any) -> Tensor:
    """Return transformers' boolean mask (batch, 1, queries, keys), True where a query attends to a key."""
    from transformers.masking_utils import sdpa_mask

    mask: Tensor = sdpa_mask(*args, **more | {"allow_is_causal_skip": False})
    return mask


def attend(
    module: Any,
    query: Float[Tensor, "rows heads queries size"],
    key: Float[Tensor, "rows key_heads keys size"],
    value: Float[Tensor, "rows key_heads keys value_size"],
    attention_mask: Bool[Tensor, " ..."] | Float[Tensor, " ..."] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "rows queries heads value_size"], None]:
    """Compute attention, with the interface of transformers' attention functions.

    Parameters
    ----------
    module : the attention layer that calls.
    query, key, value : several query heads may share a head of keys and values.
    attention_mask : broadcasts to (rows, 1, queries, keys): True where a query attends to a key, or numbers to add to the scores.
    scaling : factor of the scores; 1 / sqrt(size) if None.
    layout : of one packed row; the mask is then ignored.
    sliding_window : tokens that a token sees, itself included. The mask contains it; with a layout, ValueError if a token would see more.
    dropout, more : options of transformers; unsupported ones raise ValueError.
    """
    if dropout or any(more.get(name) is not None for name in _UNSUPPORTED):
        raise ValueError("attention with dropout, soft-capping or sinks is not covered")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout is not None:
        reach = layout.longest + (layout.past.length(module) if layout.past is not None else 0)
        if sliding_window is not None and reach > sliding_window:
            raise ValueError(f"a sequence of {reach} tokens is longer than the model's window of {sliding_window}")
        return _attend_packed(module, query, key, value, layout, scale), None
    query = query * scale
    batch, heads, length, size = query.shape
    key_heads = key.shape[1]
    scores = query.reshape(batch, key_heads, -1, size) @ key.transpose(2, 3)
    by_head = scores.view(batch, key_heads, heads // key_heads, length, -1)
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        by_head = by_head.float() + attention_mask[:, :, None].float()  # its lowest number would be -inf in a narrower dtype
    elif attention_mask is not None:
        _hide(by_head, attention_mask[:, :, None])
    output = _softmax(by_head, value.dtype).view(scores.shape) @ value
    return output.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def _hide(scores: Tensor, seen: Tensor) -> None:
    """Set masked scores (where ``seen`` is False) to the lowest finite number of their dtype, in place.

    No score becomes -inf, so a query that attends to nothing (padding) gets equal weights instead of NaN. NaN would spread to other rows
    as 0 x NaN.
    """
    scores.masked_fill_(~seen, torch.finfo(scores.dtype).min)


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over keys, computed in float32 and given in ``dtype``."""
    return torch.softmax(scores, -1, dtype=torch.float32).to(dtype)


def _attend_packed(module: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attend in one packed row: (1, heads, T, size) to (1, T, heads, size)."""
    earlier: list[tuple[Tensor, Tensor]] = []
    if layout.past is not None:
        earlier = list(layout.past.earlier.get(module, ()))
        if layout.past.recording:
            layout.past.current[module] = key, value
    flat = [part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value)]  # some models rotate or scale in float32
    pasts = [part[0].transpose(0, 1).to(value.dtype) for pair in earlier for part in pair]
    output: Tensor = _Attend.apply(layout, scale, *flat, *pasts)  # type: ignore[no-untyped-call]
    return output[None]


class _Attend(torch.autograd.Function):
    """Attention in a packed row of query, key and value (T, heads, size); then keys and values of each earlier piece."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, scale: float, query: Tensor, key: Tensor, value: Tensor, *past: Tensor) -> Tensor:
        key_heads = key.shape[1]
        output = query.new_empty(*query.shape[:2], value.shape[-1])
        logsumexp = query.new_empty(query.shape[:2], dtype=_sum_dtype(query))
        for batch in layout.own:
            own = (_by_segment(batch, part[batch.gather], key_heads, query) for part in (query, key, value))
            parts = fused_or_blocked(*own, causal=True, scale=scale)
            output[batch.tokens], logsumexp[batch.tokens] = (_from_own(batch, part, key_heads) for part in parts)
        for rows, _, keys, values in _others(layout, key, value, past):
            parts = fused_or_blocked(*(_folded(part, key_heads) for part in (query[rows], keys, values)), causal=False, scale=scale)
            _merge(output[rows], logsumexp[rows], *(_unfolded(part, query.shape[1]) for part in parts))
        ctx.layout, ctx.scale = layout, scale
        ctx.save_for_backward(query, key, value, output, logsumexp, *past)
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        query, key, value, output, logsumexp, *past = ctx.saved_tensors
        layout, key_heads, heads = ctx.layout, key.shape[1], query.shape[1]
        kind = _sum_dtype(query) if _fused(query, value) else query.dtype  # in bfloat16, the fused kernel takes up to four times as long
        slopes = [torch.empty_like(part, dtype=_sum_dtype(part)) for part in (query, key, value)]
        for batch in layout.own:
            sums = logsumexp.new_full((math.prod(batch.shape), heads), _UNSEEN)
            sums[batch.slots] = logsumexp[batch.tokens]
            given = (*(part[batch.gather].to(kind) for part in (query, key, value, slope, output)), sums)
            own = (_by_segment(batch, part, key_heads, query) for part in given)
            by_query, *others = fused_or_blocked_gradient(*own, causal=True, scale=ctx.scale)
            for whole, part in zip(slopes, (by_query, *(part.sum(1, keepdim=True) for part in others)), strict=True):
                whole[batch.tokens] = _from_own(batch, part, key_heads).to(whole.dtype)
        of_past = []
        for rows, place, keys, values in _others(layout, key, value, past):
            given = (*(part.to(kind) for part in (query[rows], keys, values, slope[rows], output[rows])), logsumexp[rows])
            by_query, *others = fused_or_blocked_gradient(*(_folded(part, key_heads) for part in given), causal=False, scale=ctx.scale)
            slopes[0][rows] += _unfolded(by_query, heads)
            others = [_unfolded(part, key_heads) for part in others]
            if place is None:
                of_past += [part.to(key.dtype) for part in others]
                continue
            for whole, part in zip(slopes[1:], others, strict=True):
                whole[place] += part
        return None, None, *(whole.to(query.dtype) for whole in slopes), *of_past


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype in which sums over parts are kept."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _others(layout: Layout, key: Tensor, value: Tensor, past: Sequence[Tensor]) -> Iterator[tuple[slice, slice | None, Tensor, Tensor]]:
    """Rows of queries with what all of them attend to beside their own segment.

    Yields
    ------
    The rows; where the keys are in the row, None for those of earlier pieces; keys and values, (tokens, key heads, size).
    """
    for start, end, first, last in layout.prompts:
        yield slice(start, end), slice(first, last), key[first:last], value[first:last]
    for earlier_keys, earlier_values in zip(past[::2], past[1::2], strict=True):
        yield slice(0, len(key)), None, earlier_keys, earlier_values


def _by_segment(batch: SegmentBatch, part: Tensor, key_heads: int, query: Tensor) -> Tensor:
    """(N * L, heads, ...) to (N * key heads, query heads per key head, L, ...); keys and values are repeated without a copy."""
    by_head = part.view(*batch.shape, key_heads, -1, *part.shape[2:]).transpose(1, 2).flatten(0, 1).transpose(1, 2)
    return by_head.expand(-1, query.shape[1] // key_heads, *by_head.shape[2:])


def _from_own(batch: SegmentBatch, part: Tensor, key_heads: int) -> Tensor:
    """Undo ``_by_segment``, for the tokens of the batch: (tokens, heads, ...)."""
    count, length = batch.shape
    by_slot = torch.unflatten(part.transpose(1, 2), 0, (count, key_heads)).transpose(1, 2)
    return by_slot.reshape(count * length, -1, *part.shape[3:])[batch.slots]


def _folded(part: Tensor, key_heads: int) -> Tensor:
    """(tokens, heads, ...) to (1, key heads, heads per key head * tokens, ...), for attention in which the order of queries is free."""
    return part.view(len(part), key_heads, -1, *part.shape[2:]).movedim(0, 2).flatten(1, 2)[None]


def _unfolded(part: Tensor, heads: int) -> Tensor:
    """Undo ``_folded``."""
    _, key_heads, rows, *_ = part.shape
    groups = heads // key_heads
    return torch.unflatten(part[0], 1, (groups, rows // groups)).movedim(2, 0).flatten(1, 2)


def _merge(output: Tensor, logsumexp: Tensor, part: Tensor, sums: Tensor) -> None:
    """Add a part of the softmax, over other keys, to ``output`` and ``logsumexp`` in place."""
    total = torch.logaddexp(logsumexp, sums)
    old, new = (torch.exp(share - total)[..., None] for share in (logsumexp, sums))
    output.copy_(output * old + part * new)
    logsumexp.copy_(total)


def _fused(query: Tensor, value: Tensor) -> bool:
    """Whether torch's fused kernel computes this; it needs a CPU, and values of the size of the keys."""
    return query.device.type == "cpu" and query.shape[-1] == value.shape[-1]


def fused_or_blocked(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of (rows, heads, queries, size) and the log-sum-exp of its scores, (rows, heads, queries)."""
    if _fused(query, value):
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
        return output, logsumexp
    return blocked(query, key, value, causal=causal, scale=scale)


def fused_or_blocked_gradient(
    query: Tensor, key: Tensor, value: Tensor, slope: Tensor, output: Tensor, logsumexp: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. Output and log-sum-exp may be those of a softmax over more keys, of which these are a part."""
    if not _fused(query, value):
        return blocked_gradient(query, key, value, slope, output, logsumexp, causal=causal, scale=scale)
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        slope, query, key, value, output, logsumexp, 0.0, causal, scale=scale
    )
    return made[0], made[1], made[2]


def blocked(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """``fused_or_blocked`` by plain operations, over blocks of queries: scores of BLOCK x keys are held at a time."""
    outputs, sums = [], []
    for start in range(0, query.shape[2], BLOCK):
        stop = start + BLOCK if causal else key.shape[2]  # later keys are not seen
        scores = _scores(query[:, :, start : start + BLOCK], key[:, :, :stop], start if causal else None, scale)
        sums.append(torch.logsumexp(scores, -1))
        outputs.append(torch.exp(scores - sums[-1][..., None]).to(value.dtype) @ value[:, :, :stop])
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def blocked_gradient(
    query: Tensor, key: Tensor, value: Tensor, slope: Tensor, output: Tensor, logsumexp: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``fused_or_blocked_gradient`` by plain operations, over blocks of queries."""
    kind = _sum_dtype(query)
    by_query = torch.empty_like(query, dtype=kind)
    by_key, by_value = (torch.zeros(part.shape, dtype=kind, device=part.device) for part in (key, value))
    for start in range(0, query.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        stop = start + BLOCK if causal else key.shape[2]
        queries, slopes, keys = query[:, :, rows], slope[:, :, rows], key[:, :, :stop]
        weights = torch.exp(_scores(queries, keys, start if causal else None, scale) - logsumexp[:, :, rows, None])
        by_value[:, :, :stop] += (weights.to(slopes.dtype).transpose(2, 3) @ slopes).to(kind)
        along = (slopes.to(kind) * output[:, :, rows].to(kind)).sum(-1, keepdim=True)
        by_score = (weights * ((slopes @ value[:, :, :stop].transpose(2, 3)).to(kind) - along) * scale).to(queries.dtype)
        by_query[:, :, rows] = (by_score @ keys).to(kind)
        by_key[:, :, :stop] += (by_score.transpose(2, 3) @ queries).to(kind)
    return by_query, by_key, by_value


def _scores(query: Tensor, key: Tensor, first: int | None, scale: float) -> Tensor:
    """Scaled scores in float32, or float64 if the queries are; causal with query ``first`` at the top, if it is given."""
    scores = (query @ key.transpose(2, 3)).to(_sum_dtype(query)) * scale
    if first is not None:
        places = torch.arange(scores.shape[3], device=scores.device)
        scores.masked_fill_(places > places.new_tensor(first) + torch.arange(scores.shape[2], device=scores.device)[:, None], -torch.inf)
    return scores
