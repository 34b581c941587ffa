"""Offline folders of Weights & Biases, whose records the wandb package parses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dynamics.runs import open_run

RUNS = Path(__file__).parent.parent / "data" / "runs"


def test_a_run_whose_only_metrics_are_those_of_wandb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    run = open_run(RUNS / "trainer_wandb")
    assert [(checkpoint.step, checkpoint.path.name) for checkpoint in run.checkpoints] == [(None, "trainer_wandb")]
    assert run.notes == [
        "no metrics: reading the files of W&B needs wandb: pip install 'training-dynamics[runs]' (in a checkout: pip install -e '.[runs]')"
    ]


def test_metrics_and_settings() -> None:
    pytest.importorskip("wandb")
    from dynamics.runs.readers.wandb_files import run_files, scalars

    run = open_run(RUNS / "trainer_wandb")
    assert run.notes == []
    assert run.series("loss").index.tolist() == list(range(1, 7))
    assert run.series("held_out_loss").index.tolist() == [3, 6], "by the step of the optimizer, not that of W&B"
    assert (run.base, run.base_from) == (str(RUNS / "trl_base"), "settings in the logs, _name_or_path")
    assert [(checkpoint.step, checkpoint.path.name) for checkpoint in run.checkpoints] == [(6, "trainer_wandb")]
    (file,) = run_files(RUNS / "trainer_wandb")
    assert scalars(file.parent) == scalars(file.parent.parent) == scalars(RUNS / "trainer_wandb")


@pytest.mark.parametrize("kind", ["cut", "damaged", "other"])
def test_a_file_that_cannot_be_read_to_its_end(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("wandb")
    from dynamics.runs.readers.wandb_files import run_files, scalars

    folder = Path(shutil.copytree(RUNS / "trainer_wandb", tmp_path / "trainer_wandb"))
    whole = scalars(folder)
    (file,) = run_files(folder)
    data = bytearray(file.read_bytes())
    if kind == "cut":
        del data[-2000:]
    elif kind == "damaged":
        data[-2000] ^= 1
    else:
        data[:4] = b"none"
    file.write_bytes(data)
    notes: list[str] = []
    rows = scalars(folder, notes)
    assert rows == whole[: len(rows)]
    assert len(rows) < len(whole)
    assert len(notes) == (kind != "cut"), "an unfinished last record is that of a run that goes on"
