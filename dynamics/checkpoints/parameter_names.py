"""Parse tensor names: wrappers, layer, and kind of module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

#: segments that wrappers insert at any position of a name: torch.compile, FSDP1, activation checkpointing, PEFT
WRAPPERS = frozenset(["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"])
#: prefixes that trainers add to every name
PREFIXES = ("module.", "base_model.model.", "actor.", "_forward_module.", "state_dict.", "app.")

#: prefixes by which names of a model and of its inner model differ: AutoModel in AutoModelForCausalLM, a language model in a
#: multimodal model
STEMS = (
    "model.",
    "transformer.",
    "language_model.",
    "model.language_model.",
    "language_model.model.",
    "gpt_neox.",
    "model.model.",
)

LAYER = re.compile(r"(?:^|.*?\.)(?:layers|layer|h|blocks|block|blk)\.(\d+)(?=\.)")

#: module kind -> module names of that kind, most specific kinds first; compared with whole segments of a name
KINDS: dict[str, tuple[str, ...]] = {
    "router": ("router", "gate_inp"),
    "qkv": ("qkv_proj", "c_attn", "query_key_value", "Wqkv", "qkv", "wqkv", "linear_qkv", "attn_qkv"),
    "q": ("q_proj", "wq", "query", "q_lin", "to_q", "q_a_proj", "q_b_proj", "attn_q"),
    "kv": ("kv_a_proj_with_mqa", "kv_b_proj", "kv_proj"),
    "k": ("k_proj", "wk", "key", "k_lin", "to_k", "attn_k"),
    "v": ("v_proj", "wv", "value", "v_lin", "to_v", "attn_v"),
    "o": ("o_proj", "wo", "out_proj", "out_lin", "linear_proj", "attn_output"),
    "gate_up": ("gate_up_proj", "linear_fc1", "w12"),
    "gate": ("gate_proj", "w1", "ffn_gate", "ffn_gate_exps"),
    "up": ("up_proj", "w3", "c_fc", "fc1", "fc_in", "dense_h_to_4h", "wi", "wi_0", "wi_1", "ffn_up", "ffn_up_exps"),
    "down": ("down_proj", "w2", "fc2", "fc_out", "dense_4h_to_h", "linear_fc2", "ffn_down", "ffn_down_exps"),
    "embedding": (
        "embed_tokens",
        "wte",
        "wpe",
        "tok_embeddings",
        "embed_in",
        "word_embeddings",
        "position_embeddings",
        "embed_positions",
        "embeddings",
        "token_embd",
        "shared",
    ),
    "head": ("lm_head", "embed_out", "score", "v_head", "value_head", "output"),
}
KIND_OF = {segment: kind for kind, segments in KINDS.items() for segment in segments}

#: buffers, which no optimizer updates: constants of positions, masks and decays, and statistics of a batch
BUFFER = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|cos_cached|sin_cached|position_ids|masked_bias|rope_freqs|num_batches_tracked|running_mean"
    r"|running_var|relative_position_index|pos_idx_to_embed|tid2eid|global_mean|global_invstd|summary_idxs|slope_rate"
    r"|(query|key|diagonal)_decay|layer_scalar|act_fn\.(beta|eps)|rotary_emb\.alpha)(\.weight)?$"
)
#: biases of a router that a load balancer updates, a fixed step at a time: a buffer in most models, a parameter without gradient in others
BALANCER = re.compile(r"(^|\.)(e_score_correction_bias|expert_bias|balancing_biases)$")


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Map the stored names of a checkpoint to names without wrappers, or to themselves if two names would become equal."""
    stripped = {name: _strip(name) for name in names}
    if len(set(stripped.values())) < len(stripped):
        return {name: name for name in stripped}
    return stripped


def _strip(name: str) -> str:
    name = ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)
    while True:
        for prefix in PREFIXES:
            if name.startswith(prefix) and len(name) > len(prefix):
                name = name[len(prefix) :]
                break
        else:
            return name


def layer(name: str) -> str | None:
    """Return the prefix of a tensor's name up to its layer (``model.layers.3``), or None if it belongs to no layer."""
    matched = LAYER.match(name)
    return matched.group(0) if matched else None


def layer_order(name: str) -> tuple[str, int]:
    """Return a sort key that puts layer 10 after layer 9."""
    stack, _, number = name.rpartition(".")
    return (stack, int(number)) if number.isdecimal() else (name, -1)


@lru_cache(maxsize=65536)
def kind(name: str) -> str:
    """Classify the module of a tensor: q, k, v, o, gate, up, down, norm, embedding, head, router, ... or ``other``.

    A bias has the kind of its module. Mixture-of-experts weights have the dense kind of the same role.
    """
    segments = [segment for segment in name.split(".") if not segment.isdigit()]
    if segments and segments[-1] in ("weight", "bias"):
        segments.pop()
    for segment in reversed(segments):
        if "norm" in segment.lower() or segment.startswith("ln_") or segment in ("ln", "ln_f"):
            return "norm"
    last = segments[-1] if segments else name
    parents = segments[:-1]
    if last == "gate" and "experts" not in parents:  # Mixtral, Qwen-MoE: `mlp.gate` is the router
        return "router"
    if last in ("c_proj", "dense"):
        if any("att" in parent for parent in parents):
            return "o"
        return "up" if "intermediate" in parents else "down"
    if last == "output" and layer(name):
        return "other"
    for segment in reversed(segments):
        if segment in KIND_OF:
            return KIND_OF[segment]
    return "other"


#: names of what an adapter of PEFT adds to a module
ADAPTED = re.compile(r"\.(lora_\w+|modules_to_save|token_adapter|(?:hada|lokr|ia3|oft|boft|vera)_\w+)(\.|$)")
#: names of the embedding of tokens, which a tied output head shares
TOKEN_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "embed_in.weight", "word_embeddings.weight")
#: layers of GPT-2 and its relatives that some models store as (inputs, outputs)
CONV1D = ("c_attn", "q_attn", "c_proj", "c_fc")


def token_embedding(names: Iterable[str]) -> str | None:
    """Find the embedding of tokens among the stored names of a checkpoint; None if there is none."""
    return next((name for name in names if name.endswith(TOKEN_EMBEDDINGS)), None)


def widening_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return the layers of GPT-2 that are wider on one side, whose shapes show how weights are stored.

    >>> widening_layers({"h.0.attn.c_attn.weight": (8, 24), "h.0.attn.c_proj.weight": (8, 8)})
    {'h.0.attn.c_attn.weight': (8, 24)}
    """
    names = ("attn.c_attn.weight", "mlp.c_fc.weight")
    return {name: (shape[0], shape[1]) for name, shape in shapes.items() if name.endswith(names) and len(shape) == 2}


def is_transposed(name: str, widening: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Tell whether a square weight is stored as (inputs, outputs), by the ``widening_layers`` of its model; None if they do not show it.

    >>> is_transposed("h.0.attn.c_proj.weight", {"h.0.attn.c_attn.weight": (8, 24)})
    True
    """
    if all(rows == columns for rows, columns in widening.values()):
        return None
    return name.removesuffix(".weight").endswith(CONV1D) and all(rows <= columns for rows, columns in widening.values())


def is_added_head(name: str) -> bool:
    """Tell whether a tensor belongs to a head that a trainer adds to a language model: a value, reward or classification head."""
    return bool(ADDED_HEAD.search(name))


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor is a buffer that no optimizer updates: rotary frequencies, causal masks, position ids, balancing biases."""
    return bool(BUFFER.search(name) or BALANCER.search(name)) or (name.endswith(".attn.bias") and len(shape) == 4)


def is_balancer(name: str) -> bool:
    """Tell whether a tensor is a router's bias that balances the load of experts: it changes in training, but not by the optimizer."""
    return bool(BALANCER.search(name))


def is_draft(name: str) -> bool:
    """Tell whether a tensor belongs to a module for multi-token prediction beside the model, which many writers leave out."""
    return bool(DRAFT.search(name))


#: heads of critics, reward models and classifiers, which the language model does not have
ADDED_HEAD = re.compile(r"(^|\.)(v_head|value_head|values_head|reward_head|rm_head|critic_head|regression_head|score|classifier)\.")

#: modules for multi-token prediction: trained with the model, or added to it (Medusa, EAGLE)
DRAFT = re.compile(r"(^|\.)(mtp|mtp_layers|mtp_block|nextn_predict_layers|medusa_heads?|eagle_module)\.")

OUTSIDE = "(no layer)"
MODULE_ORDER = ("embedding", "q", "k", "v", "kv", "qkv", "o", "gate", "up", "gate_up", "down", "router", "norm", "head", "other")


def module_order(kind: str) -> int:
    """Return a sort key that orders module kinds from the input of a model to its output."""
    return MODULE_ORDER.index(kind)
