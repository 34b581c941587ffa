"""Make verl, a run directory by the writers of verl 0.9.1, which run on a CPU.

python tests/data/runs/make_verl.py [OUT]

The configuration is composed by hydra from verl's own; the checkpoints are written by its FSDPCheckpointManager on one rank of gloo, the
dumps by RayPPOTrainer._write_generations, and the logs by its Tracking, with the loggers file and tensorboard. The numbers are made up.
Needs torch 2.13.0, transformers 5.23.0, verl, tensordict, hydra-core, ray, codetiming, torchdata, cachetools, uvicorn and fastapi.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

STEPS, SAVED = 10, (2, 10)
PROJECT, EXPERIMENT = "demo", "grpo"


def make(out: Path) -> None:
    """Write the folder that verl was started in."""
    with tempfile.TemporaryDirectory() as scratch:
        before = os.getcwd()
        os.chdir(scratch)
        try:
            for write in (_configuration, _checkpoints, _dumps, _logs):
                write()
        finally:
            os.chdir(before)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(scratch, out)


def _configuration() -> None:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    overrides = {
        "actor_rollout_ref.model.path": "base",
        "actor_rollout_ref.actor.optim.lr": "1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.rollout.n": 2,
        "actor_rollout_ref.rollout.name": "vllm",
        "algorithm.adv_estimator": "grpo",
        "data.train_batch_size": 4,
        "trainer.project_name": PROJECT,
        "trainer.experiment_name": EXPERIMENT,
        "trainer.rollout_data_dir": "dumps/rollouts",
        "trainer.validation_data_dir": "dumps/validation",
        "trainer.total_training_steps": STEPS,
        "trainer.logger": "[file,tensorboard]",
    }
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [f"{name}={value}" for name, value in overrides.items()])
    folder = Path("outputs/2026-01-02/03-04-05/.hydra")
    folder.mkdir(parents=True)
    folder.joinpath("config.yaml").write_text(OmegaConf.to_yaml(config))


def _checkpoints() -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard
    from transformers import LlamaConfig, LlamaForCausalLM
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True))
    model.config.architectures = ["LlamaForCausalLM"]
    model.to(torch.bfloat16).save_pretrained("base")
    model.float()
    mesh = distributed.init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    manager = FSDPCheckpointManager(model, optimizer, checkpoint_config={"save_contents": ["model"], "load_contents": ["model"]})
    folder = Path("checkpoints", PROJECT, EXPERIMENT)
    ids = torch.arange(12)[None] % 32
    for step in range(1, STEPS + 1):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in SAVED:
            manager.save_checkpoint(str(folder / f"global_step_{step}" / "actor"), global_step=step)
            folder.joinpath("latest_checkpointed_iteration.txt").write_text(str(step))
    distributed.destroy_process_group()


def _dumps() -> None:
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    for step in range(1, STEPS + 1):
        prompts = [f"user\n{step} + {offset}?\nassistant\n" for offset in (1, 2, 3, 4) for _ in range(2)]
        answers = [str(step + offset + (sample if step < 5 else 0)) for offset in (1, 2, 3, 4) for sample in range(2)]
        truths = [str(step + offset) for offset in (1, 2, 3, 4) for _ in range(2)]
        scores = [float(answer == truth) for answer, truth in zip(answers, truths, strict=True)]
        extra = {"acc": [bool(score) for score in scores]}
        RayPPOTrainer._write_generations(prompts, answers, truths, scores, extra, "dumps/rollouts", step)
        if step % 5 == 0:
            held_out = [f"user\n{offset} + {offset}?\nassistant\n" for offset in (7, 8)]
            RayPPOTrainer._write_generations(
                held_out, ["14", "17"], ["14", "16"], [1.0, 0.0], {"acc": [True, False]}, "dumps/validation", step
            )


def _logs() -> None:
    from verl.utils.tracking import Tracking

    tracking = Tracking(PROJECT, EXPERIMENT, ["file", "tensorboard"])
    for step in range(1, STEPS + 1):
        values = {
            "critic/score/mean": 0.5 if step < 5 else 1.0,
            "critic/rewards/mean": 0.5 if step < 5 else 1.0,
            "actor/entropy": 3.0 / step,
            "actor/kl_loss": 0.01 * step,
            "actor/ppo_kl": 0.001,
            "actor/pg_clipfrac": 0.02,
            "actor/pg_loss": -0.1 / step,
            "actor/grad_norm": math.nan if step == 3 else 1.0 / step,
            "actor/lr": 1e-3,
            "response_length/mean": 2.0,
            "response_length/clip_ratio": 0.0,
            "rollout_corr/kl": 1e-4 * step,
            "training/global_step": step,
        }
        if step % 5 == 0:
            values |= {"val-core/sums/acc/mean@1": 0.5, "val-core/other/acc/mean@1": 0.1 * step, "val-aux/sums/reward/mean@1": 0.5}
        tracking.log(values, step)
    tracking.finish()
    for path in Path("tensorboard_log", PROJECT, EXPERIMENT).iterdir():  # its name holds the time and the host
        path.rename(path.with_name("events.out.tfevents.1767322986.host.1.0"))


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("verl")).resolve())
