"""The examples of the README and of docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

import dynamics

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = [text for kind, text in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL) if kind == "python"]
COMMANDS = re.findall(r"^\$? ?(python -m (?:dynamics|analyses)\S* .*?)(?:\s\s+#.*)?$", README, re.MULTILINE)


def _modules() -> list[str]:
    return [one.name for one in pkgutil.walk_packages(dynamics.__path__, "dynamics.") if ".checkpoints.fsdp" not in one.name]


@pytest.mark.parametrize("name", [name for name in _modules() if not name.endswith("__main__")])
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert doctest.testmod(module).failed == 0


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 4
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_of_the_readme(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from dynamics.train import tiny

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", {"model.norm.weight": rng.normal(size=8).astype(np.float32)})
        rows = [{"problem": f"p{p}", "sample": s, "correct": bool(rng.random() < 0.5)} for p in range(6) for s in range(4)]
        (tmp_path / f"{name}_results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 64}
    model, other = (transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval() for _ in range(2))
    entropies = np.linspace(0.2, 1.0, 12)
    names = {
        "dynamics": dynamics,
        "logits": torch.randn(5, 64),
        "ids": torch.arange(5),
        "hidden": torch.randn(5, 16),
        "lm_head": model.lm_head,
        "model": model,
        "other": other,
        "tokenizer": tiny.build_tokenizer(),
        "texts": ["abc", "[1,2]"],
        "entropies": entropies,
        "rewards": 0.9 - 0.2 * np.exp(entropies) + 0.01 * rng.normal(size=12),
        "GRPOTrainer": lambda *rest, callbacks: callbacks,
        "reward": lambda **_: [0.0],
        "loss": 1.0,
        "step": 1,
        "folder": tmp_path / "runs",
    }
    rows = [
        {"model": name, "problem": f"p{p}", "sample": n, "correct": bool(rng.random() < 0.5), "split": "unseen", "task": "deduction"}
        for name in ("base, T=1", "sft, 3 steps, T=1")
        for p in range(6)
        for n in range(4)
    ]
    (tmp_path / "runs" / "sft-0" / "evals").mkdir(parents=True)
    (tmp_path / "runs" / "sft-0" / "run.json").write_text(json.dumps({"schema": "dynamics.run/2", "method": "sft", "seed": 0}))
    (tmp_path / "runs" / "sft-0" / "evals" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    exec(compile(BLOCKS[number].replace("logs/rl.eval", "tuned_results.jsonl"), f"README, block {number}", "exec"), names)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_are_understood(line: str) -> None:
    words = shlex.split(line)
    if words[2] == "analyses":
        return  # by the tests of the comparison
    if words[2] == "dynamics.train":
        from dynamics.train import command_line

        command_line.parse(words[3:])
        return
    importlib.import_module(f"{words[2]}.__main__").build_parser().parse_args(words[3:])
