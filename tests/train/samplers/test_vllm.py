"""Sampling by vLLM: what it is asked for, with a stand-in; and vLLM itself, by an interpreter that has it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from train.helpers import contents

ROOT = Path(__file__).parent.parent.parent.parent
#: on a CPU, vLLM knows few sizes of attention heads: 16, that of the smaller models of tests, is not among them
LAB = ROOT / "dynamics" / "train" / "lab" / "base"
#: environment variable that names an interpreter with vLLM, and with what this project needs
PYTHON = "DYNAMICS_VLLM_PYTHON"


@pytest.fixture
def interpreter() -> str:
    """Return an interpreter that has vLLM."""
    if named := os.environ.get(PYTHON):
        return named
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(f"vLLM is not installed, and {PYTHON} names no interpreter that has it")
    return sys.executable


@pytest.mark.slow
def test_vllm_draws_from_the_weights_as_they_are_and_a_run_resumes_as_it_would_have_gone_on(interpreter, tmp_path):
    words = [interpreter, str(Path(__file__).parent / "with_vllm.py"), str(LAB), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    assert found["ends with eos"]
    assert found["greedy logprobs"] == 0
    assert all(found["greedy as the model"])
    assert found["again"]
    assert found["back"]
    assert found["distinct"] > 1
    for measured in found["metrics"]:
        assert measured["sampler/checked_max_difference"] < 1e-3
    for slope in found["slopes"]:
        assert slope == pytest.approx(1, abs=0.05)
    assert "has not taken the weights" in found["stale head"] or "log-probabilities differ" in found["stale head"]
    document = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert document["sampler"]["name"] == document["sampled_by"] == "vllm"
    assert document["sampler"]["version"]
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(row["sampler/max_difference"] < 1e-3 for row in rows[1:])
    # steps 2 and 4 sample with the weights of the step before, and validate with their own, with which step 3 samples
    assert [row["time/syncs"] for row in rows[1:]] == [0, 2, 0, 2]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


class Params:
    """Stand-in of ``vllm.SamplingParams``."""

    def __init__(self, **given):
        self.__dict__ = given


class Engine:
    """Stand-in of ``vllm.LLM``: every completion is its prompt's length, then the end."""

    started: ClassVar[list] = []

    def __init__(self, folder, **options):
        Engine.started.append(json.loads((Path(folder) / "config.json").read_text()) | options)
        self.asked: list = []
        self.weights: dict = {}
        self.reason = "stop"
        import torch

        torch.set_num_threads = lambda count: None  # as vLLM does on a CPU
        print("noise on standard output")

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        self.weights = {name: value.clone() for name, value in kwargs["weights_iterator"]}

    def apply_model(self, function):
        self.asked.append(function.__name__)

    def reset_prefix_cache(self):
        self.asked.append("reset")

    def generate(self, prompts, params, use_tqdm):
        self.asked += list(zip(prompts, params, strict=True))
        return [self.answer(prompt["prompt_token_ids"]) for prompt in prompts]

    def answer(self, ids):
        tokens = [len(ids), 1]
        logprobs = [{token: types.SimpleNamespace(logprob=-0.5 * token)} for token in tokens]
        one = types.SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=self.reason)
        return types.SimpleNamespace(outputs=[one])


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, Params
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(Engine, "started", [])
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    yield Engine
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        del os.environ[name]


def request(**more):
    from dataclasses import replace

    from dynamics.train.completions import Request

    prompts = [np.array([5, 6, 7]), np.array([8, 9])]
    return replace(Request(prompts, (1.0, 0.0), 12, 3, "test", numbers=(4, 0), top_k=7, top_p=0.5), **more)


def test_asks_for_tokens_by_the_random_streams_of_the_run(stand_in, base, capsys):
    import torch

    from dynamics.train import policy
    from dynamics.train.samplers.vllm import SEEDS, VLLM

    of = policy.load(str(base), "cpu", "float32", "float32")
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    sampler = VLLM(0.5)
    sampler.load(of)
    assert (torch.get_num_threads(), torch.set_num_threads) == (threads, set_threads)
    assert capsys.readouterr().out == ""
    (started,) = stand_in.started
    assert started["dtype"] == "float32"
    assert started["kv_cache_memory_bytes"] == 1 << 29
    assert started["logprobs_mode"] == "processed_logprobs"
    assert started["vocab_size"] == of.model.config.vocab_size
    assert "distributed_executor_backend" not in started
    assert sampler.llm.weights.keys() == of.masters.keys()
    assert sampler.llm.asked == ["_pack_heads"]
    groups = sampler.draw(request(), of.eos)
    assert sampler.llm.asked[1] == "reset"
    prompts, params = zip(*sampler.llm.asked[2:], strict=True)
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [[5, 6, 7], [5, 6, 7], [8, 9], [8, 9]]
    asked = request()
    assert [each.seed for each in params] == [int(asked.random(p, c).integers(SEEDS)) for p in (0, 1) for c in (0, 1)]
    assert [each.temperature for each in params] == [1.0, 0.0, 1.0, 0.0]
    assert {(each.top_k, each.top_p, each.max_tokens, each.logprobs) for each in params} == {(7, 0.5, 12, 0)}
    assert all(each.stop_token_ids == of.eos and each.ignore_eos for each in params)
    assert [[one.ids.tolist() for one in group] for group in groups] == [[[3, 1], [3, 1]], [[2, 1], [2, 1]]]
    assert groups[1][0].logprobs.tolist() == [-1.0, -0.5]
    assert groups[0][0].ended == "eos"


def test_each_process_of_a_launcher_has_an_engine(stand_in, base):
    from dynamics.train import policy
    from dynamics.train.samplers.vllm import VLLM

    VLLM(0.5, processes=2).load(policy.load(str(base), "cpu", "float32", "float32"))
    assert stand_in.started[0]["distributed_executor_backend"] == "external_launcher"


def test_errors_of_vllm_are_one_line(stand_in, base, monkeypatch):
    from dynamics.errors import InputError
    from dynamics.train import policy
    from dynamics.train.samplers.vllm import VLLM

    of = policy.load(str(base), "cpu", "float32", "float32")
    sampler = VLLM(0.5)
    sampler.load(of)
    sampler.llm.reason = "abort"
    with pytest.raises(InputError, match="--sampler vllm: a completion ended for the reason abort"):
        sampler.draw(request(), of.eos)

    def no_memory(*_, **__):
        raise ValueError("\nno memory for keys\nand more")

    monkeypatch.setattr(sampler.llm, "generate", no_memory)
    with pytest.raises(InputError, match=r"^--sampler vllm: vLLM cannot sample: no memory for keys$"):
        sampler.draw(request(), of.eos)
    monkeypatch.setattr(sampler.llm, "collective_rpc", no_memory)
    with pytest.raises(InputError, match=r"^--sampler vllm: vLLM cannot take the weights of the model: no memory"):
        sampler.load(of)
    monkeypatch.setattr(stand_in, "__init__", no_memory)
    with pytest.raises(InputError, match=r"^--sampler vllm: vLLM cannot compute the model: no memory"):
        VLLM(0.5).load(of)


def test_players_of_other_architectures_are_refused(stand_in, base, lab_base):
    from dynamics.errors import InputError
    from dynamics.train import policy
    from dynamics.train.samplers.vllm import VLLM

    sampler = VLLM(0.5)
    sampler.load(policy.load(str(base), "cpu", "float32", "float32"))
    with pytest.raises(InputError, match="players of different architectures"):
        sampler.load(policy.load(str(lab_base), "cpu", "float32", "float32"))
