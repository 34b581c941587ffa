"""Samples of a base that are kept between runs: reused to the bit, sampled anew if anything else is asked, not trusted if damaged."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dynamics
from dynamics import InputError
from dynamics.train import evaluate, kept_samples
from dynamics.train.__main__ import cli
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
    words = ["--steps", "1", "--num-problems", "8", "--batch-size", "4", "--threads", "1", "--probe-every", "0", "--max-new-tokens", "6"]
    words += ["--eval-problems", "12", "--eval-samples", "3", "--eval-temperatures", "1", "0.5", "0", "--preset", "tiny"]
    for more, said in (([], "those of an earlier run"), (["--fresh-evaluation"], "sampled by this run")):
        out = tmp_path / f"command{len(more)}"
        assert cli(["sft", "--model", config.model, "--out", str(out), *words, *more]) == 0
        assert json.loads((out / "run.json").read_text())["base_samples"].startswith(said)
        assert contents(out) == first
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


@pytest.mark.parametrize("what", ["weights", "buffer", "rotation", "machine", "variable", "precision", "threads", "code"])
def test_what_changes_the_bits_is_part_of_the_key(what: str, config: SFTConfig, cache: Path, tmp_path: Path, monkeypatch) -> None:
    training = Run("sft", config, _made(tmp_path / "run"), False)
    before = _entry(training).path
    model, machine = training.policy.model, "this"
    with torch.no_grad():
        if what == "weights":
            training.document["checksums"]["base"] = "0" * 64
        elif what == "buffer":
            next(model.buffers())[0] += 1e-3
        elif what == "rotation":
            model.config.rope_parameters = {"rope_type": "default", "rope_theta": 5000.0}
        elif what == "machine":
            machine = "another"
        elif what == "variable":
            monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
        elif what == "precision":
            monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
        elif what == "threads":
            monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
        else:
            shutil.copytree(Path(dynamics.__file__).parent, tmp_path / "code")
            monkeypatch.setattr(dynamics, "__file__", str(tmp_path / "code/__init__.py"))
            assert _entry(training).path == before
            with open(tmp_path / "code/train/samplers/kernels.py", "a") as file:
                file.write("# another version")
    assert _entry(training, machine).path != before


def _damage_head(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"seed":0', b'"seed":1'))


def _damage_tokens(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-4] ^= 1
    file.write_bytes(whole)


DAMAGE = {
    "tokens": (_damage_tokens, "its tokens do not have their checksum"),
    "key": (_damage_head, "its first line is not the one that was written"),
    "short": (lambda file: file.write_bytes(file.read_bytes()[:-40]), "its tokens do not have their checksum"),
    "empty": (lambda file: file.write_bytes(b""), "its first line: is empty"),
    "text": (lambda file: file.write_text("no entry"), "its first line: is not valid JSON"),
    "link": (lambda file: (file.unlink(), file.symlink_to("none")), "No such file"),
    "folder": (lambda file: (file.unlink(), file.mkdir()), "not a regular file but a folder"),
    "huge": (lambda file: os.truncate(file, kept_samples.LARGEST + 1), "over 100000000 bytes"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_sampled_anew(kind: str, config: SFTConfig, cache: Path, tmp_path: Path, capsys) -> None:
    damage, reason = DAMAGE[kind]
    training = Run("sft", config, _made(tmp_path / "run"), False)
    training.evaluate_at_temperatures("base", config.eval_temperatures)
    expected = {file.name: file.read_bytes() for file in (tmp_path / "run/evals").iterdir()}
    assert len(expected) == 3
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damage(file)
    for name in expected:
        (tmp_path / "run/evals" / name).unlink()
    training.evaluate_at_temperatures("base", config.eval_temperatures)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run/evals").iterdir()} == expected
    (note,) = training.document["notes"]
    assert f"{file}: is damaged (" in note
    assert reason in note
    assert note in capsys.readouterr().err
    assert training.document["base_samples"] == "sampled by this run"
    assert kind == "folder" or file.read_bytes() == whole  # it is whole again, unless a folder is in the way
    training.finish("finished")


def test_an_entry_that_holds_other_numbers_of_samples_or_tokens(cache: Path) -> None:
    """Also with the right checksum, as a broken program might write it."""
    samples = [[np.arange(3), np.arange(0)], [np.arange(2), np.arange(1)]]
    entry = kept_samples.Entry({"a": 1}, 2, 2)
    assert entry.read() is None
    entry.write(samples)
    for ours, group in zip(entry.read(), samples, strict=True):
        assert [ids.tolist() for ids in ours] == [ids.tolist() for ids in group]
    for prompts, reason in ((3, "that many tokens"), (9, "that many samples")):
        with pytest.raises(kept_samples.Damaged, match=reason):
            replace(entry, prompts=prompts).read()
    assert replace(entry, key={"a": 2}).read() is None


def test_a_cache_that_cannot_be_written_is_told_and_done_without(config: SFTConfig, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "file"))
    training = Run("sft", config, _made(tmp_path / "run"), False)
    training.evaluate_at_temperatures("base", config.eval_temperatures)
    training.finish("finished")
    assert len(list((tmp_path / "run/evals").iterdir())) == 3
    said = capsys.readouterr().err
    assert said.count("the base's samples are not kept for other runs: ") == 1
    assert "cannot be made (Not a directory)" in said


def test_the_cache_of_samples_is_bounded(cache: Path, monkeypatch) -> None:
    samples = [[np.arange(100)]]
    entries = [kept_samples.Entry({"number": number}, 1, 1) for number in range(4)]
    entries[0].write(samples)
    size = entries[0].path.stat().st_size
    monkeypatch.setattr(kept_samples, "MOST", 4 * size + 10)
    (cache / "mine.samples").write_bytes(b"x" * 10 * size)
    (cache / "base-0123.samples").write_bytes(b"x" * size)  # named as an entry, with another beginning
    for entry in entries[1:3]:
        entry.write(samples)
    for age, entry in ((300, entries[0]), (200, entries[1]), (100, entries[2])):
        os.utime(entry.path, (time.time() - age,) * 2)
    assert entries[0].read() is not None  # now used last
    entries[3].write(samples)
    assert [entry.path.exists() for entry in entries] == [True, False, True, True]
    assert {"mine.samples", "base-0123.samples"} < {file.name for file in cache.iterdir()}
    monkeypatch.setattr(kept_samples, "LARGEST", size - 1)
    with pytest.raises(InputError, match="would have over"):
        entries[1].write(samples)


def test_entries_that_several_write_and_read_at_once_are_whole(cache: Path) -> None:
    samples = [[np.arange(50_000)]]
    entry = kept_samples.Entry({"number": 1}, 1, 1)
    entry.write(samples)

    def work(number: int) -> None:
        for _ in range(20):
            if number % 2:
                entry.write(samples)
            kept = entry.read()
            assert kept is not None
            assert kept[0][0].sum() == samples[0][0].sum()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert [file.name for file in cache.iterdir()] == [entry.path.name]


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
