"""Run directories written by hand, and a reader of them, for the tests of reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import write_safetensors

from dynamics.runs import Run, SavedCheckpoint, Settings

SHAPES = {
    "model.embed_tokens.weight": (12, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
}
#: name of the file that the reader knows its directories by
MARK = "by_hand.json"


def weights(seed: int, update: float = 0.0) -> dict[str, np.ndarray]:
    """The weights of a small model, and of an update of it."""
    rng, other = np.random.default_rng(0), np.random.default_rng(seed)
    return {name: (rng.normal(size=shape) + update * other.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def write_checkpoint(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_run(folder: Path, seed: int = 1, steps: tuple[int, ...] = (10, 20, 30), **fields: object) -> Path:
    """Write a run with checkpoints that move away from the base, which lies beside the run."""
    folder.mkdir(parents=True)
    write_checkpoint(folder.parent / "base", weights(0))
    for step in steps:
        write_checkpoint(folder / f"checkpoint-{step}", weights(seed, 1e-3 * step))
    (folder / MARK).write_text(json.dumps({"base": str(folder.parent / "base")} | fields))
    return folder


def read(folder: Path) -> Run | None:
    """Read a directory that ``write_run`` wrote, as a module of ``dynamics.runs.readers`` does."""
    if not (folder / MARK).exists():
        return None
    fields = json.loads((folder / MARK).read_text())
    checkpoints = [SavedCheckpoint(int(path.name.partition("-")[2]), path) for path in folder.glob("checkpoint-*")]
    run = Run(folder, "a trainer by hand", "grpo", MARK, checkpoints=sorted(checkpoints, key=lambda saved: saved.step or 0))
    run.settings = Settings(**fields.pop("settings", {"learning_rate": 1e-5, "steps": 30}))
    for name, value in fields.items():
        setattr(run, name, value)
    return run


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``open_run`` know the directories of ``write_run``."""
    module = ModuleType("dynamics.runs.readers.by_hand")
    module.read, module.LOOKED_FOR = read, MARK  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("dynamics.runs.open.READERS", ("by_hand",))


def run_of(folder: Path, seed: int = 1, **fields: object) -> Run:
    """Write a run as ``write_run`` does, and read it."""
    run = read(write_run(folder, seed, **fields))  # type: ignore[arg-type]
    assert run is not None
    return run
