"""Make the adapters of this folder with PEFT, and what its merge gives for them.

Run it in this folder: ``python make_adapters.py`` (written with peft 0.21.2, transformers 5.23.0, torch 2.13.0). It writes the bases, an
adapter folder for each case, and ``truth.json``: the changed weights and the norm of the change of each tensor after ``merge_and_unload``,
in float64.

A head that is tied to the embedding is one tensor with it, to which the merge adds the updates of both. The model that was trained has them
apart: its embedding has the update of the embedding, its head that of the head. The truth lists the one that has an update, as the base
knows only one tensor.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}


def llama(tie: bool) -> nn.Module:
    config = transformers.LlamaConfig(**LLAMA, **TOKENS, vocab_size=40, max_position_embeddings=32, tie_word_embeddings=tie)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=24, **TOKENS)
    return transformers.GPT2LMHeadModel(config)


def convolutions() -> nn.Module:
    """Make a model with the layers of an image encoder; transformers has no small one that PEFT saves by itself."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 2, bias=False)
            self.square = nn.Conv1d(6, 6, 1)
            self.output_proj = nn.Linear(8, 4, bias=False)

    return Encoder()


BASES = {"llama": lambda: llama(False), "tied": lambda: llama(True), "gpt2": gpt2, "conv": convolutions}
QUERIES = {"target_modules": ["q_proj"]}
#: case -> base, settings of ``LoraConfig``
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "tied_embed_both": ("tied", QUERIES | {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied_embed_only": ("tied", QUERIES | {"modules_to_save": ["embed_tokens"]}),
    "tied_lora_embed": ("tied", {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied_lora_head": ("tied", {"target_modules": ["q_proj", "lm_head"]}),
    "ensure_tying": ("tied", QUERIES | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "ensure_tying_lora": ("tied", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "gpt2_mixed": ("gpt2", {"target_modules": ["c_proj", "lm_head"]}),
    "gpt2_square": ("gpt2", {"target_modules": r".*attn\.c_proj|lm_head"}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "gpt2_embeddings": ("gpt2", {"target_modules": ["wte", "wpe"]}),
    "gpt2_dora": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "bias_all": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
    "bias_lora_only": ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}),
    "rslora_pat": (
        "llama",
        {
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj", "o_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 8, "^model.layers.0.self_attn.v_proj": 3},
            "alpha_pattern": {"o_proj": 32},
        },
    ),
    "layers": (
        "llama",
        {"target_modules": ["q_proj", "o_proj", "down_proj"], "exclude_modules": ["o_proj"], "layers_to_transform": [1]},
    ),
    "tokens": ("llama", QUERIES | {"trainable_token_indices": [3, 1]}),
    "tokens_of_both": ("llama", QUERIES | {"trainable_token_indices": {"embed_tokens": [2, 5], "lm_head": [7]}}),
    "tokens_tied": ("tied", QUERIES | {"trainable_token_indices": [0, 39]}),
    "dora": ("llama", {"target_modules": ["q_proj", "k_proj", "down_proj"], "use_dora": True}),
    "dora_embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True, "use_rslora": True}),
    "layernorm_save": ("llama", QUERIES | {"modules_to_save": ["input_layernorm", "norm"]}),
    "resized": ("llama", QUERIES),
    "conv": ("conv", {"target_modules": ["patches", "square"]}),
    "conv_dora": ("conv", {"target_modules": ["patches", "output_proj"], "use_dora": True}),
    "orthogonal": ("llama", {"target_modules": ["q_proj", "o_proj"], "init_lora_weights": "orthogonal"}),
}


def make(out: Path) -> None:
    """Write the bases, the adapters and the truth."""
    bases = {}
    for name, build in BASES.items():
        torch.manual_seed(1)
        bases[name] = build()
        save_base(bases[name], out / "base" / name)
    truth = {name: make_case(out / name, bases[base].state_dict(), BASES[base](), settings) for name, (base, settings) in CASES.items()}
    (out / "truth.json").write_text(json.dumps({name: {"base": CASES[name][0], "rows": rows} for name, rows in truth.items()}, indent=1))


def save_base(model: nn.Module, folder: Path) -> None:
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")


def save_whole(wrapped: nn.Module, adapter: Path) -> None:
    """Save the state dict of the whole model of PEFT, with the settings in the folder in which verl saves them."""
    from safetensors.torch import save_file

    folder = adapter.parent / "whole"
    (folder / "lora_adapter").mkdir(parents=True, exist_ok=True)
    save_file(wrapped.state_dict(), folder / "model.safetensors")
    (folder / "lora_adapter" / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())


def make_case(folder: Path, base: dict[str, torch.Tensor], model: nn.Module, settings: dict[str, Any]) -> dict[str, list[float]]:
    """Save an adapter whose factors are not zero; return changed weights and norm of the change for each tensor that its merge changes."""
    model.load_state_dict(base)
    if folder.name == "resized":
        torch.manual_seed(3)
        model.resize_token_embeddings(44)
    task = "CAUSAL_LM" if isinstance(model, transformers.PreTrainedModel) else None
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type=task, **{"r": 4, "lora_alpha": 8} | settings))
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink()
    if folder.name == "layernorm_save":
        save_whole(wrapped, folder)
    wrapped.double()
    updated = {name.rpartition(".")[2] for name, module in wrapped.named_modules() if hasattr(module, "get_delta_weight")}
    merged = wrapped.merge_and_unload().state_dict()
    head = merged.get("lm_head.weight")
    shared = [name for name, tensor in merged.items() if head is not None and tensor.data_ptr() == head.data_ptr()]
    counted = "lm_head.weight" if "lm_head" in updated and "embed_tokens" not in updated else next(iter(shared), "")
    times = len({"lm_head", "embed_tokens"} & updated) or 1
    rows = {}
    for name, after in merged.items():
        if name not in base or (name in shared and name != counted):
            continue
        change = (after[: len(base[name])] - base[name].double()) / (times if name in shared else 1)
        if count := int((change != 0).sum()):
            rows[name] = [count, float(change.norm())]
    return rows


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
