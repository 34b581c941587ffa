"""Attention for rows in which several completions share a prompt, with grouped-query attention.

Completions of a row do not attend to each other. ``attend`` computes only the remaining attention weights (prompt to prompt, completion to
prompt, completion to itself) and does not repeat keys for the query heads that share them. It is registered with transformers as ``NAME``.
Models differ in what they expect of their attention, so the caller must check that it reproduces the model's own log-probabilities
(``Policy`` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.train.batch import PackedRows

NAME = "shared_prompts"
#: attention arguments of some models that are not supported
_UNSUPPORTED = ("softcap", "s_aux", "sliding_window")


@dataclass(frozen=True)
class SharedPromptPattern:
    """Layout of prompts and completions in rows (B, T), with at most S completions of at most L tokens after prompts of at most P tokens.

    Attributes
    ----------
    prompt_length : P.
    prompt_mask : (B, P) bool, True for prompt tokens, False for padding; None if all prompts have length P.
    gather_index : (B * S * L,) index of each completion token in the flattened rows (B * T); 0 for padding.
    scatter_index : (B * T,) index of each token in the concatenation of prompts (B * P) and completions (B * S * L).
    shape : (S, L).
    """

    prompt_length: int
    prompt_mask: Bool[Tensor, "rows prompt"] | None
    gather_index: Int[Tensor, " completion_slots"]
    scatter_index: Int[Tensor, " row_slots"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, packed: PackedRows, device: torch.device) -> SharedPromptPattern:
        """Compute the layout of rows with ``segments``."""
        segments = packed.segments
        assert segments is not None
        rows, width = segments.shape
        prompt_lengths = (segments == 0).sum(1)
        longest, completions = int(prompt_lengths.max()), int(segments.max())
        lengths = np.stack([(segments == number).sum(1) for number in range(1, completions + 1)], 1)
        size = int(lengths.max())
        gather = np.zeros((rows, completions, size), np.int64)
        scatter = np.zeros((rows, width), np.int64)
        for row in range(rows):
            end = int(prompt_lengths[row])
            scatter[row, :end] = row * longest + np.arange(end)
            for number, length in enumerate(lengths[row].tolist()):
                gather[row, number, :length] = row * width + end + np.arange(length)
                scatter[row, end : end + length] = rows * longest + (row * completions + number) * size + np.arange(length)
                end += length
        mask = None
        if (prompt_lengths < longest).any():
            mask = torch.from_numpy(np.arange(longest)[None, :] < prompt_lengths[:, None]).to(device)
        gather_index, scatter_index = (torch.from_numpy(index.ravel()).to(device) for index in (gather, scatter))
        return cls(longest, mask, gather_index, scatter_index, (completions, size))


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
    _module: Any,
    query: Float[Tensor, "rows heads queries size"],
    key: Float[Tensor, "rows key_heads keys size"],
    value: Float[Tensor, "rows key_heads keys size"],
    attention_mask: Bool[Tensor, " ..."] | Float[Tensor, " ..."] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pattern: SharedPromptPattern | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "rows queries heads size"], None]:
    """Compute attention, with the interface of transformers' attention functions.

    Parameters
    ----------
    _module : not used; transformers passes it.
    query, key, value : several query heads may share a head of keys and values.
    attention_mask : broadcasts to (rows, 1, queries, keys): True where a query attends to a key, or numbers to add to the scores.
    scaling : factor of the scores; 1 / sqrt(size) if None.
    dropout, more : options of transformers; unsupported ones raise ValueError.
    pattern : layout of rows in which several completions share a prompt; the mask is then ignored.
    """
    if dropout or any(more.get(name) is not None for name in _UNSUPPORTED):
        raise ValueError("attention with dropout, soft-capping, sinks or a window is not covered")
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if pattern is not None:
        return _attend_shared(query, key, value, pattern), None
    batch, heads, length, size = query.shape
    key_heads = key.shape[1]
    scores = query.reshape(batch, key_heads, -1, size) @ key.transpose(2, 3)
    by_head = scores.view(batch, key_heads, heads // key_heads, length, -1)
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        by_head = by_head.float() + attention_mask[:, :, None].float()  # its lowest number would be -inf in a narrower dtype
    elif attention_mask is not None:
        _hide(by_head, attention_mask[:, :, None])
    output = _softmax(by_head, value.dtype).view(scores.shape) @ value
    return output.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _hide(scores: Tensor, seen: Tensor) -> None:
    """Set masked scores (where ``seen`` is False) to the lowest finite number of their dtype, in place.

    No score becomes -inf, so a query that attends to nothing (padding) gets equal weights instead of NaN. NaN would spread to other rows
    as 0 x NaN.
    """
    scores.masked_fill_(~seen, torch.finfo(scores.dtype).min)


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over keys, computed in float32 and given in ``dtype``."""
    return torch.softmax(scores, -1, dtype=torch.float32).to(dtype)


def _causal(length: int, device: torch.device) -> Tensor:
    """Causal mask (length, length) bool, True where a query attends to a key."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_()


def _attend_shared(query: Tensor, key: Tensor, value: Tensor, pattern: SharedPromptPattern) -> Tensor:
    """Attend where several completions share a prompt: prompt to prompt, completion to prompt, completion to itself."""
    batch, heads, _, size = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads  # query heads that share one head of keys
    prompt, (count, length) = pattern.prompt_length, pattern.shape

    def completions(states: Tensor) -> Tensor:
        """(batch, count, length, heads, size)."""
        flat = states.transpose(1, 2).reshape(-1, states.shape[1] * size)
        return flat.index_select(0, pattern.gather_index).view(batch, count, length, -1, size)

    prompt_keys, prompt_values = key[:, :, :prompt], value[:, :, :prompt]
    queries = query[:, :, :prompt].reshape(batch, key_heads, -1, size)
    scores = queries @ prompt_keys.transpose(2, 3)
    _hide(scores.view(batch, heads, prompt, prompt), _causal(prompt, scores.device))
    of_prompts = (_softmax(scores, value.dtype) @ prompt_values).view(batch, heads, prompt, size).transpose(1, 2)

    queries = completions(query).view(batch, count, length, key_heads, group, size).permute(0, 3, 1, 4, 2, 5)
    queries = queries.reshape(batch, key_heads, count, group * length, size)
    own_keys, own_values = (completions(states).permute(0, 3, 1, 2, 4) for states in (key, value))
    to_prompt = queries.reshape(batch, key_heads, -1, size) @ prompt_keys.transpose(2, 3)
    to_prompt = to_prompt.view(batch, key_heads, count, group * length, prompt)
    if pattern.prompt_mask is not None:
        _hide(to_prompt, pattern.prompt_mask[:, None, None, None])
    to_itself = queries @ own_keys.transpose(3, 4)
    _hide(to_itself.view(batch, key_heads, count, group, length, length), _causal(length, to_itself.device))
    weights = _softmax(torch.cat([to_prompt, to_itself], -1), value.dtype)
    prompt_weights, own_weights = weights[..., :prompt], weights[..., prompt:]
    output = (prompt_weights.reshape(batch, key_heads, -1, prompt) @ prompt_values).view(queries.shape) + own_weights @ own_values
    output = output.view(batch, key_heads, count, group, length, size).permute(0, 2, 4, 1, 3, 5)
    flat = torch.cat([of_prompts.reshape(-1, heads * size), output.reshape(-1, heads * size)])
    return flat.index_select(0, pattern.scatter_index).view(batch, -1, heads, size)
