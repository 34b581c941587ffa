"""Which sampler a run may use, before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dynamics.runs.schema import SCHEMA
from dynamics.train.__main__ import cli

VLLM = ["--sampler", "vllm"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler-memory", "2"], "--sampler-memory 2: is that of vLLM; add --sampler vllm, or leave it out"),
        ([*VLLM, "--sampler-memory", "0"], "--sampler-memory 0: must be above 0"),
        ([*VLLM, "--sampler-memory", "nan"], "--sampler-memory nan: must be above 0"),
        ([*VLLM, "--temperature", "0.005"], "--temperature 0.005: vLLM takes 0.01 for lower temperatures above 0; use that, or 0"),
        ([*VLLM, "--eval-temperatures", "1", "0.001"], "--eval-temperatures 0.001: vLLM takes 0.01"),
        ([*VLLM, "--eval-trained-temperatures", "0.001"], "--eval-trained-temperatures 0.001: vLLM takes 0.01"),
        ([*VLLM, "--device", "cuda:1"], "--device cuda:1: vLLM takes the first GPU that it sees; set CUDA_VISIBLE_DEVICES"),
        (["--sampler", "vlm"], "invalid choice 'vlm'"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_done_is_refused(words, message, dry, base, tmp_path, capsys):
    status = cli(["rlvr", "--model", str(base), "--out", str(tmp_path / "run"), *words, *(["--dry-run"] if dry else [])])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_says_how_to_install_vllm(base, tmp_path, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    assert cli(["rlvr", "--model", str(base), "--out", str(tmp_path / "run"), *VLLM]) == 2
    assert "sampling with --sampler vllm needs vllm: pip install 'training-dynamics[vllm]'" in capsys.readouterr().err


def test_a_dry_run_refuses_another_sampler_than_a_run_began_with(base, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli(["rlvr", "--model", str(base), "--out", str(out), "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    config = {name: value for name, value in printed.items() if name not in ("method", "out", "preset")}
    out.mkdir()
    document = {"schema": SCHEMA, "method": "rlvr", "config": config, "threads": 1, "sampler": {"name": "vllm", "version": "1"}}
    (out / "run.json").write_text(json.dumps(document))
    assert cli(["rlvr", "--model", str(base), "--out", str(out), "--resume", "--dry-run"]) == 2
    assert "was started with --sampler vllm, not transformers, which draws other samples" in capsys.readouterr().err


def test_checks_import_neither_torch_nor_vllm():
    code = "import sys; import dynamics.train.samplers.choice; assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
