"""Synthetic models, written in many ways: prefixes, fused and stacked modules, tied heads, buffers. Every weight has its own value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dynamics.checkpoints import Tensor, from_array

#: the bits of 1 in float8_e4m3fn
ONE = 0x38


@dataclass(frozen=True)
class Architecture:
    """What two states of a model have in common."""

    layers: int
    width: int
    inner: int
    heads_width: int
    experts: int
    vision: int  # width of the vision tower; 0 without one
    twin: bool  # a second stack of layers of the same shapes, such as a draft model or a decoder
    tied: bool
    bias: bool


@dataclass(frozen=True)
class Style:
    """How one state of a model is written."""

    text: str
    stack: str
    vision: str
    twin: str
    block: str
    wrapper: str
    fuse_qkv: str  # "", "rows" or "heads"
    fuse_gate_up: bool
    stack_experts: str  # "", "out in" or "in out"
    first_layer: int
    store_tied_head: bool
    rows: int  # vocabulary rows, of which the first are common
    buffers: bool
    value_head: bool
    quantised: str  # "", "FP8", or "FP8, a scale lost": linear layers as codes with a scale for each


def logical_weights(architecture: Architecture, vocabulary: int = 12) -> dict[str, np.ndarray]:
    """Return the weights of a model by logical names; every element of all of them is different."""
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, architecture.width), "norm": (architecture.width,)}
    if not architecture.tied:
        shapes["head"] = (vocabulary, architecture.width)
    for stack in ("text", *(["twin"] if architecture.twin else [])):
        for layer in range(architecture.layers):
            shapes |= _layer(f"{stack}.{layer}", architecture)
    if architecture.vision:
        for layer in range(2):
            shapes |= {
                f"vision.{layer}.{name}": shape
                for name, shape in {
                    "attn.qkv.weight": (3 * architecture.vision, architecture.vision),
                    "attn.proj.weight": (architecture.vision, architecture.vision),
                    "mlp.up_proj.weight": (architecture.inner, architecture.vision),
                    "mlp.down_proj.weight": (architecture.vision, architecture.inner),
                    "norm1.weight": (architecture.vision,),
                }.items()
            }
        shapes["vision_norm"] = (architecture.vision,)
    sizes = [math.prod(shape) for shape in shapes.values()]
    ends = np.cumsum(sizes)
    return {
        name: np.arange(end - size + 1, end + 1, dtype=np.float32).reshape(shape)
        for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
    }


def _layer(stem: str, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    width, inner, key = architecture.width, architecture.inner, architecture.heads_width
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (key, width),
        "self_attn.v_proj.weight": (key, width),
        "self_attn.o_proj.weight": (width, width),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    if architecture.bias:
        shapes |= {"self_attn.q_proj.bias": (width,), "self_attn.k_proj.bias": (key,), "self_attn.v_proj.bias": (key,)}
    if architecture.experts:
        shapes["mlp.gate.weight"] = (architecture.experts, width)
        stacks = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
        shapes |= {f"mlp.experts.{role}": (architecture.experts, *shape) for role, shape in stacks.items()}
    else:
        shapes |= {"mlp.gate_proj.weight": (inner, width), "mlp.up_proj.weight": (inner, width), "mlp.down_proj.weight": (width, inner)}
    return {f"{stem}.{name}": shape for name, shape in shapes.items()}


def write(architecture: Architecture, style: Style) -> dict[str, np.ndarray]:
    """Write the weights of a model in a style."""
    weights = logical_weights(architecture)
    tensors: dict[str, np.ndarray] = {}

    def put(prefix: str, name: str, value: np.ndarray) -> None:
        tensors[f"{style.wrapper}{prefix}{'.' if prefix else ''}{name}"] = value

    rows = style.rows
    put(style.text, "embed_tokens.weight", weights["embed"][:rows])
    put(style.text, "norm.weight", weights["norm"])
    if not architecture.tied:
        put("", "lm_head.weight", weights["head"][:rows])
    elif style.store_tied_head:
        put("", "lm_head.weight", weights["embed"][:rows].copy())
    for stack, prefix in (("text", style.text), ("twin", style.twin)):
        for layer in range(architecture.layers):
            inside = {
                name.removeprefix(f"{stack}.{layer}."): value for name, value in weights.items() if name.startswith(f"{stack}.{layer}.")
            }
            for name, value in _written(inside, style).items():
                put(prefix, f"{style.stack}.{layer + style.first_layer}.{name}", value)
    for name, value in weights.items():
        if name.startswith("vision."):
            put(style.vision, f"blocks.{name.removeprefix('vision.')}", value)
    if "vision_norm" in weights:
        put(style.vision, "norm.weight", weights["vision_norm"])
    if style.buffers:
        put(style.text, f"{style.stack}.0.self_attn.rotary_emb.inv_freq", np.full(4, np.inf, np.float32))
        put(style.text, f"{style.stack}.0.mlp.gate.e_score_correction_bias", np.full(4, np.inf, np.float32))
    if style.value_head:
        put("", "v_head.summary.weight", -np.arange(1, architecture.width + 1, dtype=np.float32)[None])
    return tensors


def stored(weights: dict[str, np.ndarray], style: Style) -> dict[str, np.ndarray | Tensor]:
    """Return weights as the style stores them: as they are, or linear layers as 8-bit floats of 1 with the values in the scales."""
    tensors: dict[str, np.ndarray | Tensor] = dict(weights)
    linear = [name for name, value in weights.items() if name.endswith("_proj.weight") and value.ndim == 2] if style.quantised else []
    for name in linear:
        tensors[name] = from_array(name, np.full(weights[name].shape, ONE, np.uint8), "float8_e4m3fn")
        tensors[f"{name}_scale_inv"] = weights[name]
    if style.quantised.endswith("lost") and len(linear) > 1:
        del tensors[f"{linear[0]}_scale_inv"]
    return tensors


def _written(inside: dict[str, np.ndarray], style: Style) -> dict[str, np.ndarray]:
    """Write one layer: fuse its projections and stack its experts, or not."""
    out = dict(inside)
    for kind in ("weight", "bias"):
        parts = [out.pop(f"self_attn.{part}_proj.{kind}", None) for part in "qkv"]
        if parts[0] is None:
            continue
        if style.fuse_qkv == "rows":
            out[f"self_attn.qkv_proj.{kind}"] = np.concatenate(parts)
        elif style.fuse_qkv == "heads":
            out[f"self_attn.query_key_value.{kind}"] = np.concatenate(parts[::-1])
        else:
            out |= {f"self_attn.{part}_proj.{kind}": value for part, value in zip("qkv", parts, strict=True)}
    if "mlp.gate_proj.weight" in out and style.fuse_gate_up:
        out["mlp.gate_up_proj.weight"] = np.concatenate([out.pop("mlp.gate_proj.weight"), out.pop("mlp.up_proj.weight")])
    if "mlp.experts.gate_proj" in out:
        gate, up, down = (out.pop(f"mlp.experts.{role}") for role in ("gate_proj", "up_proj", "down_proj"))
        if style.stack_experts:
            turned: Callable[[np.ndarray], np.ndarray] = (
                (lambda stack: stack) if style.stack_experts == "out in" else (lambda stack: stack.swapaxes(1, 2).copy())
            )
            out["mlp.experts.gate_up_proj"] = turned(np.concatenate([gate, up], axis=1))
            out["mlp.experts.down_proj"] = turned(down)
        else:
            names = {"gate": "w1", "up": "w3", "down": "w2"} if style.block == "block_sparse_moe" else {}
            for role, stack in {"gate": gate, "up": up, "down": down}.items():
                out |= {f"mlp.experts.{i}.{names.get(role, f'{role}_proj')}.weight": expert for i, expert in enumerate(stack)}
        out = {name.replace("mlp.", f"{style.block}.", 1): value for name, value in out.items()}
    return out
