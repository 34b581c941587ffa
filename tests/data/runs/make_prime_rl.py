"""Make prime_rl, a run directory of prime-rl's RL.

python tests/data/runs/make_prime_rl.py [OUT]

prime-rl needs GPUs, so that its files are written after its source, at commit 559b447 of August 2026: entrypoints/rl.py (configs/),
monitors/file.py (metrics.jsonl, rollouts/step_N/KIND/all/traces.jsonl), trainer/ckpt.py (torch's distributed checkpoints in
checkpoints/step_N/trainer) and transports/weights/filesystem.py (broadcasts/step_N with STABLE). The episodes are records of verifiers
0.4.0, made by its Episode.to_record. Needs torch 2.13.0, transformers 5.23.0, safetensors and verifiers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

STEPS, SAVED = 10, (2, 10)


def make(out: Path) -> None:
    """Write the folder of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _configuration(folder / "configs")
        _weights(folder)
        _episodes(folder / "rollouts")
        _metrics(folder)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)


def _configuration(folder: Path) -> None:
    trainer = {
        "model": {"name": "prime_rl/base", "seq_len": 64, "optimization_dtype": "float32", "reduce_dtype": "float32", "lora": None},
        "optim": {"type": "adamw", "lr": 1e-5, "weight_decay": 0.01, "max_norm": 1.0},
        "max_steps": STEPS,
        "output_dir": "outputs/prime_rl",
    }
    orchestrator = {
        "algo": {"type": "grpo"},
        "model": {"name": "prime_rl/base"},
        "batch_size": 4,
        "group_size": 2,
        "train": {"sampling": {"temperature": 1.0}, "source": [{"name": "sums"}]},
        "max_steps": STEPS,
    }
    folder.mkdir()
    for name, settings in {"trainer": trainer, "orchestrator": orchestrator}.items():
        (folder / f"{name}.json").write_text(json.dumps(settings, indent=2))


def _weights(folder: Path) -> None:
    from safetensors.torch import save_file
    from torch.distributed import checkpoint
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64)).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    model.float()
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for value in model.parameters():
                value += 1e-3 * torch.randn_like(value)
        if step in SAVED:
            target = folder / "checkpoints" / f"step_{step}" / "trainer"
            progress = {"step": step, "total_tokens": 100 * step}
            checkpoint.save({"app": {"model": model.state_dict(), "progress": progress}}, checkpoint_id=target, no_dist=True)
    sent = folder / "broadcasts" / f"step_{STEPS}"
    sent.mkdir(parents=True)
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, sent / "model.safetensors", metadata={"format": "pt"})
    (sent / "STABLE").touch()


def _episodes(folder: Path) -> None:
    for step in range(1, STEPS + 1):
        _write(
            folder / f"step_{step}/train/all/traces.jsonl", [_episode(step, task, sample, False) for task in (1, 2) for sample in (0, 1)]
        )
        if step % 5 == 0:
            _write(folder / f"step_{step}/eval/all/traces.jsonl", [_episode(step, task, 0, True) for task in (7, 8)])


def _write(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record, default=str) + "\n" for record in records))


def _episode(step: int, task: int, sample: int, held_out: bool) -> dict[str, Any]:
    import verifiers.v1 as vf
    from verifiers.v1.episode import EnvInfo, Episode, EvalWorkInfo, GroupInfo, TrainRunInfo, TrainWorkInfo
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentInfo, ModelCall, Reward, Timing, Trace, TraceTask
    from verifiers.v1.types import AssistantMessage, SystemMessage, UserMessage

    good = step >= 5 or sample == 0
    question = TraceTask(type="Sum", data=vf.TaskData(idx=task, prompt=f"{task} + {step}?"), key=f"sum-{task}-{step}")
    answer = {"token_ids": [3, 8, 9], "mask": [False, True, True], "logprobs": [-0.5, -0.25]}
    nodes = [
        MessageNode(message=SystemMessage(content="Add."), timestamp=0.0, token_ids=[1, 2], mask=[False, False]),
        MessageNode(parent=0, message=UserMessage(content=f"{task} + {step}?"), timestamp=0.0, token_ids=[4], mask=[False]),
        MessageNode(parent=1, message=AssistantMessage(content=str(task + step + (not good))), sampled=True, timestamp=0.0, **answer),
    ]
    name = f"{'eval' if held_out else 'train'}-{step}-{task}-{sample}"
    trace = Trace.model_construct(
        id=name,
        task=question,
        agent=AgentInfo.model_construct(config=None, name="solver", trainable=True),
        nodes=nodes,
        calls=[ModelCall(node=2, finish_reason="stop" if good else "length")],
        rewards={"right": Reward(score=float(good)), "format": Reward(score=1.0, weight=0.0 if held_out else 0.1)},
        timing=Timing(start=0.0),
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )
    work = (EvalWorkInfo if held_out else TrainWorkInfo)(step=step)
    run = TrainRunInfo(id="run", name="prime_rl", work=work)
    group = GroupInfo(id=f"group-{step}-{task}")
    episode = Episode.model_construct(id=name, env=EnvInfo(name="sums"), task=question, group=group, run=run, traces=[trace], ok=True)
    record: dict[str, Any] = episode.to_record()
    return record


def _metrics(folder: Path) -> None:
    """Write a line per call of a monitor: several for a step, of trainer and orchestrator."""
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            reward = "train/agg/all/solver/reward/mean"
            solved = {"train/agg/all/solver/solved_none": 0.0, "train/agg/all/solver/solved_all": 0.0 if step < 5 else 1.0}
            lines = [
                {reward: 0.6 if step < 5 else 1.1, **solved, "train/agg/all/num_output_tokens/mean": 2.0},
                {"train/agg/all/solver/is_truncated/mean": 0.5 if step < 5 else 0.0, "train/agg/effective/solver/reward/mean": 0.6},
                {"optim/lr": 1e-5, "step": step, "optim/grad_norm": 0.5},
                {"loss/mean": 0.01 / step, "entropy/all/mean": 2.0 / step, "mismatch_kl/all/mean": 1e-3, "is_masked/all/mean": 0.01},
                {"time/step": 1.0},
            ]
            if step % 5 == 0:
                lines.append({"eval/sums/effective/solver/avg@1": 1.0, "eval/more/effective/solver/avg@1": 0.5})
            for line in lines:
                file.write(json.dumps({"step": step, "time": 1767322986.0 + step, **line}) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("prime_rl")).resolve())
