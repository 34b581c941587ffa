"""The commands of presets for GPUs are written out with memory and hours, and are ones that their engine would not refuse."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scaling_table

from analyses import launch, presets
from dynamics import InputError
from dynamics.train import command_line, cost
from dynamics.train.engines import choice

WORKED_OUT = [name for name, preset in presets.PRESETS.items() if preset.setup is not None]


def test_the_presets_of_the_paper_and_of_one_gpu_are_worked_out() -> None:
    assert WORKED_OUT == ["gpu", "paper", "paper-7b"]
    assert presets.made_with("paper") == ("paper", "paper-7b")


@pytest.mark.parametrize("preset", WORKED_OUT)
def test_every_run_fits_and_has_its_hours(preset: str) -> None:
    chosen = presets.PRESETS[preset]
    assert chosen.setup is not None
    for name, options in presets.plan(preset).items():
        config = command_line.parse([options[0], "--out", "x", *options[1:]]).config
        memory = cost.memory(config, cost.shape(config.model), chosen.setup)
        assert memory.fits, (name, memory.largest, memory.of(memory.largest))
    lines = presets.written_out(preset, Path("runs"))
    count = len(presets.plan(preset))
    assert lines[0].startswith(f"# {preset}: {count} runs on {chosen.setup.name}, one after the other: ")
    assert sum("at most, while " in line and f"fits in {chosen.setup.machine.name}" in line for line in lines) == count
    assert not any(f"NOT fit in {chosen.setup.machine.name}" in line for line in lines)
    hours = [float(found[1]) for line in lines if (found := re.match(r"# \S+-0: ([\d.]+) h \(", line))]
    assert len(hours) == count
    assert 0 < sum(hours) < 100
    assert [line for line in lines if not line.startswith("#")] == presets.commands(preset, Path("runs"))


@pytest.mark.parametrize("preset", ["paper", "paper-7b"])
def test_every_command_is_one_that_its_engine_starts(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment that accelerate makes from the configuration that the command names."""
    pytest.importorskip("trl")
    root = Path(presets.__file__).parent.parent
    for variable, value in {"WORLD_SIZE": "8", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(variable, value)
    for line in presets.commands(preset, Path("runs")):
        before, found, words = line.partition(" -m dynamics.train ")
        if found:
            assert before == "accelerate launch --config_file docs/accelerate/fsdp2.yaml"
            given = command_line.parse(words.split())
            choice.check(given.engine, given.processes, given.config)
            assert (given.engine, given.processes) == ("trl", 8)
    text = (root / "docs" / "accelerate" / "fsdp2.yaml").read_text()
    assert "fsdp_version: 2" in text
    assert "num_processes: 8" in text


@pytest.mark.parametrize(
    ("option", "message"), [("--entropy-coef 0.001", "--entropy-coef 0.001: its gradient"), ("--master-dtype bfloat16", "--master-dtype")]
)
def test_a_dry_run_refuses_what_the_engine_would(option: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = presets.PRESETS["paper"]
    monkeypatch.setitem(presets.PRESETS, "paper", replace(paper, grid={"wrong": option}, grid_methods=("rlvr",)))
    with pytest.raises(InputError, match=f"rlvr-wrong-0: {message}"):
        presets.written_out("paper", Path("runs"))


def test_the_page_has_the_tables_that_are_worked_out() -> None:
    text = scaling_table.PAGE.read_text(encoding="utf-8")
    assert scaling_table.filled(text) == text  # python docs/scaling_table.py


def test_writing_out_imports_no_torch() -> None:
    program = (
        "import sys; from analyses.__main__ import main; status = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    words = ["comparison", "--preset", "paper", "--dry-run"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen2.5-Coder-3B" in done.stdout
    assert "Qwen/Qwen2.5-Coder-7B" in done.stdout


def test_the_processes_of_a_run_are_started_by_a_module_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    starts = launch._start("paper")
    assert starts[0] == "-m"
    assert importlib.util.find_spec(starts[1]) is not None
    assert Path(starts[-1]).is_file()
    assert launch._start("gpu") == []
    seen: list[list[str]] = []
    said = "dynamics.train: error: FSDP: there is one process\n====\nFAILED\n===="

    class Children(launch.Children):
        def run(self, command):
            seen.append(list(command))
            return 1, said

    with pytest.raises(InputError, match=r"^rlvr-0: dynamics.train: error: FSDP: there is one process$"):
        launch.train_run(tmp_path / "rlvr-0", ["rlvr", "--seed", "0"], False, Children(), starts)
    assert seen == [[sys.executable, *starts, "-m", "dynamics.train", "rlvr", "--out", str(tmp_path / "rlvr-0"), "--seed", "0"]]
