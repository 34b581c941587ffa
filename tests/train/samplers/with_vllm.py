"""Sample by vLLM from a model that moves, and train; print what was found as JSON. Run by the interpreter that has vLLM.

python with_vllm.py MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from dynamics.errors import InputError
from dynamics.train import loop, policy
from dynamics.train.completions import Request
from dynamics.train.config import RLVRConfig
from dynamics.train.samplers import vllm
from dynamics.train.samplers.checked import Checked
from dynamics.train.sampling import sample


def move(of: policy.Policy, size: float) -> None:
    """Change all weights by noise of this size relative to theirs."""
    generator = torch.Generator().manual_seed(of.version)
    with torch.no_grad():
        for value in of.masters.values():
            value += size * value.abs().mean() * torch.randn(value.shape, generator=generator)
    of.update_model()


def drawn(groups: list) -> list:
    """Return the tokens, and why each completion ended."""
    return [[(one.ids.tolist(), one.ended) for one in group] for group in groups]


class Stop(Exception):
    """Ends a run where a kill would."""


def train(model: str, folder: Path) -> None:
    """Train two runs sampled by vLLM: one in one go, one that ends after its third step and is resumed."""
    config = RLVRConfig(
        model, "lab", steps=4, learning_rate=1e-3, threads=1, save_every=2, probe_every=2, validate_every=2, validation_problems=4,
        eval_problems=4, eval_samples=2, eval_temperatures=(1.0, 0.0), max_new_tokens=32, kl_coef=0.01, num_problems=16,
        prompts_per_step=2, group_size=4,
    )  # fmt: skip

    def stop(step: int, _: object) -> None:
        if step == 3:
            raise Stop

    loop.run("rlvr", config, folder / "whole", sampler=Checked(vllm.VLLM(0.25), 1280))
    try:
        loop.run("rlvr", config, folder / "killed", on_step=stop, sampler=Checked(vllm.VLLM(0.25), 1280))
    except Stop:
        loop.run("rlvr", config, folder / "killed", resume=True, sampler=Checked(vllm.VLLM(0.25), 1280))


def check(model: str) -> dict:
    """Sample from policies whose weights change, and say what was found."""
    torch.set_num_threads(1)
    found: dict = {}
    one = policy.load(model, "cpu", "float32", "float32")
    one.sampler = checked = Checked(vllm.VLLM(0.25), 1280)
    prompts = [np.arange(5, 5 + length, dtype=np.int64) for length in (4, 9, 30)]
    request = Request(prompts, (1.0,) * 4 + (0.6, 0.0), 40, 3, "test", numbers=(0, 1, 2, 3, 0, 0))
    first = sample(one, request)
    found["threads"] = torch.get_num_threads()
    found["metrics"] = [checked.measured()]
    found["ends"] = sorted({ended for group in drawn(first) for _, ended in group})
    found["ends with eos"] = all((ids[-1] in one.eos) == (ended == "eos") for group in drawn(first) for ids, ended in group)
    found["greedy logprobs"] = max(float(np.abs(group[-1].logprobs).max()) for group in first)
    one.sampler = None
    found["greedy as the model"] = [a[-1][0] == b[-1][0] for a, b in zip(drawn(first), drawn(sample(one, request)), strict=True)]
    one.sampler = checked
    found["again"] = drawn(sample(one, request)) == drawn(first)
    found["part"] = drawn(sample(one, request.part(1, 3))) == drawn(first)[1:]
    found["distinct"] = len({tuple(ids) for ids, _ in drawn(first)[0][:4]})
    other = one.copy()
    for size in (1e-3, 0.1):
        move(other, size)
        sample(other, request)
        found["metrics"].append(checked.measured())
        found.setdefault("slopes", []).append(checked.movement and checked.movement.slope)
    found["back"] = drawn(sample(one, request)) == drawn(first)
    sample(one, Request(prompts, (1.0,), 40, 3, "test", top_k=5, top_p=0.9))
    found["metrics"].append(checked.measured())
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    UnquantizedEmbeddingMethod.process_weights_after_loading = lambda *_: None  # then a shared output head stays as it was
    move(one, 0.1)
    try:
        sample(one, request)
    except InputError as error:
        found["stale head"] = str(error)
    checked.close()
    return found


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps(check(sys.argv[1])))
