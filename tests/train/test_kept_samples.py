"""Samples of a base that are kept between runs: reused to the bit, sampled anew if anything else is asked, not trusted if damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics.train import evaluate, kept_samples
from dynamics.train.config import RLVRConfig, SFTConfig, TrainConfig
from dynamics.train.loop import Run, run
from dynamics.train.tasks.prompt_formats import encode_questions
from train.helpers import contents


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/evaluations"


@pytest.fixture
def config(base: Path) -> SFTConfig:
    few = {"steps": 1, "num_problems": 8, "batch_size": 4, "threads": 1, "probe_every": 0, "max_new_tokens": 6}
    return SFTConfig(model=str(base), eval_problems=12, eval_samples=3, eval_temperatures=(1.0, 0.5, 0.0), **few)


def evaluated(config: TrainConfig, out: Path, fresh: bool = False) -> tuple[dict[str, object], str]:
    """Run; return what the run directory holds, and what ``run.json`` says of the samples of the base."""
    run("rlvr" if isinstance(config, RLVRConfig) else "sft", config, out, fresh_evaluation=fresh)
    return contents(out), json.loads((out / "run.json").read_text())["base_samples"]


def test_the_runs_of_one_base_share_its_samples_to_the_bit(config: SFTConfig, cache: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    first, said = evaluated(config, tmp_path / "first")
    assert said == "sampled by this run"
    assert "earlier run" not in capsys.readouterr().err
    (entry,) = cache.iterdir()
    sample = evaluate.sample
    sampled: list[int] = []
    monkeypatch.setattr(evaluate, "sample", lambda *asked: sampled.append(len(asked[2])) or sample(*asked))
    second, said = evaluated(config, tmp_path / "second")
    assert said == f"those of an earlier run, kept as {entry.name}"
    assert capsys.readouterr().err.count(f"the base's samples are those of an earlier run ({entry}); --fresh-evaluation samples anew") == 1
    assert sampled == [1]  # the trained model, at one temperature
    fresh, said = evaluated(config, tmp_path / "fresh", fresh=True)
    assert said == "sampled by this run"
    assert sampled == [1, 3, 1]
    assert first == second == fresh
    few = {"steps": 1, "num_problems": 8, "prompts_per_step": 2, "group_size": 2, "probe_every": 0}
    shared = {name: getattr(config, name) for name in ("model", "threads", "max_new_tokens", *vars(config)) if name.startswith("eval_")}
    other = RLVRConfig(**shared, **few, model=config.model, threads=1, max_new_tokens=6)
    found, said = evaluated(other, tmp_path / "rlvr")
    assert said.startswith("those of an earlier run")  # of another method
    of_base = [name for name in first if name.startswith("evals/base_")]
    assert len(of_base) == 3
    assert all(found[name] == first[name] for name in of_base)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"eval_temperatures": (1.0, 0.5)},
        {"eval_samples": 2},
        {"eval_problems": 11},
        {"max_new_tokens": 5},
        {"compute_dtype": "bfloat16"},
        {"master_dtype": "bfloat16"},
        {"task": "deduction"},
    ],
)
def test_what_is_asked_otherwise_is_sampled(other: dict, config: SFTConfig, cache: Path, tmp_path: Path) -> None:
    """The key of an entry, without a run of steps."""
    here, there = (
        _entry(Run("sft", each, _made(tmp_path / name), False)) for name, each in (("a", config), ("b", replace(config, **other)))
    )
    assert here.path != there.path
    assert here.path == _entry(Run("sft", config, _made(tmp_path / "c"), False)).path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _entry(training: Run, machine: str = "this") -> kept_samples.Entry:
    """The entry of a run that was prepared."""
    config = training.config
    prompts = encode_questions(training.policy.tokenizer, training.questions())
    asked = (prompts, config.eval_temperatures, config.eval_samples, config.seed, config.max_new_tokens)
    training.finish("finished")
    return kept_samples.entry(training.policy, training.document["checksums"]["base"], {"processor": machine}, *asked)
