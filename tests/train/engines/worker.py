"""What each process of a test computes: updates of small models by TRL, and by rank 0 alone. ``torchrun worker.py OUT [fsdp2]``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from dynamics.train import tiny, update
from dynamics.train.batch import Batch
from dynamics.train.completions import Request
from dynamics.train.config import RLVRConfig, SFTConfig, TrainConfig
from dynamics.train.engines.local import Local
from dynamics.train.engines.protocol import Start
from dynamics.train.engines.ranks import BASE
from dynamics.train.engines.trl import TRL
from dynamics.train.lora import LoraPolicy, SharedBase
from dynamics.train.player import Player
from dynamics.train.policy import Policy
from dynamics.train.samplers.transformers import decoder_of
from dynamics.train.sampling import sample
from train.helpers import MODELS

TEMPERATURE = 0.8
#: cases that are computed with sharded weights too
SHARDED = ("token-mean", "absolute positions", "kl", "two updates a batch", "small micro-batches", "clipped norm", "supervised")
#: name of a case -> model, settings
CASES: dict[str, tuple[str, TrainConfig]] = {
    "token-mean": ("llama", RLVRConfig()),
    "absolute positions": ("gpt2", RLVRConfig()),
    "grouped heads": ("qwen2", RLVRConfig(loss_aggregation="sequence-mean")),
    "constant": ("llama", RLVRConfig(loss_aggregation="constant")),
    "role-task-mean": ("llama", RLVRConfig(loss_aggregation="role-task-mean")),
    "kl": ("llama", RLVRConfig(kl_coef=0.1)),
    "two updates a batch": ("llama", RLVRConfig(num_iterations=2, clip_ratio_low=0.01, clip_ratio_high=0.01, clip_ratio_c=3.0)),
    "clip-cov": ("llama", RLVRConfig(clip_cov=0.2)),
    "kl-cov": ("llama", RLVRConfig(kl_cov=0.2, num_iterations=2)),
    "small micro-batches": ("llama", RLVRConfig(max_tokens_per_microbatch=20)),
    "clipped norm": ("llama", RLVRConfig(max_grad_norm=0.01, weight_decay=0.1)),
    "supervised": ("llama", SFTConfig()),
    "ratio of completions": ("llama", RLVRConfig()),
    "lora": ("llama", RLVRConfig()),
}
#: a case whose numbers are not compared
NARROW = "bfloat16"
CASES_APART: dict[str, tuple[str, TrainConfig]] = {NARROW: ("llama", RLVRConfig(max_tokens_per_microbatch=20, compute_dtype="bfloat16"))}


def batch(step: int, case: str) -> Batch:
    """Make a batch of an odd number of completions of three prompts; some have no gradient, and some do not learn."""
    rng = np.random.default_rng(step)
    prompts = [rng.integers(14, 60, n) for n in (5, 1, 9)]
    completions = [rng.integers(14, 60, n) for n in rng.integers(1, 8, 7 + 2 * (step % 2))]
    count = len(completions)
    advantages = np.array([1.0, -1.0, 0.5, 0.0, -0.5, 0.0, 2.0, -2.0, 1.0])[:count]
    roles = ["solver", "proposer"] * 5
    made = Batch(
        prompts,
        completions,
        np.array([0, 0, 1, 1, 1, 2, 0, 2, 1])[:count],
        advantages,
        roles[:count],
        (["a"] * 3 + ["b"] * 6)[:count],
        [f"n{number}" for number in range(count)],
        [rng.normal(-4.0, 0.05, len(completion)).astype(np.float32) for completion in completions],
        1.0 if case == "supervised" else TEMPERATURE,
    )
    if case == "supervised":
        return replace(made, advantages=np.ones(count), behaviour=None)
    if case == "ratio of completions":
        return replace(made, sequence_ratio=True, supervised=np.arange(count) == 2)
    return replace(made, trained=np.arange(count) != 4) if step == 3 else made


#: gradients of the weights at each optimizer step, whole; none where there are none
SEEN: list[list[torch.Tensor]] = []


def see(optimizer: torch.optim.Optimizer, *more: object) -> None:
    """Note the gradients before a step is taken."""
    found = [value.grad for group in optimizer.param_groups for value in group["params"] if value.grad is not None]
    SEEN.append([(value.full_tensor() if isinstance(value, DTensor) else value).clone() for value in found])
    SET_RATE(optimizer, *more)  # type: ignore[arg-type]


SET_RATE = update.set_rate


def steps(engine: Local | TRL, policy: Policy, reference: Policy, config: TrainConfig, case: str) -> dict[str, object]:
    """Take four steps, one of them on completions without a gradient; return gradients, weights and measurements."""
    player = engine.ranks.players["policy"] if isinstance(engine, TRL) else update.make_player("policy", policy, config)
    SEEN.clear()
    done = [
        engine.update(player, reference, replace(made, advantages=np.zeros(len(made.completions))) if step == 2 else made, step)
        for step, made in ((step, batch(step, case)) for step in (1, 2, 3, 4))
    ]
    names = list(player.policy.masters)
    gradients = [dict(zip(names, values, strict=True)) for values in SEEN if values]
    request = Request(batch(1, case).prompts, (1.0, 1.0, 0.0), 12, 0, "test")
    sampled = [one.ids.tolist() for group in sample(player.policy, request) for one in group]
    return {
        "gradients": gradients,
        "weights": {name: value.detach() for name, value in player.policy.masters.items()},
        "tokens": [one.first for one in done],
        "norms": [one.norm for one in done],
        "clips": [one.clips for one in done],
        "sampled": sampled,
        "decoder": decoder_of(player.policy),
        "state": states_of(engine, player),
    }


def states_of(engine: Local | TRL, player: Player) -> dict[str, torch.Tensor]:
    """Return the state of a player's optimizer, as it would be saved, by the names of weights."""
    with engine.collected():
        states = {name: dict(player.optimizer.state[value]) for name, value in player.policy.masters.items()}
    return {f"{name} {key}": part.clone() for name, values in states.items() for key, part in values.items()}


def compare(one: dict, other: dict) -> dict[str, object]:
    """Return the largest differences: of gradients relative to their norm, of weights, of values of tokens."""
    relative = [
        float((a[name] - b[name]).norm() / max(a[name].norm(), 1e-12))
        for a, b in zip(one["gradients"], other["gradients"], strict=True)
        for name in a
        if a[name].norm() > 1e-6
    ]
    values = ("logp", "entropy", "surprisal", "loss", "clipped_low", "clipped_high", "clipped_dual")
    return {
        "steps": len(one["gradients"]),
        "names": [sorted(gradients) for gradients in one["gradients"]] == [sorted(gradients) for gradients in other["gradients"]],
        "gradient": max(relative),
        "weights": max(float((one["weights"][name] - other["weights"][name]).abs().max()) for name in one["weights"]),
        "moved": max(float((one["weights"][name] - one["start"][name]).abs().max()) for name in one["weights"]),
        "tokens": max(
            float(np.abs(getattr(a, name) - getattr(b, name)).max())
            for a, b in zip(one["tokens"], other["tokens"], strict=True)
            for name in values
        ),
        "norms": float(np.abs(np.subtract(one["norms"], other["norms"])).max()),
        "clips": [sorted(clips) for clips in one["clips"]] == [sorted(clips) for clips in other["clips"]],
        "sampled": one["sampled"] == other["sampled"],
        "decoder": one["decoder"] == other["decoder"],
        "state": max(float((value - other["state"][name]).abs().max() / value.abs().max()) for name, value in one["state"].items()),
    }


def policy_of(model: str, case: str) -> tuple[Policy, Policy]:
    """Make a policy and another one to which it is compared."""
    compute = "bfloat16" if case == NARROW else "float32"
    plain, reference = (Policy(MODELS[model](seed).eval(), tiny.build_tokenizer(), "float32", compute) for seed in (0, 1))
    return (LoraPolicy(SharedBase(plain), 4) if case == "lora" else plain), reference


def config_of(case: str) -> TrainConfig:
    """Return the settings of a case."""
    more = {} if case == "supervised" else {"temperature": TEMPERATURE}
    return replace((CASES | CASES_APART)[case][1], device="cpu", learning_rate=1e-3, threads=1, warmup_steps=2, steps=4, **more)


def have_accelerate_shard_on_a_processor() -> None:
    """Have accelerate take the processors for several GPUs, without which it shards nothing."""
    import accelerate.state
    from accelerate.utils import DistributedType

    def set_device(state: accelerate.state.PartialState) -> None:
        state.device = torch.device("cpu")

    accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    accelerate.state.PartialState.set_device = set_device
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    }
    torch.distributed.init_process_group("gloo")


def added_up_in(engine: TRL) -> str:
    """Return the dtypes in which FSDP2 holds and adds up gradients that are computed in bfloat16."""
    engine.ranks.call("case", NARROW)
    engine.update(engine.ranks.players["policy"], None, batch(1, NARROW), 1)
    policy = list(engine.trainers.values())[-1].trainer.model_wrapped._get_fsdp_state()._mp_policy
    return f"{policy.param_dtype}, {policy.reduce_dtype}"


def main() -> None:
    """Compare TRL with one process in every case, and write what was found."""
    torch.set_num_threads(1)
    update.set_rate = see
    cases = dict(CASES)
    if "fsdp2" in sys.argv:
        have_accelerate_shard_on_a_processor()
        cases = {name: cases[name] for name in SHARDED}
    engine = TRL(RLVRConfig(device="cpu"))

    def begin(case: str) -> None:
        """Make the players of a case, in every process."""
        config = config_of(case)
        policy, reference = policy_of((CASES | CASES_APART)[case][0], case)
        engine.share(Start("rlvr", config, 1, "float32", ""), {"policy": update.make_player("policy", policy, config)}, reference)

    engine.ranks.handlers["case"] = begin
    if not engine.leads:
        assert engine.follow()
        return
    found = {}
    for case in cases:
        config, (policy, reference), local = config_of(case), policy_of(CASES[case][0], case), Local()
        local.begin(Start("rlvr", config, 1, "float32", ""), {}, None)
        first = {name: value.detach().clone() for name, value in policy.masters.items()}
        expected = steps(local, policy, reference, config, case) | {"start": first}
        engine.ranks.call("case", case)
        shared = engine.ranks.policies
        found[case] = compare(expected, steps(engine, shared["policy"], shared[BASE], config, case))
    added = added_up_in(engine) if "fsdp2" in sys.argv else ""
    engine.close()
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"processes": engine.ranks.size, "cases": found, "added up in": added}, file)


if __name__ == "__main__":
    main()
