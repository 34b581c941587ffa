"""Small models of several architectures, and what a run directory holds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers


def llama(seed: int = 0, **more):
    torch.manual_seed(seed)
    sizes: dict = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
    sizes |= {"max_position_embeddings": 256}
    config = transformers.LlamaConfig(**sizes | more, initializer_range=0.3, attn_implementation="eager")
    return transformers.LlamaForCausalLM(config)


def gpt2(seed: int = 0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256, attn_implementation="eager")
    return transformers.GPT2LMHeadModel(config)


def qwen2(seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, vocab_size=64, initializer_range=0.3))


MODELS = {"llama": llama, "gpt2": gpt2, "qwen2": qwen2}


def contents(out: Path) -> dict[str, object]:
    """Collect everything in a run directory that must not depend on when a run was killed."""
    result: dict[str, object] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.is_dir() or name.startswith("state") or name == "run.json":
            continue
        if file.name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            result[name] = [{k: v for k, v in row.items() if "seconds" not in k and not k.startswith("time/")} for row in rows]
        else:
            result[name] = file.read_bytes()
    return result
