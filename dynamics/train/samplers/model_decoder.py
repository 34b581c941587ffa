"""Decode a token at a time by the model's own forward pass, for any causal language model of transformers with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from dynamics.errors import InputError
from dynamics.train.batch import pad_left


class _KeyValueCache:
    """Key-value cache of the active rows: a transformers cache whose layers write into memory that is allocated once."""

    def __init__(self, model: Any, capacity: int):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        class Layer(DynamicLayer):  # type: ignore[misc]
            """``keys`` and ``values`` are the filled part of (rows, heads, capacity, size)."""

            def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
                if not self.is_initialized:
                    self.lazy_initialization(key_states, value_states)
                    shapes = [(*states.shape[:2], capacity, states.shape[-1]) for states in (key_states, value_states)]
                    self.memory = [key_states.new_empty(shapes[0]), value_states.new_empty(shapes[1])]
                    self.filled = 0
                end = self.filled + key_states.shape[-2]
                for memory, new in zip(self.memory, (key_states, value_states), strict=True):
                    memory[:, :, self.filled : end] = new
                self.filled = end
                self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
                return self.keys, self.values

            def select(self, rows: Tensor) -> None:
                """Keep, repeat or drop rows."""
                selected = []
                for memory in self.memory:
                    fresh = memory.new_empty((len(rows), *memory.shape[1:]))
                    fresh[:, :, : self.filled] = memory[:, :, : self.filled].index_select(0, rows)
                    selected.append(fresh)
                self.memory = selected
                self.keys, self.values = (memory[:, :, : self.filled] for memory in self.memory)

        self.cache = DynamicCache(config=model.config)
        states = [layer for layer in self.cache.layers if any("LinearAttention" in kind.__name__ for kind in type(layer).__mro__)]
        if states:
            raise InputError(
                f"{type(model).__name__}: keeps recurrent states, which cannot be copied to the samples of a prompt; "
                "choose a model whose layers are all attention"
            )
        self.in_place = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if self.in_place:
            self.cache.layers = [Layer() for _ in self.cache.layers]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or drop rows."""
        if self.in_place:
            for layer in self.cache.layers:
                layer.select(rows)
        else:
            self.cache.batch_select_indices(rows)


@dataclass
class ModelDecoder:
    """Token-by-token decoding of the active rows.

    Attributes
    ----------
    logits : (rows, vocabulary) float32, of the next token.
    mask : (rows, width + tokens) attention mask, 1 for tokens, also future ones; None if no prompt is padded.
    position : (rows,) position of the last token.
    width : length of the padded prompts.
    """

    model: Any
    cache: _KeyValueCache
    logits: Float32[Tensor, "rows vocabulary"]
    mask: Int[Tensor, "rows columns"] | None
    position: Int[Tensor, " rows"]
    width: int

    @classmethod
    def prefill(cls, model: Any, prompts: Sequence[Int[np.ndarray, " _"]], group: int, limit: int) -> ModelDecoder:
        """Compute the prompts, and repeat each for ``group`` rows."""
        device = next(model.parameters()).device
        ids, mask, positions = (torch.from_numpy(array).to(device) for array in pad_left(prompts))
        width = ids.shape[1]
        cache = _KeyValueCache(model, width + limit)
        padded = bool((mask == 0).any())
        output = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.arange(len(prompts), device=device).repeat_interleave(group)
        cache.select(rows)
        extended = torch.cat([mask, mask.new_ones(len(prompts), limit)], 1)[rows] if padded else None
        return cls(model, cache, output.logits[:, -1].float()[rows], extended, positions[rows, -1], width)

    def select(self, rows: Tensor) -> None:
        """Keep some rows; the logits are those of the last step."""
        self.cache.select(rows)
        self.position = self.position[rows]
        self.mask = None if self.mask is None else self.mask[rows]

    def append(self, tokens: Int[Tensor, " rows"], count: int) -> None:
        """Append a token to each row, which then has ``count`` new tokens, and compute the next logits."""
        self.position = self.position + 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[:, : self.width + count],
            position_ids=self.position[:, None],
            past_key_values=self.cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float()
