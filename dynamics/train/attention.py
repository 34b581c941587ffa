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
    inside : (B, P) bool, True on the tokens of a row's prompt and False on the padding after it; None if all prompts are P long.
    take : (B * S * L,) place of each completion token among the B * T; 0 where there is none.
    back : (B * T,) place of each token among those of the prompts (B * P) and then of the completions (B * S * L).
    shape : (S, L).
    """

    prompt: int
    inside: torch.Tensor | None
    take: torch.Tensor
    back: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> Pattern:
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
        inside = None
        if (prompts < longest).any():
            inside = torch.from_numpy(np.arange(longest)[None, :] < prompts[:, None]).to(device)
        flat, again = torch.from_numpy(take.ravel()).to(device), torch.from_numpy(back.ravel()).to(device)
        return cls(longest, inside, flat, again, (most, size))


def use(model: Any) -> None:
    """Let the model attend by this."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(*args: Any, **more: Any) -> torch.Tensor:
    """transformers' boolean mask (batch, 1, queries, keys), True where a query sees a key."""
    from transformers.masking_utils import sdpa_mask

    mask: torch.Tensor = sdpa_mask(*args, **more | {"allow_is_causal_skip": False})
    return mask


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
    """(B, T, heads, size) from query (B, heads, T, size), key and value (B, shared heads, keys, size).

    ``attention_mask`` broadcasts to (B, 1, T, keys): True where a query sees a key, or numbers to add to the scores.
    """
    if dropout or any(more.get(name) is not None for name in _UNKNOWN):
        raise ValueError("attention with dropout, soft-capping, sinks or a window is not covered")
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if pattern is not None:
        return _shared(query, key, value, pattern), None
    batch, heads, length, size = query.shape
    kinds = key.shape[1]
    scores = query.reshape(batch, kinds, -1, size) @ key.transpose(2, 3)
    by_head = scores.view(batch, kinds, heads // kinds, length, -1)
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        by_head = by_head.float() + attention_mask[:, :, None].float()  # its lowest number would be -inf in a narrower dtype
    elif attention_mask is not None:
        _hide(by_head, attention_mask[:, :, None])
    found = _softmax(by_head, value.dtype).view(scores.shape) @ value
    return found.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _hide(scores: torch.Tensor, seen: torch.Tensor) -> None:
    """Set scores that are not ``seen`` to the lowest number of their own dtype, in place.

    Nothing is added to a score and no other dtype's lowest number comes near it, so no score becomes -inf: a query that sees nothing, which
    is padding, gets equal weights and not NaN, which its values would carry to the rows that matter as 0 x NaN.
    """
    scores.masked_fill_(~seen, torch.finfo(scores.dtype).min)


def _softmax(scores: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Softmax over keys, computed in float32 and given in ``dtype``."""
    return torch.softmax(scores, -1, dtype=torch.float32).to(dtype)


def _causal(length: int, device: torch.device) -> torch.Tensor:
    """(length, length) bool, True where a query sees a key: itself and what is before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_()


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
    _hide(scores.view(batch, heads, end, end), _causal(end, scores.device))
    prompts = (_softmax(scores, value.dtype) @ prompt_values).view(batch, heads, end, size).transpose(1, 2)

    asked = completions(query).view(batch, most, length, kinds, sharing, size).permute(0, 3, 1, 4, 2, 5)
    asked = asked.reshape(batch, kinds, most, sharing * length, size)
    own, own_values = (completions(states).permute(0, 3, 1, 2, 4) for states in (key, value))
    outer = (asked.reshape(batch, kinds, -1, size) @ of_prompt.transpose(2, 3)).view(batch, kinds, most, sharing * length, end)
    if pattern.inside is not None:
        _hide(outer, pattern.inside[:, None, None, None])
    inner = asked @ own.transpose(3, 4)
    _hide(inner.view(batch, kinds, most, sharing, length, length), _causal(length, inner.device))
    weights = _softmax(torch.cat([outer, inner], -1), value.dtype)
    far, near = weights[..., :end], weights[..., end:]
    made = (far.reshape(batch, kinds, -1, end) @ prompt_values).view(asked.shape) + near @ own_values
    made = made.view(batch, kinds, most, sharing, length, size).permute(0, 2, 4, 1, 3, 5)
    both = torch.cat([prompts.reshape(-1, heads * size), made.reshape(-1, heads * size)])
    return both.index_select(0, pattern.back).view(batch, -1, heads, size)
