"""Signals at any moment: a run saves and ends in one line, with the status of the signal, and resumes to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.cli.command import run as run_command
from dynamics.train import state
from dynamics.train.config import SelfPlayConfig, SFTConfig
from dynamics.train.loop import Run, run
from train.helpers import contents

SMALL = {"eval_problems": 0, "num_problems": 20, "batch_size": 4, "threads": 1, "probe_every": 0}


def config(base: Path, **more) -> SFTConfig:
    return SFTConfig(**({"model": str(base), "steps": 4, "save_every": 2, **SMALL} | more))


def ended(main: Callable[[], object], capsys) -> tuple[int, str]:
    """Run as a command does; return its status and what it said, which is one line."""
    status = run_command("dynamics.train", lambda _: main() and None, [])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return status, said


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def assert_no_leftovers(out: Path) -> None:
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted"),
                                                        (signal.SIGHUP, 129, "terminated")])  # fmt: skip
def test_a_signal_saves_and_ends_in_one_line(number: int, status: int, word: str, base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    once = ended(lambda: run("sft", config(base), out, on_step=lambda step, _: send(number) if step == 1 else None), capsys)
    assert once == (status, f"dynamics.train: {word}: the state after step 1 is saved; continue with --resume\n")
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert [path.name for path in (out / "state").iterdir()] == ["step_000001"]
    assert_no_leftovers(out)


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["saving", "writing metrics", "writing run.json", "the optimizer"])
def test_a_second_signal_ends_at_once_and_corrupts_nothing(
    moment: str, second: int, base: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, straight = tmp_path / "run", tmp_path / "straight"
    run("sft", config(base), straight)
    torch = pytest.importorskip("torch")
    armed = []

    def in_the_midst(target: object, name: str) -> None:
        real = getattr(target, name)

        def interrupted(*arguments, **more):
            result = real(*arguments, **more)
            if armed:
                armed.clear()
                send(second)
            return result

        monkeypatch.setattr(target, name, interrupted)

    places = {
        "saving": (torch, "save"),
        "writing metrics": (os, "write"),
        "writing run.json": (os, "fsync"),
        "the optimizer": (torch.optim.AdamW, "step"),
    }
    in_the_midst(*places[moment])

    def on_step(step: int, _: object) -> None:
        if step == 3:
            send(signal.SIGTERM)
            armed.append(True)

    if moment in ("writing metrics", "the optimizer"):  # the first signal comes in a step, the second in the same one

        def on_step(step: int, _: object) -> None:
            if step == 2:
                armed.append(True)

        real_next = Run.one_step

        def one_step(self: Run) -> dict:
            if self.step == 2:
                send(signal.SIGTERM)
            return real_next(self)

        monkeypatch.setattr(Run, "one_step", one_step)
    status, said = ended(lambda: run("sft", config(base), out, on_step=on_step), capsys)
    assert status == 128 + second
    assert "the state after step " in said
    monkeypatch.undo()
    assert_no_leftovers(out)
    run("sft", config(base), out, resume=True)
    assert contents(out) == contents(straight)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["base", "sft, 4 steps"])
def test_a_signal_in_an_evaluation_stops_at_once(which: str, base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out, straight = tmp_path / "run", tmp_path / "straight"
    settings = config(base, eval_problems=6, eval_samples=2)
    run("sft", settings, straight)
    capsys.readouterr()
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    real = Run.evaluate_at_temperatures
    reached = []

    def evaluate(self: Run, name: str, temperatures) -> None:
        if name == which:
            reached.append(name)
            send(signal.SIGTERM)
            time.sleep(0.001)
            reached.append("too late")
        real(self, name, temperatures)

    monkeypatch.setattr(Run, "evaluate_at_temperatures", evaluate)
    status, said = ended(lambda: run("sft", settings, out), capsys)
    assert status == 143
    saved = "no step is saved" if which == "base" else "the state after step 4 is saved"
    assert said == f"dynamics.train: terminated: {saved}; continue with --resume\n"
    assert reached == [which]
    monkeypatch.undo()
    run("sft", settings, out, resume=True)
    assert contents(out) == contents(straight)


def test_a_signal_in_the_last_step_stops_before_the_evaluation(base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(Run, "evaluate_at_temperatures", lambda self, name, _: None if name == "base" else pytest.fail(name))
    status, _ = ended(lambda: run("sft", config(base, steps=1), out, on_step=lambda *_: send(signal.SIGTERM)), capsys)
    assert status == 143
    assert state.latest(out / "state").name == "step_000001"


@pytest.mark.slow
def test_a_signal_while_proposals_are_validated(base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    from dynamics.train.sandbox.runner import ProgramRunner

    settings = SelfPlayConfig(model=str(base), steps=3, save_every=1, eval_problems=0, threads=1, probe_every=0, prompts_per_step=4,
                              group_size=4, max_proposal_tokens=40, num_seed_tasks=6, curriculum_samples=0)  # fmt: skip
    run("selfplay", settings, tmp_path / "straight")
    real, calls = ProgramRunner.run_deterministic, []

    def run_deterministic(self: ProgramRunner, programs):
        calls.append(len(programs))
        if len(calls) == 3:
            send(signal.SIGTERM)
        return real(self, programs)

    monkeypatch.setattr(ProgramRunner, "run_deterministic", run_deterministic)
    status, _ = ended(lambda: run("selfplay", settings, tmp_path / "cut"), capsys)
    assert status == 143
    monkeypatch.undo()
    run("selfplay", settings, tmp_path / "cut", resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")


@pytest.mark.slow
def test_a_signal_while_the_sandbox_works(capsys) -> None:
    from dynamics.train.sandbox.host import Sandbox, SandboxUnavailable

    try:
        Sandbox(workers=1).close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))

    def work() -> None:
        with Sandbox(workers=1) as sandbox:
            threading.Timer(0.5, send, [signal.SIGTERM]).start()
            sandbox.run("def f():\n    while True:\n        pass", [()], timeout=5.0)
            pytest.fail("was not stopped")

    begin = time.monotonic()
    assert ended(work, capsys) == (143, "dynamics.train: terminated\n")
    assert time.monotonic() - begin < 60
    assert b"confined.py" not in subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args"], capture_output=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_gets_a_signal_at_any_time(number: int, base: Path, tmp_path: Path) -> None:
    """While modules and the model are loaded, in the evaluation, in steps, while it saves: never a traceback, and it always resumes."""
    out, straight = tmp_path / "run", tmp_path / "straight"
    words = ["sft", "--model", str(base), "--steps", "40", "--save-every", "1", "--eval-problems", "6", "--eval-samples", "2"]
    words += ["--threads", "1", "--batch-size", "4", "--num-problems", "20", "--probe-every", "0", "--device", "cpu"]
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom dynamics.train.__main__ import cli\n"
    program += "print('ready', flush=True); sys.exit(cli())"
    for delay in (0.5, 1.5, 3.0, 5.0, 7.0, 9.0):
        more = ["--resume"] if (out / "run.json").exists() else []
        command = [sys.executable, "-c", program, *words, "--out", str(out), *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
        assert "Traceback" not in error
        assert process.returncode in (128 + number, 0), error
        assert_no_leftovers(out)
    more = ["--resume"] if (out / "run.json").exists() else []
    for target, resumed in ((out, more), (straight, [])):
        command = [sys.executable, "-m", "dynamics.train", *words, "--out", str(target), *resumed]
        subprocess.run(command, check=True, capture_output=True)
    assert contents(out) == contents(straight)
