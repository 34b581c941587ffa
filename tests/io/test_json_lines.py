"""Lines keep their numbers, and an incomplete line is skipped only on request."""

from __future__ import annotations

import gzip
import json
import math

import pytest

from dynamics.errors import InputError
from dynamics.io.json_lines import read_json_lines, write_json_lines


def written(path, content):
    path.write_bytes(content)
    return path


def test_lines_are_numbered(tmp_path):
    path = written(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n  \n[2]\r\n"\\ud83c"\n4')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (4, [2]), (5, "\ud83c"), (6, 4)]
    packed = written(tmp_path / "x.jsonl.gz", gzip.compress(path.read_bytes()))
    assert list(read_json_lines(packed)) == list(read_json_lines(path))


def test_what_is_written_is_read(tmp_path):
    values = [{"step": 1, "loss": math.nan}, {"step": 2, "text": "\ud83c \u2028 é"}]
    write_json_lines(tmp_path / "x.jsonl", values)
    assert [value for _, value in read_json_lines(tmp_path / "x.jsonl")] == [{"step": 1, "loss": None}, values[1]]
    for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n"):
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\nnot json\n', "line 2: is not JSON"),
        (b'{"a": 1}\n\n{"a": \n{"a": 1}\n', "line 3: is not JSON"),
        (b'{"a": 1}\n"\xe9"\n', "line 2: is not UTF-8 text"),
        ('{"a": 1}\n'.encode("utf-16"), "is not UTF-8 text"),
        (b"\0\1\2\n", "is not UTF-8 text"),
        (b"[" * 100_000 + b"\n", "line 1: is not JSON"),
    ],
)
def test_broken_lines_are_refused_with_their_number(tmp_path, content, message):
    path = written(tmp_path / "x.jsonl", content)
    for unfinished in (None, []):
        with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
            list(read_json_lines(path, unfinished))
        assert message in str(caught.value)
        assert not unfinished


def test_a_last_line_that_breaks_off(tmp_path):
    path = written(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": ')
    with pytest.raises(InputError, match="line 2: is not JSON"):
        list(read_json_lines(path))
    unfinished: list[int] = []
    assert list(read_json_lines(path, unfinished)) == [(1, {"a": 1})]
    assert unfinished == [2]
