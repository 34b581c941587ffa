"""Decode a token at a time on a CPU, for Llama, Mistral, Qwen2 and Qwen3: a layer is four matrix products and four calls of ``kernels``.

The model's own forward pass computes the prompts, once each. After that, a new token of each row is computed from the model's weights by
code that knows what a layer of these models does: RMSNorm, rotary embedding, attention of grouped queries, SwiGLU. The keys and values of a
prompt are stored once for all of its rows. Those of the rows are written into memory that is allocated once and stays where it is when
rows leave the batch.

``refusal`` says which models are known. Even so, a batch is decoded here only if the last tokens of its own prompts, decoded in this way,
give the model's own logits (``LayerDecoder.difference``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from dynamics.rope import length_rule
from dynamics.train.batch import pad_left
from dynamics.train.samplers import kernels

#: families of models whose layers are known, in modules of transformers
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
#: largest accepted difference between logits of a batch and the model's own, relative to their spread, by the dtype of matrix products
SAME_LOGITS = {torch.float32: 1e-4, torch.bfloat16: 0.2}
#: prompts of a batch that are compared, and last tokens of each that are decoded for it
COMPARED, LAST = 8, 3
#: new tokens for which there is memory at first; it grows with the longest row
FIRST = 16


def refusal(model: Any, autocast: torch.dtype | None = None, length: int = 0) -> str | None:
    """Say why a model is not decoded here, in words for the end of a sentence; None if it is.

    Parameters
    ----------
    model : a causal language model of transformers.
    autocast : dtype of autocast; None if it is not used.
    length : length of the longest row, prompt and completion.
    """
    family = next((family for family in FAMILIES if type(model).__name__ == f"{family}ForCausalLM"), None)
    if family is None or type(model).__module__ != f"transformers.models.{family.lower()}.modeling_{family.lower()}":
        return f"{type(model).__name__} is none of {', '.join(FAMILIES)}"
    parts = {f"{family}{part}" for part in ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")}
    parts |= {"ModuleList", "Embedding", "Linear", "SiLU", "SiLUActivation"}
    for name, module in model.named_modules():
        if type(module).__name__ not in parts:
            return f"{name} is of an unknown kind, {type(module).__name__}"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) or module.training:
            return f"{name or 'the model'} has hooks, a forward pass of its own, or is in training mode"
    tensors = list(model.parameters())
    if any(value.device.type != "cpu" for value in tensors):
        return "the model is not on the CPU"
    if len({value.dtype for value in tensors}) > 1 or tensors[0].dtype not in SAME_LOGITS or autocast not in (None, torch.bfloat16):
        return "the weights are neither float32 nor bfloat16"
    return _unknown_setting(model, length)


def _unknown_setting(model: Any, length: int) -> str | None:
    """Say which setting of a model of a known family is not known here."""
    config, attention = model.config, model.model.layers[0].self_attn
    if kinds := length_rule(config).kinds:
        return f"its rotary embedding ({', '.join(kinds)}) depends on the length of a text"
    window = getattr(config, "sliding_window", None)
    if window is not None and length > window and "sliding_attention" in getattr(config, "layer_types", ["sliding_attention"]):
        return f"rows of {length} tokens are longer than its sliding window of {window}"
    if model.lm_head.bias is not None:
        return "its output head has a bias"
    if attention.head_dim % 8:
        return f"its attention heads have {attention.head_dim} numbers, no multiple of 8"
    return None


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer, those of products (out, in) in the dtype of products, the others float32; see ``kernels`` for ``norms``."""

    before_attention: np.ndarray
    projections: tuple[Tensor, Tensor | None]
    norms: np.ndarray
    output: tuple[Tensor, Tensor | None]
    before_mlp: np.ndarray
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Weights:
    """Weights of a model, for decoding: copies, where several matrices are joined or the dtype differs.

    Attributes
    ----------
    embedding : (vocabulary, width), of the model.
    layers : of each layer.
    final : (width,) weight of the last RMSNorm.
    head : (vocabulary, width).
    dtype : of matrix products.
    """

    embedding: Tensor
    layers: list[_Layer]
    final: np.ndarray
    head: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any, autocast: torch.dtype | None = None) -> Weights:
        """Copy the present weights of a model that ``refusal`` accepts."""
        dtype = autocast or model.lm_head.weight.dtype

        def joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
            weight = torch.cat([linear.weight for linear in linears]) if len(linears) > 1 else linears[0].weight
            if all(linear.bias is None for linear in linears):
                return weight.to(dtype), None
            biases = [linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias for linear in linears]
            return weight.to(dtype), torch.cat(biases).to(dtype)

        def of_norm(*norms: Any) -> np.ndarray:
            return np.stack([norm.weight.float().numpy() for norm in norms])

        layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            between = of_norm(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else np.empty((2, 0), np.float32)
            layers.append(
                _Layer(
                    of_norm(layer.input_layernorm)[0],
                    joined(attention.q_proj, attention.k_proj, attention.v_proj),
                    between,
                    joined(attention.o_proj),
                    of_norm(layer.post_attention_layernorm)[0],
                    joined(mlp.gate_proj, mlp.up_proj),
                    joined(mlp.down_proj),
                )
            )
        final = of_norm(model.model.norm)[0]
        return cls(model.model.embed_tokens.weight, layers, final, model.lm_head.weight.to(dtype), dtype)


class _Pair:
    """A tensor, and the same memory as a numpy array, where bfloat16 is uint16."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.array: np.ndarray = tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


class LayerDecoder:
    """Token-by-token decoding of the active rows, with the interface of ``ModelDecoder``.

    Attributes
    ----------
    logits : (rows, vocabulary) float32, of the next token.
    """

    def __init__(self, model: Any, weights: Weights, prompts: Sequence[Int[np.ndarray, " _"]], group: int, limit: int):
        """Compute the prompts, of which each has ``group`` rows with at most ``limit`` new tokens."""
        config, attention = model.config, model.model.layers[0].self_attn
        self.weights, self.epsilon = weights, np.float32(config.rms_norm_eps)
        self.heads, self.key_heads, self.size = config.num_attention_heads, config.num_key_value_heads, attention.head_dim
        self.scaling = np.float32(attention.scaling)
        self.prompts, self.group = prompts, group
        self.lengths = np.array([len(prompt) for prompt in prompts])
        self._prefill(model)
        positions = torch.arange(int(self.lengths.max()) + limit + 1)[None]
        cosine, sine = model.model.rotary_emb(weights.embedding[:1, None], position_ids=positions)
        self.cosine, self.sine = cosine[0].float().numpy(), sine[0].float().numpy()
        rows = len(prompts) * group
        self.limit = max(limit, LAST)
        self.own_keys, self.own_values = self._memory(rows, min(self.limit, FIRST))
        self.threads = min(torch.get_num_threads(), rows)
        self.pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self.slots, self.prompt_of = np.arange(rows), np.arange(rows) // group
        self._make_buffers()

    def _prefill(self, model: Any) -> None:
        """Compute keys, values and logits of the prompts by the model itself."""
        from transformers import DynamicCache

        ids, mask, positions = (torch.from_numpy(array) for array in pad_left(self.prompts))
        cache = DynamicCache()
        padded = bool((mask == 0).any())
        output = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.prompt_logits: Float32[Tensor, "prompts vocabulary"] = output.logits[:, -1].float()
        self.logits = self.prompt_logits.repeat_interleave(self.group, 0)
        self.prompt_keys, self.prompt_values = [], []
        for layer in cache.layers:
            keys, values = (states.to(self.weights.dtype) for states in (layer.keys, layer.values))
            for row, length in enumerate(self.lengths.tolist()):  # tokens to the left, padding to the right
                keys[row], values[row] = keys[row].roll(length, 1), values[row].roll(length, 1)
            self.prompt_keys.append(_Pair(keys.transpose(2, 3).contiguous()).array)
            self.prompt_values.append(_Pair(values.contiguous()).array)

    def _memory(self, rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Allocate keys and values of at least ``tokens`` new tokens of each row."""
        blocks = (tokens + 15) // 16 | 1  # an odd number: cache lines of different rows of keys do not collide
        shape = (len(self.weights.layers), rows, self.key_heads, self.size, 16 * blocks)
        keys = _Pair(torch.empty(shape, dtype=self.weights.dtype)).array
        return keys, _Pair(torch.empty((*shape[:3], shape[4], shape[3]), dtype=self.weights.dtype)).array

    def _reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` new tokens of each active row: most rows end early, and memory that is read often should be small."""
        before = self.own_keys.shape[-1]
        if tokens <= before:
            return
        keys, values = self._memory(len(self.slots), min(self.limit, 2 * before))
        for layer in range(len(keys)):
            keys[layer, ..., :before] = self.own_keys[layer, self.slots]
            values[layer, ..., :before, :] = self.own_values[layer, self.slots]
        self.own_keys, self.own_values, self.slots = keys, values, np.arange(len(self.slots))

    def _make_buffers(self) -> None:
        """Make the memory in which a step of the active rows is computed."""
        count = len(self.slots)
        first, dtype = self.weights.layers[0], self.weights.dtype
        width = self.weights.embedding.shape[1]
        sizes = {"states": width, "projected": len(first.projections[0]), "attended": self.heads * self.size, "more": width}
        sizes |= {"both": len(first.gate_up[0]), "inner": len(first.gate_up[0]) // 2}
        self.memory = {name: _Pair(torch.empty(count, size, dtype=dtype)) for name, size in sizes.items()}
        self.residual = _Pair(torch.empty(count, width))
        bounds = np.linspace(0, count, min(self.threads, count) + 1).astype(int).tolist()
        self.parts = list(itertools.pairwise(bounds))

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep some rows; the logits are those of the last step."""
        self.slots, self.prompt_of = self.slots[rows.numpy()], self.prompt_of[rows.numpy()]
        self._make_buffers()

    def append(self, tokens: Int[Tensor, " rows"], count: int) -> None:
        """Append a token to each row, which then has ``count`` new tokens, and compute the next logits."""
        self._reserve(count)
        self.logits = self._step(tokens, count - 1, self.lengths)

    def difference(self) -> float:
        """Compare with the model's own logits; call it before the first ``append``.

        The last tokens of some prompts are decoded after the others.

        Returns
        -------
        The largest norm, over the prompts, of the difference of logits, relative to the norm of the model's logits around their mean.
        """
        chosen = np.unique(np.linspace(0, len(self.prompts) - 1, COMPARED).astype(int))
        last = min(LAST, *(len(self.prompts[index]) for index in chosen))
        rows = self.slots, self.prompt_of
        self.slots, self.prompt_of = chosen * self.group, chosen
        self._make_buffers()
        for count in range(last):
            tokens = torch.tensor([int(self.prompts[index][len(self.prompts[index]) - last + count]) for index in chosen])
            logits = self._step(tokens, count, self.lengths - last)
        self.slots, self.prompt_of = rows
        self._make_buffers()
        own = self.prompt_logits[chosen]
        spread = (own - own.mean(1, keepdim=True)).norm(dim=1)
        return float(((logits - own).norm(dim=1) / spread.clamp(min=1e-6)).max())

    def _step(self, tokens: Int[Tensor, " rows"], count: int, lengths: Int[np.ndarray, " prompts"]) -> Float32[Tensor, "rows vocabulary"]:
        """Compute the logits after a token of each row that has ``count`` own tokens after ``lengths`` tokens of its prompt."""
        residual, memory = self.residual, self.memory
        states, more = memory["states"], memory["more"]
        residual.tensor.copy_(self.weights.embedding[tokens])
        nothing = more.array[:0]
        with torch.autocast("cpu", enabled=False):
            for number, layer in enumerate(self.weights.layers):
                kernels.add_and_normalise(
                    residual.array, more.array if number else nothing, layer.before_attention, self.epsilon, states.array
                )
                _product(states, layer.projections, memory["projected"])
                self._attend(number, layer, count, lengths)
                _product(memory["attended"], layer.output, more)
                kernels.add_and_normalise(residual.array, more.array, layer.before_mlp, self.epsilon, states.array)
                _product(states, layer.gate_up, memory["both"])
                kernels.gated(memory["both"].array, memory["inner"].array)
                _product(memory["inner"], layer.down, more)
            kernels.add_and_normalise(residual.array, more.array, self.weights.final, self.epsilon, states.array)
            return torch.mm(states.tensor, self.weights.head.T).float()

    def _attend(self, number: int, layer: _Layer, count: int, lengths: Int[np.ndarray, " prompts"]) -> None:
        """Compute the attention of a layer, on all threads."""

        def part(bounds: tuple[int, int]) -> None:
            kernels.attend(
                *bounds,
                self.memory["projected"].array,
                layer.norms,
                self.epsilon,
                self.cosine,
                self.sine,
                self.scaling,
                self.prompt_of,
                lengths,
                self.prompt_keys[number],
                self.prompt_values[number],
                self.slots,
                count,
                self.own_keys[number],
                self.own_values[number],
                self.memory["attended"].array,
            )

        each: Callable[..., Any] = map if self.pool is None else self.pool.map
        list(each(part, self.parts))


def _product(states: _Pair, linear: tuple[Tensor, Tensor | None], out: _Pair) -> None:
    """Multiply (rows, in) states by a matrix (out, in), add its bias if it has one, and put the result into (rows, out)."""
    weight, bias = linear
    if bias is None:
        torch.mm(states.tensor, weight.T, out=out.tensor)
    else:
        torch.addmm(bias, states.tensor, weight.T, out=out.tensor)
