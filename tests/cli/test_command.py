"""What every command shares."""

from __future__ import annotations

import os
import pty
import stat
import sys
import threading
import time

import pytest

from dynamics.cli.outputs import check_output
from dynamics.cli.progress import ProgressBar
from dynamics.errors import InputError
from dynamics.spectra.__main__ import cli as spectra_cli


@pytest.mark.parametrize(
    ("target", "says"),
    [("nowhere/out.json", "does not exist"), (".", "is a folder"), ("out.txt", "expected .png, .svg")],
)
def test_outputs_that_cannot_be_written_are_refused_first(tmp_path, monkeypatch, target, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        check_output(target, (".png", ".svg") if target.endswith("txt") else ())


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_the_bar_shows_on_a_terminal_and_only_for_long_work(monkeypatch, seconds):
    leader, follower = pty.openpty()
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.2)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with ProgressBar("comparing") as bar:
            time.sleep(seconds)
            bar(1, 2)
            time.sleep(seconds)
        terminal.write("end")
        terminal.flush()
        shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert ("comparing" in shown) == (seconds > 0)


def test_no_bar_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.05)
    with ProgressBar("comparing") as bar:
        time.sleep(0.3)
        bar(1, 2)
    assert capsys.readouterr().err == ""


def read_all(terminal):
    """Read what is written to a terminal until its other end is closed."""
    while True:
        try:
            yield os.read(terminal, 100_000).decode(errors="replace")
        except OSError:
            return


def test_text_is_shown_behind_the_bar(monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        pieces: list[str] = []
        reader = threading.Thread(target=lambda: pieces.extend(read_all(leader)))
        reader.start()
        with ProgressBar("training", patience=0.0, counts=True, keep=True) as bar:
            for step in range(1, 13):
                bar(step, 12, f"reward [{step / 16:.3f}]")
                time.sleep(0.05)
    reader.join()
    os.close(leader)
    shown = "".join(pieces)
    assert "12/12" in shown
    assert "reward [0.750]" in shown


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_resume_refuses_what_is_not_a_file(tmp_path, capsys, kind):
    target = tmp_path / "null"
    if kind == "fifo":
        os.mkfifo(target)
    else:
        try:
            os.mknod(target, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no right to make devices")
    before = os.lstat(target)
    assert spectra_cli(["base", "tuned", "--resume", str(target)]) == 2
    error = capsys.readouterr().err
    assert "not a regular file" in error
    assert error.count("\n") == 1
    after = os.lstat(target)
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert os.listdir(tmp_path) == ["null"]
