"""Attention for rows in which several completions follow one prompt, and for keys that several query heads share.

A row of a prompt and its completions has no weight to compute between two completions, and none between a completion and what comes after
it. ``attend`` computes only what is left - prompt with prompt, completion with prompt, completion with itself - and never repeats keys for
the query heads that share them. It is registered with transformers under ``NAME``; that it gives the model's own log-probabilities is for
the caller to check (``Policy`` does), as models differ in what they expect of their attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.train.batch import Layout

NAME = "shared_prompts"
#: what some models ask of their attention and this one does not do
_UNKNOWN = ("softcap", "s_aux", "sliding_window")


@dataclass(frozen=True)
class Pattern:
    """Where the parts of the rows of a layout are; rows (B, T), at most S completions of at most L tokens after prompts of at most P.

    Attributes
    ----------
    prompt : P.
    beyond : (B, P) additive, the lowest number where a row's prompt has ended; None if all prompts are P long.
    take : (B * S * L,) place of each completion token among the B * T; 0 where there is none.
    back : (B * T,) place of each token among those of the prompts (B * P) and then of the completions (B * S * L).
    shape : (S, L).
    """

    prompt: int
    beyond: torch.Tensor | None
    take: torch.Tensor
    back: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, layout: Layout, device: torch.device, dtype: torch.dtype) -> Pattern:
        segments = layout.segments
        assert segments is not None
        rows, width = segments.shape
        prompts = (segments == 0).sum(1)
        longest, most = int(prompts.max()), int(segments.max())
        lengths = np.stack([(segments == number).sum(1) for number in range(1, most + 1)], 1)
        size = int(lengths.max())
        take = np.zeros((rows, most, size), np.int64)
        back = np.zeros((rows, width), np.int64)
        for row in range(rows):
            end = int(prompts[row])
            back[row, :end] = row * longest + np.arange(end)
            for number, length in enumerate(lengths[row].tolist()):
                take[row, number, :length] = row * width + end + np.arange(length)
                back[row, end : end + length] = rows * longest + (row * most + number) * size + np.arange(length)
                end += length
        beyond = None
        if (prompts < longest).any():
            over = torch.from_numpy(np.arange(longest)[None, :] >= prompts[:, None])
            beyond = torch.zeros(over.shape, dtype=dtype).masked_fill(over, torch.finfo(dtype).min).to(device)
        flat, again = torch.from_numpy(take.ravel()).to(device), torch.from_numpy(back.ravel()).to(device)
        return cls(longest, beyond, flat, again, (most, size))


def use(model: Any) -> None:
    """Let the model attend by this."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pattern: Pattern | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """(B, T, heads, size) from query (B, heads, T, size), key and value (B, shared heads, keys, size)."""
    if dropout or any(more.get(name) is not None for name in _UNKNOWN):
        raise ValueError("attention with dropout, soft-capping, sinks or a window is not covered")
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if pattern is not None:
        return _shared(query, key, value, pattern), None
    batch, heads, length, size = query.shape
    kinds = key.shape[1]
    scores = query.reshape(batch, kinds, -1, size) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores.view(batch, kinds, heads // kinds, length, -1).add_(attention_mask[:, :, None])
    found = _softmax(scores) @ value
    return found.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)


def _causal(length: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device).triu_(1)


def _shared(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    batch, heads, _, size = query.shape
    kinds = key.shape[1]
    sharing = heads // kinds
    end, (most, length) = pattern.prompt, pattern.shape

    def completions(states: torch.Tensor) -> torch.Tensor:
        """(B, most, length, heads, size)."""
        flat = states.transpose(1, 2).reshape(-1, states.shape[1] * size)
        return flat.index_select(0, pattern.take).view(batch, most, length, -1, size)

    of_prompt, prompt_values = key[:, :, :end], value[:, :, :end]
    asked = query[:, :, :end].reshape(batch, kinds, -1, size)
    scores = asked @ of_prompt.transpose(2, 3)
    scores.view(batch, heads, end, end).add_(_causal(end, scores))
    prompts = (_softmax(scores) @ prompt_values).view(batch, heads, end, size).transpose(1, 2)

    asked = completions(query).view(batch, most, length, kinds, sharing, size).permute(0, 3, 1, 4, 2, 5)
    asked = asked.reshape(batch, kinds, most, sharing * length, size)
    own, own_values = (completions(states).permute(0, 3, 1, 2, 4) for states in (key, value))
    outer = (asked.reshape(batch, kinds, -1, size) @ of_prompt.transpose(2, 3)).view(batch, kinds, most, sharing * length, end)
    if pattern.beyond is not None:
        outer.add_(pattern.beyond[:, None, None, None])
    inner = asked @ own.transpose(3, 4)
    inner.view(batch, kinds, most, sharing, length, length).add_(_causal(length, inner))
    weights = _softmax(torch.cat([outer, inner], -1))
    far, near = weights[..., :end], weights[..., end:]
    made = (far.reshape(batch, kinds, -1, end) @ prompt_values).view(asked.shape) + near @ own_values
    made = made.view(batch, kinds, most, sharing, length, size).permute(0, 2, 4, 1, 3, 5)
    both = torch.cat([prompts.reshape(-1, heads * size), made.reshape(-1, heads * size)])
    return both.index_select(0, pattern.back).view(batch, -1, heads, size)
