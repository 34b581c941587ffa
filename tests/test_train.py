"""Runs of the loop: what they write, that being killed changes nothing, and what they say to bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_policy import llama

from dynamics import InputError, samples, sparsity
from dynamics.train import folders, policy, state, tasks, tiny, update
from dynamics.train.__main__ import cli
from dynamics.train.batch import Batch
from dynamics.train.config import RLVR, SFT
from dynamics.train.evaluate import evaluate
from dynamics.train.loop import run
from dynamics.train.policy import Policy

SMALL = ["--steps", "6", "--save-every", "2", "--eval-problems", "6", "--eval-samples", "2", "--threads", "1",
         "--eval-temperatures", "1,0.5,0"]  # fmt: skip
QUICK = {
    "selfplay": ["--prompts", "4", "--group", "4", "--propose-tokens", "40", "--seeding", "6", "--fixed-every", "2"],
    "rlvr": ["--prompts", "12", "--group", "6", "--max-new-tokens", "8", "--problems", "40"],
    "sft": ["--batch", "8", "--problems", "40"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model of the notation that has learnt a little: some of what it samples is right, so that RLVR moves it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    model, words = tiny.make(tiny.Recipe(steps=200, hidden=64, layers=2, intermediate=128, threads=1))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def arguments(method: str, base: Path, out: Path, *more: str) -> list[str]:
    return [method, "--model", str(base), "--out", str(out), "--learning-rate", "1e-3", *SMALL, *QUICK[method], *more]


def contents(out: Path) -> dict[str, object]:
    """All that must not depend on when a run was killed."""
    found: dict[str, object] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.is_dir() or name.startswith("state") or name == "run.json":
            continue
        if name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if "seconds" not in k and not k.startswith("time/")} for row in rows]
        else:
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize("method", ["rlvr", "sft"])
def test_a_run_directory(method: str, base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli(arguments(method, base, out)) == 0
    said = capsys.readouterr().out
    assert "minus base, T=1" in said
    assert all(f"\n  {part} " in said for part in ("all", "seen", "unseen", "ood"))
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    for row in metrics:
        for name in ("loss", "entropy", "nll_sampled", "grad_norm", "tokens", "seconds", "solver/entropy"):
            assert np.isfinite(row[name]), name
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step_000000", "step_000002", "step_000004", "step_000006"]
    assert [p.name for p in (out / "state").iterdir()] == ["step_000006"]
    document = json.loads((out / "run.json").read_text())
    assert document["status"] == "finished"
    assert document["config"]["learning_rate"] == 1e-3
    whole = sparsity.compare(out / "checkpoints/step_000000", out / "checkpoints/step_000006").total
    assert whole.sparsity["bf16"] < 0.9  # the weights do move
    if method == "rlvr":
        for rule, value in whole.sparsity.items():
            assert metrics[-1][f"sparsity/{rule}"] == value
        rows = [json.loads(line) for line in (out / "rollouts/step_3.jsonl").read_text().splitlines()]
        assert len(rows) == 72
        assert np.mean([one["reward"] for one in rows]) == pytest.approx(metrics[2]["reward"])
        assert sum(len(one["completion_ids"]) for one in rows) == metrics[2]["tokens"]
        assert_sampler_is_the_trainer(metrics[2], document["compute_dtype"])
    read = samples.read([out]).table
    assert set(read["model"]) == {"base, T=1", "base, T=0.5", "base, greedy", f"{method}, 6 steps, T=1"}
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "checkpoints/step_000006")
    assert model.dtype == torch.float32
    transformers.AutoTokenizer.from_pretrained(out / "checkpoints/step_000006")
    shutil.rmtree(out / "state")
    assert cli(arguments(method, base, out, "--resume")) == 2  # rather than beginning again over what is there
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 6


def assert_sampler_is_the_trainer(line: dict, compute: str) -> None:
    """Both give a token the same probability but for rounding: in float32 to 1e-3 at most, in bfloat16 to 1e-3 in KL divergence."""
    assert line["sampler/max_difference" if compute == "float32" else "sampler/kl"] < 1e-3


@pytest.mark.parametrize("method", QUICK)
def test_one_step_in_bfloat16(method: str, base: Path, tmp_path: Path, capsys) -> None:
    """Sampling, gradient, probes, evaluation and recorder, by autocast."""
    out = tmp_path / "run"
    more = {"sft": [], "rlvr": ["--prompts", "24", "--group", "12"], "selfplay": ["--curriculum", "4"]}[method]
    every = ["--steps", "1", "--fixed-every", "1", "--record-every", "1", "--compute-dtype", "bfloat16"]
    assert cli(arguments(method, base, out, *every, *more)) == 0
    assert "computed in bfloat16" in capsys.readouterr().out
    (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name, value in line.items():
        assert value is not None, name
        assert np.isfinite(value), name
    assert line["sparsity/bf16"] < 1
    assert line["fixed/solver/entropy"] > 0
    document = json.loads((out / "run.json").read_text())
    assert (document["compute_dtype"], document["shares_prompts"]) == ("bfloat16", True)
    if method != "sft":
        assert_sampler_is_the_trainer(line, "bfloat16")
    assert set(samples.read([out]).table["model"]) == {"base, T=1", "base, T=0.5", "base, greedy", f"{method}, 1 steps, T=1"}
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "checkpoints/step_000001")
    assert model.dtype == torch.float32  # of the masters


def test_evaluation(base: Path, compute: str) -> None:
    """Asked again, the same; asked alone, or in float32, the same but for rounding, which turns few answers."""
    loaded = policy.load(str(base), "cpu", "float32", compute)
    wide = policy.load(str(base), "cpu", "float32", "float32")
    questions = tasks.Triplets().questions("test", 24, 0)

    def completions(model: Policy, asked: list[tasks.Question], temperature: float) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in evaluate(model, asked, "base", temperature, 1, 0, 8):
            found.setdefault(row["problem"], []).append(row["completion"])
        return found

    for temperature in (0, 1):
        whole = completions(loaded, questions, temperature)
        assert completions(loaded, questions, temperature) == whole
        others = [completions(wide, questions, temperature)]
        if temperature == 0:  # random numbers are of a problem's place
            others.append({name: text for one in questions for name, text in completions(loaded, [one], 0).items()})
        for other in others:
            same = np.mean([whole[name] == other[name] for name in whole])
            assert same == 1 if compute == "float32" else same >= 0.75


@pytest.mark.parametrize(("method", "lines"), [("rlvr", [0, 3]), ("sft", [1]), ("selfplay", [0, 3])])
def test_killed_and_resumed_is_the_same_to_the_bit(method: str, lines: list[int], base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamics.train"]
    out, straight = tmp_path / "killed", tmp_path / "straight"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    assert subprocess.run([*command, *arguments(method, base, straight)], **quiet).returncode == 0
    for number in lines:
        more = ["--resume"] if out.exists() else []
        child = subprocess.Popen([*command, *arguments(method, base, out, *more)], **quiet)
        file = out / "metrics.jsonl"
        while child.poll() is None and not (out.exists() if number == 0 else file.exists() and file.read_bytes().count(b"\n") >= number):
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
    more = ["--resume"] if (out / "run.json").exists() else []
    assert subprocess.run([*command, *arguments(method, base, out, *more)], **quiet).returncode == 0
    killed, whole = contents(out), contents(straight)
    assert whole["checkpoints/step_000000/model.safetensors"] != whole["checkpoints/step_000006/model.safetensors"]
    assert killed.keys() == whole.keys()
    for name in whole:
        assert killed[name] == whole[name], name


def test_entropy_on_fixed_prompts_is_of_the_policy_alone(base: Path, tmp_path: Path) -> None:
    """Every method asks the same, so all begin with the same value; measuring it changes nothing of the run."""
    first = {}
    for method in QUICK:
        out = tmp_path / method
        more = ["--entropy-bonus", "0.01"] if method != "sft" else []  # a term that would give even idle tokens a gradient
        short = ["--steps", "2", "--eval-problems", "0", "--max-new-tokens", "8", *more]
        assert cli(arguments(method, base, out, *short, "--fixed-every", "1")) == 0
        assert cli(arguments(method, base, tmp_path / f"{method}-without", *short, "--fixed-every", "0")) == 0
        rows, without = (
            [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
            for name in (method, f"{method}-without")
        )
        first[method] = rows[0]["fixed/solver/entropy"]
        assert rows[1]["fixed/solver/entropy"] != first[method]
        for one, other in zip(rows, without, strict=True):
            assert not any(key.startswith(("fixed/", "time/fixed")) for key in other)
            assert one["time/fixed_seconds"] > 0
            assert {key: one[key] for key in ("loss", "grad_norm", "entropy")} == {
                key: other[key] for key in ("loss", "grad_norm", "entropy")
            }
    assert len(set(first.values())) == 1


def test_a_run_is_written_by_one_process_at_a_time(base: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    config = SFT(model=str(base), steps=2, eval_problems=0, problems=8, batch=4, fixed_every=0)
    out = tmp_path / "run"
    refused = []

    def second(step: int, metrics: dict) -> None:
        with pytest.raises(InputError, match="another process is at work on this run") as found:
            run("sft", config, out, resume=True)
        refused.append(found)

    run("sft", config, out, on_step=second)
    assert len(refused) == 2
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again
    os.close(held)


def test_resuming_at_every_step(compute: str, base: Path, tmp_path: Path) -> None:
    few = {"problems": 20, "prompts": 12, "group": 6, "max_new_tokens": 6, "threads": 1, "eval_problems": 0}
    config = RLVR(model=str(base), steps=4, save_every=1, compute_dtype=compute, **few)
    run("rlvr", config, tmp_path / "straight")

    class Stop(Exception):
        pass

    def stop(step: int, metrics: dict) -> None:
        raise Stop

    assert len({row["sparsity/bf16"] for row in contents(tmp_path / "straight")["metrics.jsonl"]}) == 4  # every step moves the weights
    for number in range(4):
        with pytest.raises(Stop):
            run("rlvr", config, tmp_path / "cut", resume=number > 0, on_step=stop)
    run("rlvr", config, tmp_path / "cut", resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")


def test_a_resumed_run_computes_in_the_dtype_that_it_began_with(base: Path, tmp_path: Path, monkeypatch) -> None:
    """On a machine for which ``auto`` means another dtype too."""
    config = SFT(model=str(base), steps=3, save_every=1, eval_problems=0, problems=20, batch=4, threads=1)

    def dtype(name: str) -> str:
        return json.loads((tmp_path / name / "run.json").read_text())["compute_dtype"]

    for forced in ("bfloat16", "float32"):
        monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", forced)
        run("sft", config, tmp_path / forced)
        assert dtype(forced) == forced
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "bfloat16")
    with pytest.raises(KeyboardInterrupt):
        run("sft", config, tmp_path / "cut", on_step=lambda step, metrics: os.kill(os.getpid(), signal.SIGINT) if step == 1 else None)
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "float32")
    run("sft", config, tmp_path / "cut", resume=True)
    assert dtype("cut") == "bfloat16"
    assert contents(tmp_path / "cut") == contents(tmp_path / "bfloat16")
    assert contents(tmp_path / "cut") != contents(tmp_path / "float32")


def test_an_interrupt_saves(base: Path, tmp_path: Path, capsys) -> None:
    config = SFT(model=str(base), steps=5, save_every=100, eval_problems=0, problems=20, batch=4, threads=1)

    def interrupt(step: int, metrics: dict) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("sft", config, tmp_path / "cut", on_step=interrupt)
    assert json.loads((tmp_path / "cut/run.json").read_text())["status"] == "interrupted"
    assert state.latest(tmp_path / "cut/state").name in ("step_000002", "step_000003")
    run("sft", config, tmp_path / "cut", resume=True)
    run("sft", config, tmp_path / "straight")
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")


def test_another_config_does_not_resume(base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli(arguments("sft", base, out)) == 0
    assert cli(arguments("sft", base, out, "--seed", "7", "--resume")) == 2
    assert "was begun with seed = 0, not 7" in capsys.readouterr().err
    assert cli(arguments("sft", base, out)) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert cli(arguments("rlvr", base, out, "--resume")) == 2
    assert "method = 'sft', not 'rlvr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--task", "nothing"], "unknown; there are code, deduction"),
        (["--advantage", "grop"], "unknown; there are grpo, dr_grpo, rloo"),
        (["--model", "/nowhere"], "/nowhere: has no tokenizer"),
        (["--steps", "0"], "--steps 0: must be a number of at least 1"),
        (["--learning-rate", "nan"], "must be a number"),
        (["--temperature", "0"], "samples of a group would all be the same"),
        (["--top-p", "0.9", "--updates", "2"], "--top-p and --top-k"),
        (["--eval-temperatures", "a"], "must be numbers"),
        (["--loss", "mean"], "invalid choice"),
        (["--compute-dtype", "float16"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(more: list[str], said: str, base: Path, tmp_path: Path, capsys) -> None:
    given = arguments("rlvr", base, tmp_path / "run", *more)
    assert cli(given) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("dynamics.train: error")]) == 1


def test_a_dtype_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "bf16")
    assert cli(["sft", "--out", str(tmp_path / "run")]) == 2
    assert "DYNAMICS_COMPUTE_DTYPE=bf16: must be auto, float32 or bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run(tmp_path: Path, capsys) -> None:
    assert cli(["rlvr", "--out", str(tmp_path / "run"), "--dry-run", "--model", "smollm2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["learning_rate"], found["group"]) == ("rlvr", 1e-5, 8)
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_stops_the_run(base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli([*arguments("sft", base, out), "--learning-rate", "1e30", "--warmup", "0"]) == 2
    error = capsys.readouterr().err
    assert "not finite, in a batch with" in error or "logits are not finite" in error
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert (out / "checkpoints/step_000000/model.safetensors").exists()
    assert state.latest(out / "state") is not None


def test_a_verifier_that_fails_ends_the_run(base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dynamics.train.tasks.verify", lambda *_: 1 / 0)
    assert cli(arguments("rlvr", base, tmp_path / "run")) == 2
    assert "failed on" in (said := capsys.readouterr().err)
    assert "ZeroDivisionError" in said


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("", "prompt of .*: is empty"), ("<D>" + "x+1" * 200, r"601 tokens and 2 new ones are beyond .* 512 positions")],
)
def test_a_prompt_of_no_tokens_or_too_many(prompt: str, said: str, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": "<D>x+1<in>2<out>", "completion": "3"}, {"prompt": prompt, "completion": "3"}] * 40
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SFT(model=str(base), task=str(file), steps=1, eval_problems=0, batch=4, fixed_every=0)
    with pytest.raises(InputError, match=said):
        run("sft", config, tmp_path / "run")


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path) -> None:
    target = tmp_path / "step_000001"
    folders.save_folder(target, lambda place: (place / "a").write_text("whole"))

    def full(place: Path) -> None:
        (place / "a").write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"step_000001: cannot be written \(No space left on device\); .*--resume"):
        folders.save_folder(target, full, state.ADVICE)
    assert (target / "a").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]


def batch() -> Batch:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(14, 60, n) for n in (5, 1, 9)]
    completions = [rng.integers(14, 60, n) for n in (3, 1, 7, 4, 2, 6, 3)]
    advantages = np.array([1.0, -1.0, 0.5, 0.0, -0.5, 0.0, 2.0])
    names = [f"n{place}" for place in range(7)]
    behaviour = [np.full(len(one), -4.0, np.float32) for one in completions]
    return Batch(prompts, completions, np.array([0, 0, 1, 1, 1, 2, 0]), advantages, ["solver"] * 7, ["t"] * 7, names, behaviour, 0.8)


def gradients(config, policy: Policy, given: Batch) -> dict[str, torch.Tensor]:
    policy.model.zero_grad()
    before = update.prepare(policy, policy, given, config, 1)
    found = update.gradient(policy, given, config, before)
    return {name: value.grad.clone() for name, value in policy.model.named_parameters()} | {"loss": torch.tensor(found.loss.sum())}


@pytest.mark.parametrize("more", [{}, {"kl": 0.1}, {"entropy_bonus": 0.1}])
def test_in_bfloat16_micro_batches_change_rounding_alone(more: dict) -> None:
    """Gradients are apart by at most twice what float32's are from them, by the L2 norm."""
    policy, wide = (Policy(llama().eval(), tiny.tokenizer(), "float32", compute) for compute in ("bfloat16", "float32"))
    whole, exact = (gradients(RLVR(micro_tokens=10_000, **more), one, batch()) for one in (policy, wide))
    for tokens, share in ((1, True), (20, True), (30, False), (10_000, False)):
        policy.shares = share
        found = gradients(RLVR(micro_tokens=tokens, **more), policy, batch())
        for name, value in list(whole.items())[:-1]:  # without the loss
            assert (found[name] - value).norm() <= 2 * (exact[name] - value).norm() < 0.3 * value.norm(), name


@pytest.mark.parametrize("loss", ["token-mean", "sequence-mean", "constant"])
@pytest.mark.parametrize("more", [{}, {"kl": 0.1}, {"entropy_bonus": 0.1}, {"kl_cov": 0.2}, {"clip_cov": 0.2}, {"updates": 2}])
def test_micro_batches_change_nothing(loss: str, more: dict) -> None:
    policy = Policy(llama().eval(), tiny.tokenizer())
    whole = gradients(RLVR(loss=loss, micro_tokens=10_000, **more), policy, batch())
    for tokens, share in ((1, True), (20, True), (30, False), (10_000, False)):
        policy.shares = share
        found = gradients(RLVR(loss=loss, micro_tokens=tokens, **more), policy, batch())
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_the_gradient_is_that_of_the_formula() -> None:
    """Weighted log-likelihood by a forward pass a completion, against the loop's."""
    model, given = llama().eval(), batch()
    policy = Policy(model, tiny.tokenizer())
    found = gradients(RLVR(), policy, given)
    model.zero_grad()
    total = 0
    for sample, made in enumerate(given.completions):
        prompt = given.prompts[given.prompt_of[sample]]
        logits = model(torch.tensor(np.concatenate([prompt, made]))[None]).logits[0, len(prompt) - 1 : -1] / given.temperature
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(made)[:, None])[:, 0]
        total = total - (given.advantages[sample] * logp).sum() / given.lengths.sum()
    total.backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.grad, atol=1e-5, rtol=1e-4)


def test_sft_teaches_the_end_of_the_sequence(base: Path) -> None:
    from dynamics.train import prompts, tasks
    from dynamics.train.sft import Imitation

    policy = Policy(transformers.AutoModelForCausalLM.from_pretrained(base), transformers.AutoTokenizer.from_pretrained(base))
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    fed = Imitation(SFT(problems=10, batch=4), policy, tasks.Triplets()).feed(1)
    assert all(one[-1] == policy.tokenizer.eos_token_id for one in fed.batch.completions)
    assert prompts.decode(policy.tokenizer, fed.batch.completions[0], policy.eos)
    found = update.gradient(policy, fed.batch, SFT(), update.Before())
    assert len(found.sample) == fed.batch.lengths.sum()  # the end counts among the tokens of the loss


def test_bfloat16_masters_move_less(compute: str, base: Path, tmp_path: Path) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        config = SFT(model=str(base), steps=3, eval_problems=0, problems=20, batch=4, learning_rate=1e-5, master_dtype=dtype, threads=1)
        config = replace(config, compute_dtype=compute)
        run("sft", config, tmp_path / dtype)
        folder = tmp_path / dtype / "checkpoints"
        found[dtype] = sparsity.compare(folder / "step_000000", folder / "step_000003")
        assert set(found[dtype].tuned.dtypes) == {dtype}
    assert found["bfloat16"].total.sparsity["exact"] > found["float32"].total.sparsity["exact"] + 0.3


def test_the_embedded_model_is_the_same_every_time(tmp_path: Path, monkeypatch) -> None:
    recipe = tiny.Recipe(steps=12, hidden=32, layers=1, intermediate=32, threads=1)
    made = []
    for name in ("a", "b"):
        monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / name))
        folder = tiny.find(recipe)
        made.append((folder.name, (folder / "model.safetensors").read_bytes()))
        before = (folder / "model.safetensors").stat().st_mtime_ns
        assert tiny.find(recipe) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert made[0] == made[1]
    assert tiny.folder(tiny.Recipe(steps=13)).name != tiny.folder(recipe).name


#: a process that makes a small embedded model, and says where it is
MAKER = "from dynamics.train import tiny; print(tiny.find(tiny.Recipe(steps={}, hidden=32, layers=1, intermediate=32, threads=1)))"


def maker(cache: Path, steps: int) -> subprocess.Popen[str]:
    environment = os.environ | {"DYNAMICS_CACHE": str(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", MAKER.format(steps)], env=environment, **pipes)


def test_one_process_makes_the_embedded_model_and_the_others_wait(tmp_path: Path) -> None:
    """And the one that is killed meanwhile leaves nothing behind."""
    fcntl = pytest.importorskip("fcntl")
    with maker(tmp_path, 10**6) as killed:
        while not (tmp_path.exists() and _locked(fcntl, tmp_path)):
            assert killed.poll() is None
            time.sleep(0.01)
        with maker(tmp_path, 100) as one, maker(tmp_path, 100) as other:
            said = f"another process is making the embedded model in {tmp_path}; waiting for it\n"
            for waiting in (one, other):
                assert said in iter(waiting.stderr.readline, "")  # after what else libraries may say
            killed.kill()
            killed.wait()
            left = list(tmp_path.iterdir())
            places = {one.communicate()[0].strip(), other.communicate()[0].strip()}
    assert not left
    assert {str(place) for place in tmp_path.iterdir()} == places


def _locked(fcntl: ModuleType, folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def test_a_folder_half_written_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """As by a process that was killed while it wrote the files."""
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    recipe = tiny.Recipe(steps=2, hidden=32, layers=1, intermediate=32, threads=1)
    half = tmp_path / f".{tiny.folder(recipe).name}.0.partial"
    half.mkdir()
    (half / "config.json").write_text("{")
    assert tiny.find(recipe) == tiny.folder(recipe)
    assert list(tmp_path.iterdir()) == [tiny.folder(recipe)]


def test_a_folder_on_a_file_system_that_locks_only_files(tmp_path: Path, monkeypatch) -> None:
    """NFS: a file in the folder is locked instead."""
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.flock

    def flock(handle: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(9, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(folders.fcntl, "flock", flock)

    def refuse() -> None:
        raise InputError("busy")

    with folders.exclusive(tmp_path, refuse), pytest.raises(InputError, match="busy"), folders.exclusive(tmp_path, refuse):
        pass
    with folders.exclusive(tmp_path, refuse):
        pass


def test_two_that_save_without_locks_leave_a_whole_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "fcntl", None)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    recipe = tiny.Recipe(steps=1, hidden=32, layers=1, intermediate=32, threads=1)
    real, names = tiny.save_folder, ["config.json", "model.safetensors"]

    def late(target: Path, fill, *more, **options) -> None:
        """Another process makes the folder while this one writes its own."""

        def both(place: Path) -> None:
            fill(place)
            real(target, fill, *more, **options)

        real(target, both, *more, **options)

    monkeypatch.setattr(tiny, "save_folder", late)
    place = tiny.find(recipe)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
    assert all((place / name).stat().st_size for name in names)


def test_what_is_interrupted_while_it_is_written_is_removed(tmp_path: Path) -> None:
    def interrupted(place: Path) -> None:
        (place / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folders.save_folder(tmp_path / "target", interrupted)
    assert not list(tmp_path.iterdir())


def test_a_lock_is_not_given_up_because_nobody_reads_what_is_said(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def broken() -> None:
        raise BrokenPipeError

    def refuse() -> None:
        raise InputError("busy")

    with folders.exclusive(tmp_path, refuse) as held:
        assert held
        with pytest.raises(InputError), folders.exclusive(tmp_path, broken):
            pass
        with folders.exclusive(tmp_path, lambda: None) as again:  # rather than wait for oneself
            assert not again
        with pytest.raises(InputError, match="busy"), folders.exclusive(tmp_path, refuse):
            pass
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"cannot be made .*; set DYNAMICS_CACHE to a folder that can be written"):
        tiny.find(tiny.Recipe(steps=1))


def test_the_tokenizer_loses_nothing() -> None:
    words, rng = tiny.tokenizer(), np.random.default_rng(0)
    for _ in range(300):
        text = "".join(tiny.example(rng))
        assert words.decode(words(text)["input_ids"]) == text
    assert len(words) <= 64
