"""Processes of ``test_ranks.py``: ``python several_ranks.py CASE RANK WORLD FOLDER`` is one rank of gloo on a CPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from dynamics import InputError
from dynamics.recorder import Recorder, callback, recording

STEPS = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_model(dtype: torch.dtype = torch.float32):
    """Make a model whose sizes are not divisible by 2 or 4."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37, "vocab_size": 61}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.3)).to(dtype)


def with_lora(model):
    import peft

    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"]))


def shard(model, kind: str, world: int):
    """Shard a model by ``fully_shard``; ``ddp`` leaves it whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model).module
    grids = {"hsdp": ((2, world // 2), ("replicas", "shards")), "submesh": ((world // 2, 2), ("shards", "others"))}
    shape, names = grids.get(kind, ((world,), ("shards",)))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    mesh = mesh["shards"] if kind == "submesh" else mesh
    layers = [module for module in model.modules() if type(module).__name__ == "LlamaDecoderLayer"]
    options = {}
    if kind == "mixed":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    layers += [model.lm_head] if kind == "head" else []
    kept = {model.model.norm.weight, layers[0].input_layernorm.weight} if kind == "ignored" else set()
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, **options, ignored_params={value for value in module.parameters() if value in kept})
        module.set_force_sum_reduction_for_comms(True)
    return model


def update(model, step: int) -> None:
    """Change a third of the trained weights, in the same way however they are sharded."""
    from torch.distributed.tensor import distribute_tensor

    with torch.no_grad():
        for number, (_, value) in enumerate(model.named_parameters()):
            if not value.requires_grad:
                continue
            generator = torch.Generator().manual_seed(1000 * step + number)
            change = 1e-2 * torch.randn(value.shape, generator=generator) * (torch.rand(value.shape, generator=generator) < 0.3)
            change = change.to(value.dtype)
            value.add_(distribute_tensor(change, value.device_mesh, value.placements, src_data_rank=None) if is_dtensor(value) else change)


def is_dtensor(value) -> bool:
    return hasattr(value, "to_local")


def record(model, out: Path, **options) -> Recorder:
    """Record a few updates, after forward passes that leave the weights of the root whole."""
    recorder = Recorder(out, every=2, base=model, **options)
    for step in range(1, STEPS + 1):
        update(model, step)
        with torch.no_grad():
            model(input_ids=torch.arange(16).reshape(2, 8))
        recorder.step(step, model, {"loss": 1.0 / step})
    recorder.close()
    return recorder


def weights(kind: str, dtype: str, world: int, out: Path) -> dict:
    model = make_model(DTYPES[dtype])
    model = shard(with_lora(model) if "lora" in kind else model, kind.removeprefix("lora-"), world)
    recorder = record(model, out, together=kind != "ddp-first")
    held = sum(value.nbytes for value, _ in recorder._base.values())
    return {"held": held, "not_merged": recorder.not_merged}


def failure(kind: str, rank: int, world: int, out: Path) -> dict:
    """Let one rank fail: all ranks raise the same error."""
    if kind in ("fsdp1", "parts"):
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = make_model()
        if kind == "fsdp1":
            model = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        else:  # each rank has a part that is no DTensor
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach()[30 * rank : 30 * rank + 30].clone())
        try:
            Recorder(out, base=model, together=True)
        except InputError as error:
            return {"error": str(error)}
    if kind == "disk":
        return full_disk(rank, out)
    model = shard(make_model(), kind, world)
    recorder = Recorder(out, base=model, together=True)
    parameters = dict(model.named_parameters())
    if rank == 1:
        name = next(name for name in recorder._base)
        parameters[name] = torch.ones(3)
    try:
        recorder.step(1, parameters, {})
    except InputError as error:
        return {"error": str(error)}
    return {"error": ""}


def full_disk(rank: int, out: Path) -> dict:
    """Let rank 0 not be able to write: its error is raised at the next measurement, on all ranks."""
    model = make_model()
    if rank == 0:
        (out / "metrics.jsonl").mkdir(parents=True)
    recorder = Recorder(out, base=model, together=True)
    recorder.step(1, model, {})
    try:
        recorder.step(2, model, {})
    except InputError as error:
        return {"error": str(error)}
    return {"error": ""}


def batches(world: int = 1, rank: int = 0):
    """Yield a batch for each step, of which each rank has its part; the prompts are of different lengths, and padded on the left."""
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(3, 61, (4, 9), generator=generator)
        mask = torch.ones_like(ids)
        labels = ids.clone()
        for row, (padding, prompt) in enumerate(((2, 3), (0, 5), (1, 4), (0, 5))):
            mask[row, :padding] = 0
            labels[row, : padding + prompt] = -100
        yield {name: value[rank::world] for name, value in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}


PROBES = [list(range(3, 15)), list(range(20, 60, 3)), [5, 4, 3]]


def train(model, rank: int, world: int, out: Path | None, steps: int = STEPS):
    """Train by hand, with the hooks of the callback if ``out`` is given."""
    import transformers

    args = transformers.TrainingArguments(str(out), use_cpu=True, report_to=[], max_steps=steps)
    state = transformers.TrainerState(max_steps=steps)
    hooks = None
    if out is not None:
        hooks = callback(out, every=2, probes=PROBES, probe_every=2, method="sft", report=False)
        hooks.on_train_begin(args, state, None, model=model, processing_class=None)
    model.train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for step, batch in enumerate(batches(world, rank), 1):
        if hooks:
            hooks.on_step_begin(args, state, None)
        loss = model(**batch).loss
        loss.backward()
        if not any(is_dtensor(value) for value in model.parameters()) and world > 1:
            for value in model.parameters():
                if value.grad is not None:
                    torch.distributed.all_reduce(value.grad)
                    value.grad /= world
        optimizer.step()
        optimizer.zero_grad()
        state.global_step = step
        if hooks:
            hooks.on_step_end(args, state, None, model=model)
    if hooks:
        hooks.on_train_end(args, state, None)
    return model


def hooks(kind: str, rank: int, world: int, out: Path) -> dict:
    """Train with and without the hooks; the weights are the same."""

    def trained(folder: Path | None) -> list[torch.Tensor]:
        model = make_model()
        model = train(shard(model, kind, world) if kind != "ddp" else model, rank, world, folder)
        return [value.to_local() if is_dtensor(value) else value for value in model.parameters()]

    pairs = zip(trained(out), trained(None), strict=True)
    return {"same": all(torch.equal(a, b) for a, b in pairs), "random": int(torch.randint(1 << 30, ()))}


def grpo(out: Path) -> dict:
    """Train by TRL under DDP, as ``torchrun`` would."""
    import datasets
    import trl

    from dynamics.train import tiny

    torch.manual_seed(0)
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.3))
    data = datasets.Dataset.from_list([{"prompt": f"<D>x+{number}<in>2<out>"} for number in range(8)])
    args = trl.GRPOConfig(
        str(out.parent / "trl"), per_device_train_batch_size=4, num_generations=4, max_completion_length=6, max_steps=3, logging_steps=1,
        learning_rate=1e-3, use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip

    def reward(completions, **_):
        return [float(len(completion) % 2) for completion in completions]

    trainer = trl.GRPOTrainer(
        model, recording(reward, out), args, train_dataset=data, processing_class=tiny.build_tokenizer(),
        callbacks=[callback(out, every=1, probes=["<D>x+3<in>2<out>5"], probe_every=1, report=False)],
    )  # fmt: skip
    if torch.distributed.get_rank() == 0:
        model.save_pretrained(out.parent / "base")
    trainer.train()
    trainer.save_model(out.parent / "tuned")
    return {"processes": trainer.accelerator.num_processes}


def main() -> None:
    case, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    kind, _, detail = case.partition(":")
    results = {}
    if kind == "weights":
        for name in detail.split(","):
            layout, _, dtype = name.partition(".")
            results[name] = weights(layout, dtype, world, folder / name)
    elif kind == "failure":
        for name in detail.split(","):
            results[name] = failure(name, rank, world, folder / name)
    elif kind == "hooks":
        for name in detail.split(","):
            results[name] = hooks(name, rank, world, folder / name)
    else:
        results[kind] = grpo(folder / "grpo")
    (folder / f"rank_{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
