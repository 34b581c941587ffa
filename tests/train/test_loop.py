"""Runs of the loop: output files, resumption, and messages for invalid input."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


from dynamics import InputError, samples, sparsity
from dynamics.cli.command import Terminated
from dynamics.train import checks, evaluate, policy, state
from dynamics.train.__main__ import cli
from dynamics.train.config import RLVRConfig, SelfPlayConfig, SFTConfig
from dynamics.train.loop import run
from dynamics.train.policy import Policy
from dynamics.train.tasks.problem import Question
from dynamics.train.tasks.prompt_formats import encode_questions
from dynamics.train.tasks.triplets import Triplets
from train.helpers import contents

SMALL = ["--steps", "6", "--save-every", "2", "--eval-problems", "6", "--eval-samples", "2", "--threads", "1",
         "--eval-temperatures", "1,0.5,0"]  # fmt: skip
QUICK = {
    "selfplay": [
        "--prompts-per-step",
        "4",
        "--group-size",
        "4",
        "--max-proposal-tokens",
        "40",
        "--num-seed-tasks",
        "6",
        "--probe-every",
        "2",
    ],
    "rlvr": ["--prompts-per-step", "12", "--group-size", "6", "--max-new-tokens", "8", "--num-problems", "40"],
    "sft": ["--batch-size", "8", "--num-problems", "40"],
}


def arguments(method: str, base: Path, out: Path, *more: str) -> list[str]:
    return [method, "--model", str(base), "--out", str(out), "--learning-rate", "1e-3", *SMALL, *QUICK[method], *more]


@pytest.mark.parametrize("method", ["rlvr", "sft"])
def test_a_run_directory(method: str, base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli(arguments(method, base, out, "--eval-trained-temperatures", "1", "0")) == 0
    stdout = capsys.readouterr().out
    assert "minus" in stdout
    assert all(f"\n  {part} " in stdout for part in ("all", "seen", "unseen", "ood"))
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
    table = matched(out)
    assert (table["optimizer steps"]["planned"], table["optimizer steps"]["happened"]) == (6, 6)
    trained = {"rlvr": 6 * 72, "sft": 6 * 8}[method]
    assert (table["completions trained on"]["planned"], table["completions trained on"]["happened"]) == (trained, trained)
    sampled = sum(row["tokens"] for row in metrics) if method == "rlvr" else 0
    assert table["tokens sampled"]["happened"] == sampled
    assert 0 < table["tokens with gradient"]["happened"] <= sum(row["tokens"] for row in metrics)
    assert table["base"]["same_by"] == document["checksums"]["base"]
    assert document["pool"]["problems"] == 40
    assert 1 < document["pool"]["programs"] <= 40
    whole = sparsity.compare(out / "checkpoints/step_000000", out / "checkpoints/step_000006").total
    assert whole.sparsity["bf16"] < 0.9  # the weights do move
    if method == "rlvr":
        for rule, value in whole.sparsity.items():
            assert metrics[-1][f"sparsity/{rule}"] == value
        rows = [json.loads(line) for line in (out / "rollouts/step_3.jsonl").read_text().splitlines()]
        assert len(rows) == 72
        assert np.mean([record["reward"] for record in rows]) == pytest.approx(metrics[2]["reward"])
        assert sum(len(record["completion_ids"]) for record in rows) == metrics[2]["tokens"]
        assert_sampler_is_the_trainer(metrics[2], document["compute_dtype"])
    read = samples.read([out]).table
    assert set(read["model"]) == {
        *("base, T=1", "base, T=0.5", "base, greedy"),
        *(f"{method}, 6 steps, T=1", f"{method}, 6 steps, greedy"),
    }
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "checkpoints/step_000006")
    assert model.dtype == torch.float32
    transformers.AutoTokenizer.from_pretrained(out / "checkpoints/step_000006")
    shutil.rmtree(out / "state")
    assert cli(arguments(method, base, out, "--resume")) == 2  # instead of starting again over the existing run
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 6


def assert_sampler_is_the_trainer(line: dict, compute: str) -> None:
    """Check that both give a token the same probability up to rounding: at most 1e-3 in float32, 1e-3 in KL divergence in bfloat16."""
    assert line["sampler/max_difference" if compute == "float32" else "sampler/kl"] < 1e-3


@pytest.mark.parametrize("method", ["rlvr", *(pytest.param(name, marks=pytest.mark.slow) for name in QUICK if name != "rlvr")])
def test_one_step_in_bfloat16(method: str, base: Path, tmp_path: Path, capsys) -> None:
    """Sampling, gradient, probes, evaluation and recorder, by autocast."""
    out = tmp_path / "run"
    more = {"sft": [], "rlvr": ["--prompts-per-step", "24", "--group-size", "12"], "selfplay": ["--curriculum-samples", "4"]}[method]
    every = ["--steps", "1", "--probe-every", "1", "--record-every", "1", "--compute-dtype", "bfloat16"]
    assert cli(arguments(method, base, out, *every, *more)) == 0
    assert "computed in bfloat16" in capsys.readouterr().out
    (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name, value in line.items():
        assert value is not None, name
        assert np.isfinite(value), name
    assert line["sparsity/bf16"] < 1
    assert line["probe/solver/entropy"] > 0
    document = json.loads((out / "run.json").read_text())
    assert (document["compute_dtype"], document["shares_prompts"]) == ("bfloat16", True)
    if method != "sft":
        assert_sampler_is_the_trainer(line, "bfloat16")
    assert set(samples.read([out]).table["model"]) == {"base, T=1", "base, T=0.5", "base, greedy", f"{method}, 1 steps, T=1"}
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "checkpoints/step_000001")
    assert model.dtype == torch.float32  # of the masters


@pytest.mark.parametrize("master", ["float32", "bfloat16"])
def test_one_copy_of_the_base_serves_the_penalty_and_the_recorder(master: str, base: Path, tmp_path: Path) -> None:
    few = {
        "num_problems": 8,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 6,
        "threads": 1,
        "eval_problems": 0,
        "probe_every": 0,
    }
    config = RLVRConfig(model=str(base), steps=2, kl_coef=0.1, learning_rate=1e-3, master_dtype=master, compute_dtype="float32", **few)
    finished = run("rlvr", config, tmp_path)
    assert finished.load_base() is finished.reference
    whole = sparsity.compare(tmp_path / "checkpoints/step_000000", tmp_path / "checkpoints/step_000002").total
    first, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert 0 < whole.sparsity["bf16"] < 1
    assert {rule: last[f"sparsity/{rule}"] for rule in whole.sparsity} == whole.sparsity
    assert abs(first["kl"]) < 1e-6 < last["kl"]


def test_evaluation(base: Path, compute: str) -> None:
    """Evaluation is reproducible; alone or in float32, rounding changes only few answers."""
    loaded = policy.load(str(base), "cpu", "float32", compute)
    wide = policy.load(str(base), "cpu", "float32", "float32")
    questions = Triplets().questions("test", 24, 0)

    def completions(model: Policy, asked: list[Question], temperature: float) -> dict[str, list[str]]:
        prompts = encode_questions(model.tokenizer, asked)
        groups = evaluate.sample(model, prompts, [temperature], 1, 0, 8)
        together: dict[str, list[str]] = {}
        for row in evaluate.graded(model.tokenizer, model.eos, asked, prompts, groups, "base", temperature):
            together.setdefault(row["problem"], []).append(row["completion"])
        return together

    for temperature in (0, 1):
        whole = completions(loaded, questions, temperature)
        assert completions(loaded, questions, temperature) == whole
        others = [completions(wide, questions, temperature)]
        if temperature == 0:  # random numbers depend on the index of the problem
            others.append({name: text for question in questions for name, text in completions(loaded, [question], 0).items()})
        for other in others:
            same = np.mean([whole[name] == other[name] for name in whole])
            assert same == 1 if compute == "float32" else same >= 0.75


@pytest.mark.slow
def test_entropy_on_fixed_prompts_is_of_the_policy_alone(base: Path, tmp_path: Path) -> None:
    """All methods use the same prompts, so they start with the same value; measuring it does not change the run."""
    first = {}
    for method in QUICK:
        out = tmp_path / method
        more = ["--entropy-coef", "0.01"] if method != "sft" else []  # a term that would give even idle tokens a gradient
        short = ["--steps", "2", "--eval-problems", "0", "--max-new-tokens", "8", *more]
        assert cli(arguments(method, base, out, *short, "--probe-every", "1")) == 0
        assert cli(arguments(method, base, tmp_path / f"{method}-without", *short, "--probe-every", "0")) == 0
        rows, without = (
            [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
            for name in (method, f"{method}-without")
        )
        first[method] = rows[0]["probe/solver/entropy"]
        assert rows[1]["probe/solver/entropy"] != first[method]
        for row, other in zip(rows, without, strict=True):
            assert not any(key.startswith(("probe/", "time/probe")) for key in other)
            assert row["time/probe_seconds"] > 0
            assert {key: row[key] for key in ("loss", "grad_norm", "entropy")} == {
                key: other[key] for key in ("loss", "grad_norm", "entropy")
            }
    assert len(set(first.values())) == 1


def test_what_a_run_left_that_was_killed_before_it_began_is_no_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "players" / "teacher1").mkdir(parents=True)
    for name in (".lock", ".run-01234567.json"):
        (out / name).write_text("")
    config = SFTConfig(model="tiny", steps=2)
    assert checks.check_folder("sft", config, out, resume=False) is None
    for file in (out / "players" / "teacher1" / "metrics.jsonl", out / "mine.json"):
        file.write_text("")
        with pytest.raises(InputError, match="is not empty and contains no run"):
            checks.check_folder("sft", config, out, resume=False)
        file.unlink()


def test_a_run_is_written_by_one_process_at_a_time(base: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    config = SFTConfig(model=str(base), steps=2, eval_problems=0, num_problems=8, batch_size=4, probe_every=0)
    out = tmp_path / "run"
    refused = []

    def second(step: int, metrics: dict) -> None:
        with pytest.raises(InputError, match="another process is working on this run") as caught:
            run("sft", config, out, resume=True)
        refused.append(caught)

    run("sft", config, out, on_step=second)
    assert len(refused) == 2
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock was released
    os.close(held)


def test_a_state_does_not_outlive_the_metrics_of_its_steps(base: Path, tmp_path: Path, monkeypatch) -> None:
    """The metrics of all players are on disk before the state is: a machine that fails in between leaves a run that can be resumed."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    synced, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    few = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "eval_problems": 0, "max_proposal_tokens": 40, "num_seed_tasks": 6}
    run("selfplay", SelfPlayConfig(model=str(base), players="two", threads=1, probe_every=0, **few), tmp_path)
    before = synced[: next(number for number, path in enumerate(synced) if path.startswith("state"))]
    assert {"metrics.jsonl", "players/proposer/metrics.jsonl"} <= set(before)


@pytest.mark.parametrize("compute", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_resuming_at_every_step(compute: str, base: Path, tmp_path: Path) -> None:
    few = {"num_problems": 20, "prompts_per_step": 12, "group_size": 6, "max_new_tokens": 6, "threads": 1, "eval_problems": 0}
    config = RLVRConfig(model=str(base), steps=4, save_every=1, compute_dtype=compute, **few)
    run("rlvr", config, tmp_path / "straight")

    class Stop(Exception):
        pass

    def stop(step: int, metrics: dict) -> None:
        raise Stop

    assert len({row["sparsity/bf16"] for row in contents(tmp_path / "straight")["metrics.jsonl"]}) == 4  # every step moves the weights
    for number in range(4):
        with pytest.raises(Stop):
            run("rlvr", config, tmp_path / "cut", resume=number > 0, on_step=stop)
        assert matched(tmp_path / "cut")["optimizer steps"]["happened"] == number + 1
    run("rlvr", config, tmp_path / "cut", resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")
    assert matched(tmp_path / "cut") == matched(tmp_path / "straight")


def matched(out: Path) -> dict[str, dict]:
    """The rows of the table of matching by name."""
    return {row["name"]: row for row in json.loads((out / "run.json").read_text())["matching"]["rows"]}


def test_a_resumed_run_computes_in_the_dtype_that_it_began_with(base: Path, tmp_path: Path, monkeypatch) -> None:
    """On a machine for which ``auto`` means another dtype too."""
    config = SFTConfig(model=str(base), steps=3, save_every=1, eval_problems=0, num_problems=20, batch_size=4, threads=1)

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


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_saves(number: int, error: type[BaseException], base: Path, tmp_path: Path) -> None:
    config = SFTConfig(model=str(base), steps=5, save_every=100, eval_problems=0, num_problems=20, batch_size=4, threads=1)

    def interrupt(step: int, metrics: dict) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(error):
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
    assert "was started with seed = 0, not 7" in capsys.readouterr().err
    assert cli(arguments("sft", base, out)) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert cli(arguments("rlvr", base, out, "--resume")) == 2
    assert "method = 'sft', not 'rlvr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "nothing"], "unknown; there are code, deduction"),
        (["--advantage", "grop"], "invalid choice 'grop' for argument '--advantage'. Expected one of ('grpo', 'dr_grpo', 'rloo', "),
        (["--model", "/nowhere"], "/nowhere: no such folder"),
        (["--steps", "0"], "--steps 0: must be a number of at least 1"),
        (["--learning-rate", "nan"], "must be a number"),
        (["--temperature", "0"], "all samples of a group would be the same"),
        (["--top-p", "0.9", "--num-iterations", "2"], "--top-p and --top-k"),
        (["--kl-cov", "0.002"], "--kl-cov 0.002: does nothing with --num-iterations 1"),
        (["--kl-cov", "2", "--num-iterations", "2"], "--kl-cov 2: is a fraction of the tokens"),
        (["--clip-ratio-c", "3"], "--clip-ratio-c 3: does nothing with --num-iterations 1"),
        (["--clip-ratio-c", "1", "--num-iterations", "2"], "--clip-ratio-c 1: must be above 1"),
        (["--decay-matrices-only"], "--decay-matrices-only: does nothing with --weight-decay 0"),
        (["--clip-cov", "1.5"], "--clip-cov 1.5: is a fraction of the tokens"),
        (["--eval-temperatures", "a"], "--eval-temperatures: 'a' is not a number"),
        (["--eval-temperatures", "1", "-1"], "--eval-temperatures 1 -1: must be one or more numbers of at least 0"),
        (["--loss-aggregation", "mean"], "invalid choice"),
        (["--compute-dtype", "float16"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(more: list[str], message: str, base: Path, tmp_path: Path, capsys) -> None:
    given = arguments("rlvr", base, tmp_path / "run", *more)
    assert cli(given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("dynamics.train: error")]) == 1


def test_a_dtype_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "bf16")
    assert cli(["sft", "--out", str(tmp_path / "run")]) == 2
    assert "DYNAMICS_COMPUTE_DTYPE=bf16: must be auto, float32 or bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run(base: Path, tmp_path: Path, capsys) -> None:
    assert cli(["rlvr", "--out", str(tmp_path / "run"), "--dry-run", "--model", str(base)]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["method"], settings["learning_rate"], settings["group_size"]) == ("rlvr", 1e-5, 8)
    assert not (tmp_path / "run").exists()


def refused(words: list[str], capsys) -> str:
    """Run a command that is refused, with and without --dry-run; return its only line, which is the same."""
    said = []
    for more in ([], ["--dry-run"]):
        assert cli([*words, *more]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        said.append(printed.err)
    assert said[0] == said[1]
    assert said[0].count("\n") == 1
    return said[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--task", "cod"], "unknown; there are code, deduction"),
        (["--task", "none.jsonl"], "none.jsonl: no such file"),
        (["--model", "/nowhere"], "/nowhere: no such folder"),
        (["--model", "run"], "run: is not a model that transformers can read: it has no config.json"),
        (["--model", "file"], "file: is a file; name the folder with config.json"),
        (["--out", "run"], "run: already contains a run; continue it with --resume"),
        (["--out", "run", "--resume"], "run: was started with steps = 7, not 3"),
        (["--out", "full"], "full: is not empty and contains no run"),
        (["--out", "file"], "file: is not a folder"),
        (["--out", "file/run"], "file is not a folder"),
        (["--device", "nonsense"], "--device nonsense: cannot be used here"),
        (["--json", "no/folder.json"], "the folder no does not exist"),
    ],
)
def test_dry_run_refuses_what_a_run_refuses(more: list[str], said: str, base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "full").mkdir()
    for file in ("file", "full/file"):
        (tmp_path / file).write_text("text")
    (tmp_path / "run/run.json").write_text(json.dumps({"method": "sft", "config": asdict(SFTConfig(model=str(base), steps=7))}))
    words = ["sft", "--out", "new", "--model", str(base), "--preset", "tiny", "--steps", "3"]
    assert said in refused([*words, *more], capsys)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("method", "more", "said"), [("rlvr", [], "row 1"), ("sft", [], "row 10"), ("sft", ["--eval-problems", "0"], "")])
def test_rows_without_an_answer_cannot_be_graded(method: str, more: list[str], said: str, base: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "<D>x+1<in>2<out>", "completion": "3"}\n' * 10)
    words = [method, "--out", str(tmp_path / "new"), "--model", str(base), "--task", str(file), "--preset", "tiny", *more]
    if said:
        assert f"mine.jsonl, {said}: has no answer to grade completions by" in refused(words, capsys)
    else:
        assert cli([*words, "--dry-run"]) == 0


def test_a_gradient_that_is_not_finite_stops_the_run(base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli([*arguments("sft", base, out), "--learning-rate", "1e30", "--warmup-steps", "0"]) == 2
    error = capsys.readouterr().err
    assert "not finite, in a batch with" in error or "logits are not finite" in error
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert (out / "checkpoints/step_000000/model.safetensors").exists()
    assert state.latest(out / "state") is not None


def test_a_verifier_that_fails_ends_the_run(base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dynamics.train.tasks.triplets.verify", lambda *_, **__: 1 / 0)
    assert cli(arguments("rlvr", base, tmp_path / "run")) == 2
    assert "failed on" in (stderr := capsys.readouterr().err)
    assert "ZeroDivisionError" in stderr


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "prompt of .*: is empty"), ("<D>" + "x+1" * 200, r"601 tokens and 2 new ones exceed .* 512 positions")],
)
def test_a_prompt_of_no_tokens_or_too_many(prompt: str, message: str, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": "<D>x+1<in>2<out>", "completion": "3"}, {"prompt": prompt, "completion": "3"}] * 40
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SFTConfig(model=str(base), task=str(file), steps=1, eval_problems=0, batch_size=4, probe_every=0)
    with pytest.raises(InputError, match=message):
        run("sft", config, tmp_path / "run")


def test_bfloat16_masters_move_less(compute: str, base: Path, tmp_path: Path) -> None:
    comparisons = {}
    for dtype in ("float32", "bfloat16"):
        config = SFTConfig(
            model=str(base), steps=3, eval_problems=0, num_problems=20, batch_size=4, learning_rate=1e-5, master_dtype=dtype, threads=1
        )
        config = replace(config, compute_dtype=compute)
        run("sft", config, tmp_path / dtype)
        folder = tmp_path / dtype / "checkpoints"
        comparisons[dtype] = sparsity.compare(folder / "step_000000", folder / "step_000003")
        assert set(comparisons[dtype].tuned.dtypes) == {dtype}
    assert comparisons["bfloat16"].total.sparsity["exact"] > comparisons["float32"].total.sparsity["exact"] + 0.3
