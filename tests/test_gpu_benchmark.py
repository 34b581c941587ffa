"""The script for a GPU, on a processor: its pieces run and find no difference, its table names what failed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("piece", ["kernels", "spectra", "sparsity", "bf16"])
def test_a_piece_runs_on_a_processor_and_finds_itself_equal(piece: str, gpu: ModuleType) -> None:
    rows = gpu.PIECES[piece]("cpu", True)
    assert len(rows) >= 2
    assert [row for row in rows if row.verdict != "ok"] == []
    assert all(row.value is not None for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["fsdp2", "sft", "rlvr"])
def test_a_piece_with_processes_of_its_own_runs(piece: str, gpu: ModuleType) -> None:
    pytest.importorskip("trl")
    rows = gpu.run(piece, "cpu", True)
    assert [row for row in rows if row.verdict != "ok"] == []


def test_every_piece_has_its_line_in_the_help(gpu: ModuleType) -> None:
    listed = {word.strip() for line in gpu.__doc__.splitlines() for word in line[:12].split(",")}
    assert set(gpu.PIECES) <= listed


def test_what_needs_more_gpus_is_skipped_by_name(gpu: ModuleType) -> None:
    assert [row.verdict for row in gpu.PIECES["launch"]("cpu", True)] == ["skipped: 0 GPUs here, and sharding needs two"]


def test_a_difference_above_its_bound_fails(gpu: ModuleType) -> None:
    assert gpu.line(gpu.within("x", 1e-3, 1e-2, "nats", "float32")) == "| x | 0.001 | nats | float32, at most 0.01 | 0.1 | ok |"
    assert gpu.within("x", 0.02, 1e-2, "nats", "float32").verdict == "failed: above 0.01"
    assert gpu.within("x", float("nan"), 1e-2, "nats", "float32").verdict == "failed: above 0.01"


def test_a_piece_that_fails_does_not_stop_the_others(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def run(name: str, device: str, small: bool) -> list:
        return [gpu.Row(name, None, "", "", None, "failed: memory ran out" if name == "spectra" else "ok")]

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--only", "kernels", "spectra", "bf16"])
    assert gpu.main() == 1
    out = capsys.readouterr().out
    assert "| spectra |  |  |  |  | failed: memory ran out |\n| bf16 |" in out
    assert out.endswith("2 ok, 1 failed, 0 skipped\n")


def test_a_piece_that_dies_is_a_row(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    died = subprocess.CompletedProcess([], 1, "", "Traceback\n  line\nRuntimeError: CUDA out of memory | sorry\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    assert gpu.run("kernels", "cuda", False) == [gpu.Row("kernels", None, "", "", None, "failed: RuntimeError: CUDA out of memory / sorry")]


def test_without_a_gpu_the_script_says_so() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    done = subprocess.run([str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no GPU here")
