"""Make open_instruct and open_instruct_checkpoints, the directories of a GRPO run of open-instruct, and open_instruct_sft.

python tests/data/runs/make_open_instruct.py [OUT]

open-instruct needs GPUs, so that the files are written after its source, at commit e6c3044 of August 2026: grpo_fast.py (save_model and
maybe_save_checkpoint), rl_utils.py (RolloutRecord and RolloutMetadata) and finetune.py (states of accelerate, COMPLETED, and the events of
TensorBoard that accelerate's tracker writes). Needs torch 2.13.0, transformers 5.23.0 and tensorboard.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

RUN = "grpo_fast__1__1767322986"


def make(out: Path) -> None:
    """Write the folders."""
    with tempfile.TemporaryDirectory() as scratch:
        _grpo(Path(scratch))
        _sft(Path(scratch) / "open_instruct_sft")
        for folder in Path(scratch).iterdir():
            shutil.rmtree(out / folder.name, ignore_errors=True)
            shutil.copytree(folder, out / folder.name)


def _models() -> Any:
    """Yield a small model again and again, further trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64)).to(torch.bfloat16)
    while True:
        yield model
        with torch.no_grad():
            for value in model.parameters():
                value += 1e-3 * torch.randn_like(value)


def _grpo(folder: Path) -> None:
    models = _models()
    next(models).save_pretrained(folder / "open_instruct" / "base")
    steps = folder / "open_instruct_checkpoints"
    for target in (steps / "step_2", steps / "step_10", folder / "open_instruct"):
        next(models).save_pretrained(target)
        (target / ".checkpoint_complete").touch()
    next(models).save_pretrained(steps / "step_12")  # the run ended before the marker was written
    rollouts = folder / "open_instruct" / "rollouts"
    rollouts.mkdir()
    metadata = {"run_name": RUN, "git_commit": "e6c3044", "model_name": "open_instruct/base", "timestamp": "2026-01-02T03:04:05+00:00"}
    (rollouts / f"{RUN}_metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    for shard, begin in enumerate((1, 7)):
        with (rollouts / f"{RUN}_rollouts_{shard:06d}.jsonl").open("w") as file:
            for step in range(begin, begin + 6):
                for place in range(4):
                    record = {
                        "step": step,
                        "sample_idx": place,
                        "prompt_idx": place // 2,
                        "prompt_tokens": [1, 5 + place // 2, 7],
                        "response_tokens": [8 + place, 9, 2][: 3 - place % 2],
                        "reward": float(place % 2 == 0),
                        "advantage": 1.0 - 2.0 * (place % 2),
                        "finish_reason": "length" if place % 2 else "stop",
                        "dataset": "sums",
                        "ground_truth": [3],
                        "request_info": None,
                        "logprobs": [-0.5, -0.25, -0.125][: 3 - place % 2],
                    }
                    file.write(json.dumps(record) + "\n")


def _sft(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    models = _models()
    next(models).save_pretrained(folder / "base")
    for step in (2, 4):
        next(models).save_pretrained(folder / f"step_{step}")
        (folder / f"step_{step}" / "COMPLETED").write_text("COMPLETED")
        torch.save({"step": step}, folder / f"step_{step}" / "scheduler.bin")
    next(models).save_pretrained(folder)
    writer = SummaryWriter(str(folder / "open_instruct_sft"))
    for step in range(1, 5):
        for name, value in {"learning_rate": 2e-5, "train_loss": 3.0 / step, "total_tokens": 1000.0 * step}.items():
            writer.add_scalar(name, value, step)
    writer.close()
    for path in folder.glob("open_instruct_sft/events*"):  # its name holds the time and the host
        path.rename(path.with_name("events.out.tfevents.1767322986.host.1.0"))


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve())
