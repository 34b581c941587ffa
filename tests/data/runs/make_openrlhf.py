"""Make openrlhf, a run directory of OpenRLHF 0.11.2's PPO.

python tests/data/runs/make_openrlhf.py [OUT]

The events are written by its TensorboardLogger. Its code for checkpoints needs a GPU, so that they are written after its source: saved
models as DeepspeedStrategy.save_model writes them, by save_pretrained, and a file of DeepSpeed's names in _actor. Needs torch 2.13.0,
transformers 5.23.0, tensorboard and openrlhf, without its dependencies.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

STEPS, SAVED = 10, (2, 10)


def make(out: Path) -> None:
    """Write the folder of --ckpt.output_dir."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _checkpoints(folder)
        _logs(folder)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)


def _checkpoints(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64)).to(torch.bfloat16)
    saved = folder / "checkpoints_ppo_ray"
    for step in (0, *SAVED):
        target = saved / f"global_step{step}_hf" if step else folder / "base"
        with torch.no_grad():
            for value in model.parameters():
                value += 1e-3 * torch.randn_like(value)
        model.save_pretrained(target)
        model.config.to_json_file(target / "config.json")
    shutil.copytree(saved / f"global_step{STEPS}_hf", folder, dirs_exist_ok=True)
    state = saved / "_actor" / f"global_step{STEPS}"
    state.mkdir(parents=True)
    torch.save({"module": model.state_dict(), "global_steps": STEPS}, state / "mp_rank_00_model_states.pt")
    (saved / "_actor" / "latest").write_text(state.name)


def _logs(folder: Path) -> None:
    from openrlhf.utils.logging_utils import TensorboardLogger

    wandb = SimpleNamespace(run_name="ppo_0102T0304")
    logger = TensorboardLogger(SimpleNamespace(logger=SimpleNamespace(tensorboard_dir=str(folder / "tensorboard"), wandb=wandb)))
    for step in range(1, STEPS + 1):
        values = {
            "policy_loss": -0.1 / step,
            "ppo_clip_ratio": 0.01,
            "kl": 0.001 * step,
            "vllm_kl": 1e-4,
            "entropy_loss": 2.0 / step,
            "actor_lr": 1e-6,
            "actor_grad_norm": 0.5,
            "reward": 0.1 * step,
            "response_length": 20.0,
            "rollout/reward_mean": 0.1 * step,
            "rollout/reward_std": 0.3,
            "rollout/response_length_mean": 20.0,
            "rollout/truncated_rate": 0.05,
            "generated_samples": ["1 + 1 = 2", 1.0],
        }
        logger.log_train(step, values)
        if step % 5 == 0:
            logger.log_eval(step, {"eval_math_pass1": 0.05 * step, "eval_math_pass4": 0.08 * step, "eval_code_pass1": 0.2})
    logger.close()
    for path in folder.glob("tensorboard/*/events*"):  # its name holds the time and the host
        path.rename(path.with_name("events.out.tfevents.1767322986.host.1.0"))


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("openrlhf")).resolve())
