"""Write families.txt.gz: names and shapes of small models of transformers 5.23, on disk and in memory.

A line of a family is a tensor in memory (name, shape), or a tensor on disk and what it is: a tensor in memory, an expert of a stack,
some of its rows, or its transposed matrix.

Run as ``PYTHONPATH=.:tests python tests/data/checkpoints/make_families.py`` from the root of the repository.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path

import torch
from checkpoints import families
from safetensors.torch import load_file

FAMILIES = {
    "mixtral": "MixtralForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "falcon": "FalconForCausalLM",
    "bloom": "BloomForCausalLM",
    "mamba": "MambaForCausalLM",
    "bart": "BartForCausalLM",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
}


def origin(tensor: torch.Tensor, memory: dict[str, torch.Tensor]) -> str:
    """Find the tensor in memory, or the part of one, that holds the same values."""
    for name, other in memory.items():
        if other.shape == tensor.shape and torch.equal(other, tensor):
            return name
    for name, other in memory.items():
        if other.ndim == 3 and tensor.ndim == 3 and torch.equal(other.transpose(1, 2), tensor):
            return f"{name} transposed"
        if other.ndim == 3 and tensor.ndim == 2:
            for expert, matrix in enumerate(other):
                for start in range(0, len(matrix), len(tensor)):
                    if matrix[start : start + len(tensor)].equal(tensor):
                        return f"{name} {expert} {start} {start + len(tensor)}"
    raise LookupError(f"no origin of {tuple(tensor.shape)}")


def main() -> None:
    """Build every family, save it, and write the table beside this script."""
    lines = []
    for model_type, class_name in FAMILIES.items():
        model = families.build(model_type, class_name)
        memory = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        aliases: dict[int, str] = {}
        lines.append(f"# {model_type}")
        for name, tensor in model.state_dict().items():
            first = aliases.setdefault(tensor.data_ptr(), name)
            kind = "parameter" if name in dict(model.named_parameters(remove_duplicate=False)) else "buffer"
            lines.append(f"memory {name} {','.join(map(str, tensor.shape))} {kind if first == name else f'tied {first}'}")
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            disk = load_file(Path(folder) / "model.safetensors")
        lines += [f"disk {name} {origin(tensor, memory)}" for name, tensor in disk.items()]
        sys.stderr.write(f"{model_type}: {len(memory)} tensors\n")
    text = "\n".join(lines) + "\n"
    (Path(__file__).parent / "families.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
