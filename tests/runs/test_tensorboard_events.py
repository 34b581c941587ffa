"""TensorBoard's event files, read by the tensorboard package."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util.tensor_util import make_tensor_proto

from dynamics.errors import InputError
from dynamics.runs.readers.tensorboard_events import LARGEST, event_files, read_events, scalars

RUNS = Path(__file__).parent.parent / "data" / "runs"


def framed(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    return head + struct.pack("<I", masked_crc32c(head)) + record + struct.pack("<I", masked_crc32c(record))


def write(path: Path, *values: tuple[int, str, object], time: float = 1.0) -> None:
    """Write an event file, in which a number is written as TensorFlow 1 and torch do, and anything else as a tensor."""
    records = [Event(wall_time=time, file_version="brain.Event:2")]
    for step, tag, value in values:
        event = Event(wall_time=time, step=step)
        entry = event.summary.value.add(tag=tag)
        if isinstance(value, float):
            entry.simple_value = value
        else:
            entry.tensor.CopyFrom(make_tensor_proto(value))
        records.append(event)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(framed(record.SerializeToString()) for record in records))


def test_steps_that_a_resumed_run_made_again_count_once() -> None:
    notes: list[str] = []
    events = read_events(event_files(RUNS / "trainer"), notes)
    assert [step for step, name, _ in events.rows if name == "train/loss"] == list(range(1, 13))
    assert notes == []
    assert '"output_dir": "trainer"' in events.texts["args"]


def test_files_are_read_in_the_order_of_their_beginning(tmp_path: Path) -> None:
    write(tmp_path / "a" / "events.out.tfevents.9.host", (2, "loss", 5.0), (3, "loss", 4.0), time=9.0)
    write(tmp_path / "b" / "events.out.tfevents.1.host", (1, "loss", 9.0), (2, "loss", 8.0), (4, "loss", 1.0), (4, "eval", 7.0), time=1.0)
    write(tmp_path / "checkpoint-5" / "events.out.tfevents.1.host", (1, "loss", 0.0))
    rows = read_events(event_files(tmp_path), []).rows
    assert rows == [(1, "loss", 9.0), (4, "eval", 7.0), (2, "loss", 5.0), (3, "loss", 4.0)]
    assert read_events(event_files(tmp_path), []).dropped == {2: 1, 4: 1}
    assert scalars(tmp_path) == []
    assert scalars(tmp_path / "a") == [(2, "loss", 5.0), (3, "loss", 4.0)]


def test_tensors_of_one_number_are_scalars_and_others_are_not(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    write(
        tmp_path / "events.out.tfevents.1.host",
        (1, "float", numpy.float32(0.5)),
        (1, "double", numpy.array([0.25])),
        (1, "whole", numpy.int64(3)),
        (1, "image", numpy.zeros((2, 2))),
        (1, "args/text_summary", numpy.array([b"{}"])),
    )
    events = read_events(event_files(tmp_path), [])
    assert events.rows == [(1, "float", 0.5), (1, "double", 0.25), (1, "whole", 3.0)]
    assert events.texts == {"args": "{}"}


def test_an_unfinished_last_record_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    write(path, (1, "loss", 1.0))
    start = path.stat().st_size
    write(path, (1, "loss", 1.0), (2, "loss", 2.0))
    data = path.read_bytes()
    for end in (start + 1, start + 11, start + 12, len(data) - 4, len(data) - 1):
        path.write_bytes(data[:end])
        notes: list[str] = []
        assert scalars(tmp_path, notes) == [(1, "loss", 1.0)], end
        assert notes == [f"{path}: its last record is not complete and is left out; it may still be being written"], end
        with pytest.raises(InputError, match="its last record is not complete"):
            scalars(tmp_path)
    path.write_bytes(data[:start])
    assert scalars(tmp_path) == [(1, "loss", 1.0)]


def test_a_damaged_file_keeps_what_stands_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    write(path, (1, "loss", 1.0), (2, "loss", 2.0), (3, "loss", 3.0))
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    notes: list[str] = []
    rows = scalars(tmp_path, notes)
    assert rows == [(1, "loss", 1.0), (2, "loss", 2.0)]
    assert len(notes) == 1
    assert "is damaged at byte" in notes[0]
    with pytest.raises(InputError, match="is damaged at byte"):
        scalars(tmp_path)


def test_a_record_that_is_no_event_and_one_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    write(path, (1, "loss", 1.0))
    head = struct.pack("<Q", LARGEST + 1)
    skipped = head + struct.pack("<I", masked_crc32c(head)) + bytes(LARGEST + 1 + 4)
    path.write_bytes(path.read_bytes() + skipped + framed(b"\xff\xff\xff") + framed(b""))
    notes: list[str] = []
    assert scalars(tmp_path, notes) == [(1, "loss", 1.0)]
    assert len(notes) == 1
    assert "is damaged (DecodeError)" in notes[0]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    (tmp_path / "events.out.tfevents.2.host").symlink_to("/dev/zero")
    notes: list[str] = []
    assert scalars(tmp_path, notes) == []
    assert [note.partition(": ")[2].split()[:2] for note in notes] == [["is", "empty;"], ["is", "not"]]


def test_a_run_whose_only_metrics_are_events_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamics.runs import open_run

    folder = Path(shutil.copytree(RUNS / "trainer", tmp_path / "trainer"))
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto.event_pb2", None)
    assert open_run(folder).notes == [], "the states have metrics"
    for state in folder.rglob("trainer_state.json"):
        state.unlink()
    run = open_run(folder)
    assert len(run.metrics) == 0
    assert len(run.notes) == 1
    assert run.notes[0].startswith("no metrics: reading TensorBoard's event files needs tensorboard: pip install 'training-dynamics[runs]'")
