"""Comparisons by the workers of a Dask scheduler equal those of one process; workers that die or fail, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

pytest.importorskip("distributed", reason="needs dask[distributed], the extra `cluster`")

from dynamics.cluster import scheduler
from dynamics.errors import InputError
from dynamics.overlap.__main__ import cli as overlap
from dynamics.sparsity.__main__ import cli as sparsity

DATA = Path(__file__).parents[1] / "data"
LAYERS = 12


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a scheduler with two workers that are threads of this process."""
    from distributed import LocalCluster

    options = {"processes": False, "dashboard_address": ":0", "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, protocol="tcp", host="127.0.0.1", **options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scheduler, "LEAST", 1)  # as large checkpoints have more tasks than one
    return tmp_path / "cache" / "cluster"


@pytest.fixture
def files(tmp_path) -> list[str]:
    rng = np.random.default_rng(3)
    sides = [{}, {}, {}]
    for layer in range(LAYERS):
        value = rng.normal(size=(16, 16)).astype(np.float32)
        for side, scale in zip(sides, (1, 1.001, 0.99), strict=True):
            side[f"model.layers.{layer}.mlp.up_proj.weight"] = value * np.float32(scale)
    return [str(write_safetensors(tmp_path / f"{name}.safetensors", side)) for name, side in zip("abc", sides, strict=True)]


def both(command, arguments, tmp_path: Path, address: str) -> None:
    """Compare the report of one process with that of the workers."""
    one, many = (str(tmp_path / f"{name}.json") for name in ("one", "many"))
    assert command([*arguments, "--json", one]) == 0
    assert command([*arguments, "--scheduler", address, "--json", many]) == 0
    assert Path(many).read_bytes() == Path(one).read_bytes()


def test_sparsity_and_overlap_equal_those_of_one_process(files, tmp_path, address):
    both(sparsity, files[:2], tmp_path, address)
    both(sparsity, files, tmp_path, address)  # a series
    both(overlap, files, tmp_path, address)


def test_spectra_equal_those_of_one_process(files, tmp_path, address):
    pytest.importorskip("torch")
    from dynamics.spectra.__main__ import cli as spectra

    both(spectra, [*files[:2], "--subspace", "4"], tmp_path, address)


def instead_of(monkeypatch, module, name: str, function) -> None:
    """Replace a function of a module, also where a task names it: workers here are threads."""
    function.__module__, function.__qualname__ = module.__name__, name
    monkeypatch.setattr(module, name, function)


def test_what_was_finished_is_kept(files, tmp_path, address, cache, monkeypatch, capsys):
    """Memory runs out at one tensor; the same command then computes what is missing, although a kill left half a line in what was kept."""
    whole, computed = scheduler._tallies, []

    def failing(*arguments):
        if 5 in arguments[-1]:
            time.sleep(0.5)
            raise MemoryError
        return whole(*arguments)

    def counting(*arguments):
        computed.extend(arguments[-1])
        return whole(*arguments)

    instead_of(monkeypatch, scheduler, "_tallies", failing)
    assert sparsity([*files[:2], "--scheduler", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"worker {socket.gethostname()}" in line
    assert "memory ran out" in line
    (kept,) = cache.iterdir()
    with open(kept, "ab") as file:
        file.write(b'{"tally":{"beyond')
    instead_of(monkeypatch, scheduler, "_tallies", counting)
    both(sparsity, files[:2], tmp_path, address)
    assert f"{LAYERS - len(computed)} of {LAYERS} are kept from an earlier run" in capsys.readouterr().err
    assert 5 in computed
    assert len(computed) == len(set(computed)) < LAYERS


def test_other_files_or_settings_are_not_what_was_kept(files, tmp_path, address, cache):
    for arguments in ([], ["--rtol", "0.01"]):
        both(sparsity, [*files[:2], *arguments], tmp_path, address)
    content = bytearray(Path(files[1]).read_bytes())
    content[-3] ^= 255
    Path(files[1]).write_bytes(content)
    both(sparsity, files[:2], tmp_path, address)
    assert len(list(cache.iterdir())) == 3


def test_a_worker_that_sees_other_files_is_named(files, address, monkeypatch, capsys):
    from dynamics.sparsity import parts

    whole = parts.open_work
    caller = threading.current_thread()

    def elsewhere(sources, settings):
        return whole(sources if threading.current_thread() is caller else [sources[0], files[2]], settings)

    instead_of(monkeypatch, parts, "open_work", elsewhere)
    assert sparsity([*files[:2], "--scheduler", address]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"worker {socket.gethostname()}" in line
    assert "other values" in line


def test_a_file_that_a_worker_lacks_is_named(files, address, monkeypatch, capsys):
    from dynamics.sparsity import parts

    whole = parts.open_work
    caller = threading.current_thread()

    def elsewhere(sources, settings):
        return whole(sources if threading.current_thread() is caller else [sources[0], "/not/there.safetensors"], settings)

    instead_of(monkeypatch, parts, "open_work", elsewhere)
    assert sparsity([*files[:2], "--scheduler", address]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"worker {socket.gethostname()}" in line
    assert "/not/there.safetensors" in line


def test_no_scheduler_is_one_line(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "PATIENCE", 1)
    for where, expected in (("tcp://127.0.0.1:9", "no scheduler answers"), (str(tmp_path / "none.json"), "no such file")):
        assert sparsity([*files[:2], "--scheduler", where]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line


def test_without_dask_the_extra_is_named(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert sparsity([*files[:2], "--scheduler", "local"]) == 2
    assert "cluster" in capsys.readouterr().err


def test_the_runs_of_a_comparison_wait_for_what_they_start_from(tmp_path, address, monkeypatch):
    pytest.importorskip("torch")
    from analyses import launch

    order: list[str] = []

    def train_run(target, options, discard, children, starts):
        time.sleep(0.3 if target.name in ("base", "rlvr-0") else 0)
        if target.name == "failing":
            raise InputError("failing: no such task")
        order.append(target.name)
        target.mkdir()
        (target / "run.json").write_text("{}")

    monkeypatch.setattr(launch, "train_run", train_run)
    runs = {"base": ["sft"], "rlvr-0": ["rlvr"], "sft-0": ["sft", "--task", f"correct:{tmp_path / 'rlvr-0'}"], "rlvr-1": ["rlvr"]}
    launch._train_on_cluster(address, 2, tmp_path, runs, set(), launch._Progress(4), launch._start("quick"))
    assert order[0] == "base"
    assert order.index("rlvr-0") < order.index("sft-0")
    with pytest.raises(InputError, match=f"worker {socket.gethostname()}.*failing: no such task"):
        launch._train_on_cluster(address, 2, tmp_path, {"failing": ["sft"]}, set(), launch._Progress(1), launch._start("quick"))


# processes of their own


#: a worker that says who it is, and hangs, at its second task
HANGING = """
import os, pathlib, time
from dynamics.cluster import scheduler
whole, calls = scheduler._tallies, []
def hanging(*arguments):
    calls.append(arguments[-1])
    if len(calls) == 2:
        pathlib.Path(os.environ["HANGING"]).write_text(str(os.getpid()))
        time.sleep(600)
    return whole(*arguments)
scheduler._tallies = hanging
"""


def wait_for(path: Path, seconds: float = 300) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.05)
    return path.read_text()


@pytest.fixture
def processes(tmp_path) -> Iterator[str]:
    """Start `dask scheduler` and two times `dask worker`, of which one hangs at its second task; return the scheduler's file."""
    file, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "dask"]
    (tmp_path / "hanging.py").write_text(HANGING)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"HANGING": str(tmp_path / "pid")}}
    worker = [
        *dask,
        "worker",
        "--scheduler-file",
        str(file),
        "--no-nanny",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--local-directory",
        str(tmp_path),
    ]
    local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    started = [subprocess.Popen([*dask, "scheduler", *local, "--scheduler-file", str(file)], **quiet)]
    try:
        wait_for(file)
        started.append(subprocess.Popen([*worker, "--preload", str(tmp_path / "hanging.py")], **quiet))
        started.append(subprocess.Popen(worker, **quiet))
        yield str(file)
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(files, tmp_path, processes, monkeypatch):
    """The checkpoints are named by relative paths, which workers in other folders would not find."""
    from distributed import Client

    with Client(scheduler_file=processes, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=300)

    def kill() -> None:
        os.kill(int(wait_for(tmp_path / "pid")), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    monkeypatch.chdir(tmp_path)
    both(sparsity, ["a.safetensors", "b.safetensors"], tmp_path, processes)
    killer.join()
    assert json.loads((tmp_path / "many.json").read_text())["total"]["numel"] == LAYERS * 256


def parent_of(text: str) -> int:
    """Find the process with a text among its arguments, and return the one that started it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if text.encode() in arguments:
                    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    raise AssertionError(f"no process has the argument {text}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_run_whose_worker_is_killed_equals_one_that_ran_through(tmp_path, processes):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from train.helpers import contents

    from analyses import launch

    words = ["rlvr", "--model", str(DATA / "base"), "--steps", "12", "--save-every", "1", "--eval-problems", "4", "--eval-samples", "2"]
    words += ["--prompts-per-step", "6", "--group-size", "4", "--num-problems", "20", "--max-new-tokens", "6", "--probe-every", "0"]
    words += ["--threads", "1"]
    (tmp_path / "one").mkdir()
    launch.train_run(tmp_path / "one" / "rlvr-0", words, False, launch.Children())
    many, killed = tmp_path / "many", []

    def kill() -> None:
        wait_for(many / "rlvr-0" / "metrics.jsonl")
        killed.append(parent_of(str(many / "rlvr-0")))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launch._train_on_cluster(processes, 2, many, {"rlvr-0": words}, set(), launch._Progress(1), launch._start("quick"))
    killer.join()
    assert killed
    assert contents(many / "rlvr-0") == contents(tmp_path / "one" / "rlvr-0")


@pytest.mark.slow
def test_local_starts_processes_of_its_own(files, tmp_path):
    one, many = (str(tmp_path / f"{name}.json") for name in ("one", "many"))
    command = [sys.executable, "-m", "dynamics.sparsity", *files[:2]]
    subprocess.run([*command, "--json", one], check=True, capture_output=True)
    done = subprocess.run([*command, "--scheduler", "local", "--json", many], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, f"wrote {many}\n")
    assert Path(many).read_bytes() == Path(one).read_bytes()
