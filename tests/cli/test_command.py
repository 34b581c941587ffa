"""What every command shares."""

from __future__ import annotations

import json
import math
import os
import pty
import sys

import pytest

from dynamics.cli.outputs import check_output, write
from dynamics.cli.progress import Bar
from dynamics.errors import InputError
from dynamics.io.atomic import replacing
from dynamics.io.json import to_json


def test_documents_say_null_for_what_is_not_a_number():
    document = to_json({"a": [math.nan, math.inf, 1.5, (2,)]})
    assert json.loads(document, parse_constant=pytest.fail) == {"a": [None, None, 1.5, [2]]}


def fail_while_writing(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    write(str(path), "one")
    assert path.read_text() == "one"
    for stop, told in ((OSError("no room"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(told):
            fail_while_writing(path, stop)
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["out.json"]


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
    import time

    leader, follower = pty.openpty()
    monkeypatch.setattr(Bar, "PATIENCE", 0.2)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Bar("comparing") as bar:
            time.sleep(seconds)
            bar(1, 2)
            time.sleep(seconds)
        terminal.write("end")
        terminal.flush()
        shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert ("comparing" in shown) == (seconds > 0)


def test_no_bar_without_a_terminal(capsys, monkeypatch):
    import time

    monkeypatch.setattr(Bar, "PATIENCE", 0.05)
    with Bar("comparing") as bar:
        time.sleep(0.3)
        bar(1, 2)
    assert capsys.readouterr().err == ""
