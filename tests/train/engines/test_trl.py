"""Runs on two processes by TRL, against the same on one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("datasets")

from dynamics.train.__main__ import cli

HERE = Path(__file__).parent
CONFIGURATIONS = HERE.parents[2] / "docs" / "accelerate"
SELFPLAY = [
    "selfplay", "--steps", "4", "--save-every", "1", "--eval-problems", "6", "--eval-samples", "2", "--threads", "1", "--device", "cpu",
    "--eval-temperatures", "1", "0", "--prompts-per-step", "4", "--group-size", "4", "--max-proposal-tokens", "40", "--num-seed-tasks", "6",
    "--probe-every", "2", "--learning-rate", "1e-3", "--curriculum-samples", "0", "--validate-every", "2", "--validation-problems", "6",
]  # fmt: skip


def torchrun(words: list[str], processes: int = 2) -> list[str]:
    """Return a command line that starts processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *words]


def accelerate(*options: str) -> list[str]:
    """Return a command line of accelerate's launcher."""
    return [sys.executable, "-m", "accelerate.commands.launch", *options]


def launch(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start two processes by torchrun."""
    return launch(torchrun(words), log)


def train(*more: str) -> list[str]:
    """Return the words of a run of self-play on two processes."""
    return ["-m", "dynamics.train", *SELFPLAY, "--engine", "trl", "--processes", "2", *more]


def lines(run: Path) -> list[dict]:
    """Read the metrics of a run, but for its times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "seconds" not in name and not name.startswith("time/")} for row in rows]


def assert_same(one: Path, other: Path) -> None:
    """Assert that two runs sampled the same, remember the same, and measured the same but for rounding."""
    for a, b in zip(lines(one), lines(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, float):
                assert value == pytest.approx(b[name], rel=2e-3, abs=2e-4), name
            else:
                assert value == b[name], name
    for step in range(1, 5):
        rows = [[json.loads(line) for line in (run / f"rollouts/step_{step}.jsonl").read_text().splitlines()] for run in (one, other)]
        assert [row["completion_ids"] for row in rows[0]] == [row["completion_ids"] for row in rows[1]]
    states = [json.loads((run / "state/step_000004/state.json").read_text()) for run in (one, other)]
    assert states[0] == states[1]  # the buffer, and what else the game remembers
    assert sorted(path.name for path in (one / "evals").iterdir()) == sorted(path.name for path in (other / "evals").iterdir())


def until(condition, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something holds of a process that runs."""
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """List the processes that torchrun has started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(value.removeprefix(b"RANK=")): int(child) for value in variables if value.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def kill(processes: list[int]) -> None:
    """Kill processes, and wait until they are gone."""
    for number in processes:
        os.kill(number, signal.SIGKILL)
    while any(Path(f"/proc/{number}/fd/0").exists() for number in processes):
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory) -> Path:
    """Return a run of self-play on one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert cli([*SELFPLAY, "--model", str(base), "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("sharding", ["", "fsdp2"])
def test_two_processes_compute_the_update_of_one(sharding: str, tmp_path: Path) -> None:
    """In every objective: gradients tensor by tensor, weights and optimizer after four steps, what was measured, what was sampled."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), *sys.path])}
    words = torchrun([str(HERE / "worker.py"), str(tmp_path / "found.json"), sharding])
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == 2
    assert found["added up in"] == ("torch.bfloat16, torch.float32" if sharding else "")
    for case, differences in found["cases"].items():
        assert all(differences[name] for name in ("names", "clips", "sampled", "decoder")), case
        assert differences["steps"] in (3, 4, 6, 8), case
        assert differences["gradient"] < 1e-5, case
        assert differences["weights"] < 5e-5 < 1e-3 < differences["moved"], case
        assert differences["tokens"] < 5e-5, case
        assert differences["state"] < 5e-5, case


def test_a_run_on_two_processes_is_that_of_one_also_when_killed(base: Path, alone: Path, tmp_path: Path) -> None:
    """All processes are killed in the middle; the run goes on with one, by the other engine."""
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(train("--model", str(base), "--out", str(out)), log)
    until((out / "state/step_000002").exists, process, log)
    kill([process.pid, *workers(process)])
    process.wait()
    assert len(lines(out)) < 5
    assert cli([*SELFPLAY, "--model", str(base), "--out", str(out), "--resume"]) == 0
    assert_same(alone, out)
    document = json.loads((out / "run.json").read_text())
    assert document["engine"] == {"name": "local", "processes": 1}
    assert [note for note in document["notes"] if "before --engine trl --processes 2: the order of sums changes" in note]


@pytest.mark.slow
def test_a_run_that_began_on_one_process_goes_on_with_two(base: Path, alone: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    words = ["-m", "dynamics.train", *SELFPLAY, "--model", str(base), "--out", str(out)]
    process = subprocess.Popen([sys.executable, *words], start_new_session=True)
    until((out / "state/step_000001").exists, process, log)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(train("--model", str(base), "--out", str(out), "--resume"), log).wait() == 0, log.read_text()
    assert_same(alone, out)


@pytest.mark.slow
def test_accelerate_starts_the_processes_of_the_configuration_in_the_manual(base: Path, alone: Path, tmp_path: Path) -> None:
    options = ["--config_file", str(CONFIGURATIONS / "ddp.yaml"), "--num_processes", "2", "--main_process_port", "0"]
    process = launch([*accelerate(*options), *train("--model", str(base), "--out", str(tmp_path / "run"))], tmp_path / "log")
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    assert_same(alone, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpu"], "--processes 2: 1 is there; start with torchrun"),  # it starts one process, whatever number is asked for
        (["--config_file", str(CONFIGURATIONS / "fsdp2.yaml")], "FSDP2 was asked for, and accelerate runs MULTI_CPU"),
    ],
)
def test_what_accelerate_does_not_do_is_refused(options: list[str], message: str, base: Path, tmp_path: Path) -> None:
    words = [*accelerate("--num_processes", "2", *options), *train("--model", str(base), "--out", str(tmp_path / "run"))]
    assert launch(words, tmp_path / "log").wait(300) != 0
    log = (tmp_path / "log").read_text()
    assert message in log


@pytest.mark.slow
@pytest.mark.parametrize("method", ["seirenes", "spc", "pasodoble", "populora"])
def test_a_game_on_two_processes_is_that_on_one(method: str, tmp_path: Path) -> None:
    """What was measured is equal but for rounding, in two steps of the laboratory: later ones differ once a sampled token does."""
    words = [method, "--model", "lab", "--steps", "2", "--eval-problems", "0", "--threads", "1", "--device", "cpu"]
    assert cli([*words, "--out", str(tmp_path / "one")]) == 0
    more = ["--engine", "trl", "--processes", "2", "--out", str(tmp_path / "two")]
    process = start(["-m", "dynamics.train", *words, *more], tmp_path / "log")
    assert process.wait(600) == 0, (tmp_path / "log").read_text()
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_if_a_process_dies_all_end(rank: int, base: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(train("--model", str(base), "--out", str(out), "--steps", "400"), log)
    until((out / "state/step_000001").exists, process, log)
    started = workers(process)
    os.kill(started[rank], signal.SIGKILL)
    begin = time.monotonic()
    assert process.wait(60) != 0
    assert time.monotonic() - begin < 30
    assert not any(Path(f"/proc/{worker}").exists() for worker in started)
    said = [line for line in log.read_text().splitlines() if line.startswith("dynamics.train: error")]
    assert len(said) == 1
    assert "has ended" in said[0]


@pytest.mark.slow
def test_a_signal_saves_the_state_and_ends_all(base: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(train("--model", str(base), "--out", str(out), "--steps", "400"), log)
    until((out / "state/step_000001").exists, process, log)
    os.kill(process.pid, signal.SIGTERM)  # torchrun sends it on
    assert process.wait(60) != 0
    steps = len(lines(out)) - 1
    assert (out / f"state/step_{steps:06d}").exists()
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert "the state after step" in log.read_text()


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["--engine", "trl", "--processes", "2"], {}, "--processes 2: 1 is there"),
        (["--engine", "trl"], {"ACCELERATE_USE_FSDP": "true"}, "FSDP: --engine trl shards weights by FSDP2 only"),
        (["--engine", "trl"], {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP: there is one process"),
        (["--engine", "trl"], {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed: has an optimizer of its own"),
        (["--engine", "trl", "--entropy-coef", "0.1"], {}, "--entropy-coef 0.1: its gradient"),
        (["--engine", "trl", "--master-dtype", "bfloat16"], {}, "--master-dtype bfloat16: --engine trl"),
        (["--processes", "2"], {}, "--engine local is one process, and there are 2"),
        ([], {"WORLD_SIZE": "2", "RANK": "0"}, "--engine local is one process, and there are 2"),
        (["--engine", "trl", "--processes", "0"], {}, "--processes 0: must be at least 1"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_not_in_force_is_refused(words, environment, message, dry, base, tmp_path, monkeypatch, capsys) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status = cli(["rlvr", "--model", str(base), "--out", str(tmp_path / "run"), *words, *(["--dry-run"] if dry else [])])
    error = capsys.readouterr().err
    assert status == 2
    assert [line for line in error.splitlines() if "error" in line] == error.splitlines()[-1:]
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_rows_are_padded_on_the_right_and_idle_ones_are_in_no_loss() -> None:
    torch = pytest.importorskip("torch")
    from dynamics.train.engines.trl import Row, tensors

    rows = [Row(np.array([5, 6, 7]), np.array([8, 9]), np.array([0.5, -1.0])), Row(np.array([5]), np.array([2]), np.array([2.0]))]
    made = tensors(rows, 3, 1, torch.device("cpu"))
    assert made["prompt_ids"].tolist() == [[5], [5], [0]]
    assert made["completion_ids"].tolist() == [[6, 7, 8, 9], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert made["completion_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert made["tool_mask"].tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert made["advantages"].tolist() == [[0, 0, -0.5, 1], [-2, 0, 0, 0], [0, 0, 0, 0]]
