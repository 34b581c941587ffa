"""Small models of every family that transformers can build: the default configuration with small numbers, on the CPU and untrained."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

#: the last segments of a setting's name -> its value in a small model; the first match counts
SMALL: list[tuple[str, Any]] = [
    (r"^first_k_dense_replace$", 1),
    (r"(num_nextn_predict_layers|num_mtp_layers|mtp_num_layers)$", None),
    (r"^(num_layers|num_hidden_layers|n_layers?|depth|depths|encoder_layers|decoder_layers|num_encoder_layers|num_decoder_layers)$", 2),
    (r"(^|_)(num_hidden_layers|num_layers|n_layer|num_blocks|num_hidden_groups)$", 2),
    (r"^(num_key_value_heads|num_kv_heads|n_head_kv|num_attention_groups|multi_query_group_num|num_key_heads)$", 2),
    (r"^(num_attention_heads|num_heads|n_heads?|encoder_attention_heads|decoder_attention_heads|attention_heads|num_value_heads)$", 4),
    (r"(^|_)(num_attention_heads|num_heads|attention_heads)$", 4),
    (r"(^|_)num_key_value_heads$", 2),
    (r"^(head_dim|kv_channels|attention_head_dim|head_size|attention_head_size|global_head_dim|swa_head_dim)$", 8),
    (r"^(hidden_size|d_model|n_embd|embed_dim|dim|emb_dim|hidden_dim|width|projection_dim|embedding_size|cross_dim|hidden_sizes)$", 32),
    (r"^(intermediate_size|ffn_dim|d_ff|n_inner|encoder_ffn_dim|decoder_ffn_dim|ffn_hidden_size|mlp_dim|inner_dim|dim_ff)$", 48),
    (r"(^|_)moe_intermediate_size$", 24),
    (r"(^|_)intermediate_size$", 40),
    (r"^(num_experts_per_tok|moe_topk|top_k|topk|num_experts_per_token|moe_top_k|moe_k|n_group|topk_group|num_expert_group)$", 1),
    (r"^(num_local_experts|num_experts|n_routed_experts|moe_num_experts|routed_experts|num_routed_experts)$", 4),
    (r"^(n_shared_experts|num_shared_experts|moe_num_shared_experts)$", 1),
    (r"(^|_)vocab_size(_per_layer_input)?$", 96),
    (r"(^|_)(kv_lora_rank|q_lora_rank)$", 12),
    (r"^(qk_rope_head_dim)$", 4),
    (r"^(qk_nope_head_dim|v_head_dim)$", 8),
    (r"(^|_)max_(position_embeddings|seq_len|sequence_length|source_positions|target_positions)$", 64),
    (r"^n_positions$", 64),
]


def small(name: str, value: Any) -> Any:
    """Return the value of a setting in a small model."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if re.search(r"(token_id|token_index|pad_token|padding_idx)$", name):  # an embedding checks that the padding is one of its rows
        return value if value < 96 else 1
    for pattern, limit in SMALL:
        if re.search(pattern, name):
            return min(value, limit) if limit is not None else 0
    if value > 128 and not re.search(r"token|_id$|index|seed|theta|window|sample|frequency|rate|length|size_", name):
        return 32 if re.search(r"size|dim|width|channels|rank", name) else value
    return value


def shrink(config: Any, more: dict[str, Any]) -> Any:
    """Make a configuration of the same class with small numbers; ``more`` maps settings, ``a.b`` for those of parts, to values."""
    kind = type(config)
    defaults = config.to_dict()
    parts = {}
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            own = {key.removeprefix(f"{name}."): value for key, value in more.items() if key.startswith(f"{name}.")}
            parts[name] = shrink(part, own)
    settings = {}
    for name, value in defaults.items():
        if name in parts or name in ("model_type", "transformers_version", "architectures", "_name_or_path", "dtype"):
            continue
        reduced = small(name, value)
        if reduced != value:
            settings[name] = reduced
    settings.update({key: value for key, value in more.items() if "." not in key})
    settings.update({name: part.to_dict() for name, part in parts.items()})
    return kind(**copy.deepcopy(settings))


#: settings of families whose configuration refuses the small numbers, or does not say what a model needs
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "blt": {"encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [3, 4]},
    "chameleon": {
        "vocabulary_map": {"<image>": 3},
        "vq_config.base_channels": 32,
        "vq_config.channel_multiplier": [1, 1],
        "vq_config.num_res_blocks": 1,
    },
    "cohere_compass_text": {"layer_types": ["sliding_attention", "sliding_attention"]},
    "cosmos3_edge": {"text_config.head_dim": 128},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "dots3_note": {"text_config.num_key_value_heads": 4, "text_config.per_layer_config": {}},
    "dots3_note_text": {"num_key_value_heads": 4, "per_layer_config": {}},
    "emu3": {"vocabulary_map": {"<image>": 3}, "vq_config.base_channels": 32, "vq_config.channel_multiplier": [1, 1]},
    "ernie4_5_vl_moe": {"text_config.hidden_size": 512, "text_config.moe_intermediate_size": [32, 16]},
    "florence2": {
        "vision_config.embed_dim": [8, 8],
        "vision_config.num_heads": [2, 2],
        "vision_config.num_groups": [2, 2],
        "vision_config.depths": [1, 1],
        "vision_config.patch_size": [7, 3],
        "vision_config.patch_stride": [4, 2],
        "vision_config.patch_padding": [3, 1],
        "vision_config.patch_prenorm": [False, True],
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_assistant": {"text_config.hidden_size_per_layer_input": 0},
    "glm5_next": {"text_config.num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl": {"text_config.head_dim": 8},
    "janus": {"vq_config.base_channels": 32, "vq_config.channel_multiplier": [1, 1], "vq_config.num_res_blocks": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h_omni": {"vision_config.video_temporal_patch_size": 2},
    "qwen3_omni_moe_thinker": {"audio_config.downsample_hidden_size": 16},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16]},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]},
    "zamba2": {"num_hidden_layers": 2, "layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
}

#: the version of transformers for which this module is written
VERSION = "5.23."
#: families that cannot be built here -> why
NOT_BUILT = {
    "cohere_compass_text": "the default configuration has no rotary settings for its kinds of layers",
    "cohere_compass": "the default configuration has no rotary settings for its kinds of layers",
    "dbrx": "the default configuration lacks a setting that the model reads",
    "diffusion_gemma": "the default configuration lacks a size",
    "dots3_note": "the default configuration has settings for single layers, which a part cannot override",
    "fast_vlm": "needs timm",
    "gemma3n": "needs timm",
    "gemma4_assistant": "the default configuration is refused by its own check",
    "gemma4_unified_assistant": "the default configuration needs all of its layers",
    "granite4_vision": "the default configuration lacks a list",
    "muse_spark": "the default configuration has a list for each layer",
    "perception_lm": "needs timm",
}
LARGEST = 6_000_000


def build(model_type: str, class_name: str) -> Any:
    """Build a small model with random weights and buffers, in bfloat16.

    Raises
    ------
    Exception : whatever transformers raises for a configuration that it refuses; ValueError if the model has too many parameters.
    """
    import torch
    import transformers

    config = shrink(transformers.CONFIG_MAPPING[model_type](), MORE.get(model_type, {}))
    model_class = getattr(transformers, class_name)
    with torch.device("meta"):
        try:
            model = model_class(config)
        except AttributeError:  # a class for the language model alone
            model = model_class(config.get_text_config(decoder=True))
    if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        raise ValueError("too many parameters")
    torch.manual_seed(0)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_()
            else:
                tensor.zero_()
    model.tie_weights()
    return model


def change(model: Any) -> int:
    """Change the first three weights of every parameter, each of tied ones once; return the number of changed weights."""
    import torch

    changed = 0
    with torch.no_grad():
        for parameter in model.parameters():
            count = min(3, parameter.numel())
            parameter.view(-1)[:count] += 1000
            changed += count
    return changed


def older_names(model: Any, folder: Path) -> dict[str, Any] | None:
    """Read a saved folder with the prefixes of files that were written before the model's classes changed; None if there are none."""
    from safetensors.torch import load_file
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    changes = [entry for entry in get_model_conversion_mapping(model, add_legacy=False) if isinstance(entry, PrefixChange)]
    if not changes:
        return None
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for entry in reversed(changes):
        back = entry.reverse_transform()
        tensors = {back.rename_source_key(name)[0]: tensor for name, tensor in tensors.items()}
    return tensors
