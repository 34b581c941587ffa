"""A disk that is full, at every writer: one line that names the file, the old file whole, and nothing left behind."""

from __future__ import annotations

import json
import linecache
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import room, write_safetensors

from dynamics import InputError
from dynamics.__main__ import main
from dynamics.io import atomic
from dynamics.io.atomic import Appender, replacing
from dynamics.runs.directory import RunDirectory

pytest.importorskip("resource")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tuned", "other"):
        rng = np.random.default_rng(len(name))
        write_safetensors(
            tmp_path / f"{name}.safetensors", {f"layers.{i}.weight": rng.normal(size=(3, 4)).astype(np.float32) for i in range(4)}
        )
    graded = [{"problem": f"p{p}", "sample": s, "correct": p > s} for p in range(3) for s in range(2)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    return tmp_path


PAIR = ["base.safetensors", "tuned.safetensors"]
COMMANDS = {"sparsity": PAIR, "overlap": [*PAIR, "other.safetensors"], "spectra": [*PAIR, "--method", "none"], "passk": ["m.jsonl"]}


@pytest.mark.parametrize(
    ("command", "option", "file"),
    [("passk", "--json", "out.json"), ("passk", "--csv", "out.csv")]
    + [
        pytest.param(command, option, file, marks=pytest.mark.slow)
        for command in COMMANDS
        for option, file in (
            ("--json", "out.json"),
            ("--csv", "out.csv"),
            ("--html", "out.html"),
            ("--figure", "out.png"),
            ("--figure", "out.svg"),
            ("--figure", "out.pdf"),
        )
    ],
)
def test_an_output_that_has_no_room(command: str, option: str, file: str, folder: Path, capsys) -> None:
    (folder / file).write_text('{"schema": "dynamics.earlier"}')
    before = sorted(os.listdir(folder))
    with room(100):
        assert main([command, *COMMANDS[command], option, file]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"dynamics.{command}: error: {file}: File too large"
    assert (folder / file).read_text() == '{"schema": "dynamics.earlier"}'
    assert sorted(os.listdir(folder)) == before


@pytest.mark.slow
def test_the_resume_file_of_spectra_has_no_room(folder: Path, capsys) -> None:
    words = ["spectra", *PAIR, "--method", "none", "--resume", "spectra.jsonl"]
    with room(3000):
        assert main(words) == 2
    assert "spectra.jsonl: File too large" in capsys.readouterr().err
    lines = (folder / "spectra.jsonl").read_text()
    assert lines.endswith("}\n")
    assert 0 < lines.count("\n") < 4
    assert main(words) == 0
    assert (folder / "spectra.jsonl").read_text().startswith(lines)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["passk m.jsonl", "passk m.jsonl --json -", "passk m.jsonl --csv -", "passk --help", "sparsity --help"])
def test_standard_output_has_no_room(words: str, folder: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", "dynamics", *words.split()], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == f"dynamics.{words.split()[0]}: error: standard output: No space left on device"
    assert "Exception ignored" not in ended.stderr


def test_what_is_appended_is_whole_or_not_there(tmp_path: Path) -> None:
    file = Appender(tmp_path / "log")
    file.append(b"one\n")
    with room(10):
        with pytest.raises(InputError, match="log: File too large"):
            file.append(b"two is too long\n")
        assert (tmp_path / "log").read_bytes() == b"one\n"
        file.append(b"2\n")
    file.close()
    file.append(b"3\n")
    file.sync()
    assert (tmp_path / "log").read_bytes() == b"one\n2\n3\n"


def test_metrics_that_have_no_room_are_not_half_there(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_metrics({"step": 1})
    with room(20), pytest.raises(InputError, match=r"metrics\.jsonl: File too large"):
        directory.append_metrics({"step": 2, "loss": 0.123456789})
    directory.append_metrics({"step": 2})
    assert directory.truncate(2) == [1, 2]


@pytest.mark.parametrize("write", ["write_run", "write_rows"])
def test_run_files_that_have_no_room(write: str, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    arguments = {"write_run": [{"a": "b" * 200}], "write_rows": ["r/a.jsonl", [{"a": "b" * 200}]]}[write]
    with room(100), pytest.raises(InputError, match=r"(run.json|r/a.jsonl): File too large"):
        getattr(directory, write)(*arguments)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_signal_at_any_line_of_a_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """An exception is raised at one line after the other, as a signal would."""
    target = tmp_path / "out.json"
    for stop in range(1, 100):
        target.write_text("old")
        state = {"lines": 0, "raised": False}

        def trace(frame, event, _, state=state, stop=stop):
            if frame.f_code.co_filename != atomic.__file__:
                return None
            cleanup = "unlink" in linecache.getline(atomic.__file__, frame.f_lineno)
            if event == "line" and not state["raised"] and not cleanup:
                state["lines"] += 1
                if state["lines"] == stop:
                    state["raised"] = True
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with replacing(target) as temporary:
                temporary.write_text("new")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert target.read_text() in ("old", "new")
        assert os.listdir(tmp_path) == ["out.json"], stop
        if not state["raised"]:
            assert stop > 10
            return
    pytest.fail("a write has fewer lines")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 4096, 100_000, 500_000, 1_000_000, 1_600_000, 2_400_000])
def test_a_run_on_a_full_disk_is_one_line_and_continues_when_there_is_room(free: int, small_disk: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from train.helpers import contents

    from dynamics.train.__main__ import cli

    base = Path(__file__).parent / "data" / "base"
    words = ["rlvr", "--model", str(base), "--steps", "3", "--save-every", "1", "--eval-problems", "4", "--eval-samples", "2", "--threads"]
    words += ["1", "--prompts-per-step", "6", "--group-size", "4", "--num-problems", "20", "--max-new-tokens", "6", "--probe-every", "0"]
    out, filler = small_disk / "run", small_disk / "filler"
    size = shutil.disk_usage(small_disk).free - free
    filler.write_bytes(b"\0" * max(0, size))
    capsys.readouterr()
    status = cli([*words, "--out", str(out)])
    error = capsys.readouterr().err
    assert status == 2
    assert "No space left on device" in error.splitlines()[-1]
    assert str(out) in error.splitlines()[-1]
    assert "Traceback" not in error
    filler.unlink()
    more = ["--resume"] if (out / "run.json").exists() else []
    assert cli([*words, "--out", str(out), *more]) == 0
    assert cli([*words, "--out", str(tmp_path / "straight")]) == 0
    assert contents(out) == contents(tmp_path / "straight")
