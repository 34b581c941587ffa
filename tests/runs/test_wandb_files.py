"""Offline folders of Weights & Biases, whose records the wandb package parses."""

from __future__ import annotations

import shutil
import struct
import sys
import zlib
from pathlib import Path

import pytest

from dynamics.runs import open_run

RUNS = Path(__file__).parent.parent / "data" / "runs"


def test_a_run_whose_only_metrics_are_those_of_wandb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "wandb.proto", "wandb.proto.wandb_internal_pb2"):  # another test may have imported them
        monkeypatch.setitem(sys.modules, name, None)
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
    assert len(notes) == 1
    assert {"cut": "not complete", "damaged": "is damaged", "other": "does not begin"}[kind] in notes[0]


def test_records_of_several_parts(tmp_path: Path) -> None:
    """A part that ends no record, and one that begins within a record, are told; records before them are read."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    from dynamics.runs.readers.wandb_files import MAGIC, scalars

    def part(kind: int, body: bytes) -> bytes:
        return struct.pack("<IHB", zlib.crc32(bytes([kind]) + body), len(body), kind) + body

    record = Record()
    record.history.step.num = 3
    record.history.item.add(key="loss", value_json="0.5")
    body = record.SerializeToString()
    whole, first, middle, last = part(1, body), part(2, body[:4]), part(3, body[4:6]), part(4, body[6:])
    path = tmp_path / "run-1.wandb"
    for parts, count, fault in (
        ([whole, first, middle, last], 2, ""),
        ([whole, first, middle], 1, "its last record is not complete"),
        ([whole, first, whole], 1, "is damaged"),
        ([whole, last], 1, "is damaged"),
        ([whole, whole[:5]], 1, "its last record is not complete"),
        ([whole, bytes(20)], 1, "its last record is not complete"),  # a crash of the machine can leave zeros
    ):
        path.write_bytes(MAGIC + b"".join(parts))
        notes: list[str] = []
        assert scalars(tmp_path, notes) == [(3, "loss", 0.5)] * count
        assert len(notes) == bool(fault)
        assert fault in "".join(notes)
