"""Side files are read within bounds, or refused in one line: strange files, sizes, depths, numbers and text."""

from __future__ import annotations

import json
import os
import socket

import pytest

from dynamics.errors import InputError
from dynamics.io import side_files
from dynamics.io.compression import opened
from dynamics.io.json import read_document
from dynamics.io.json_lines import read_json_lines
from dynamics.io.regular import open_regular
from dynamics.io.side_files import json_object, parse_json, read_bytes, read_json, read_pointer, read_text


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    return text


@pytest.fixture(params=["pipe", "folder", "device", "socket", "link to a pipe", "loop", "missing"])
def no_file(request, tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif request.param == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif request.param == "loop":
        path.symlink_to(path)
    return path


def test_only_regular_files_are_opened(no_file):
    for read in (open_regular, read_bytes, read_text, read_json, read_pointer, read_document, lambda path: list(read_json_lines(path))):
        said = refusal(read, no_file)
        assert str(no_file) in said
        assert any(reason in said for reason in ("is not a regular file but", "Too many levels of symbolic links", "No such file"))


def test_sizes_are_bounded(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    os.truncate(path, 1 << 40)
    assert "over 100000000 bytes" in refusal(read_json, path)
    assert "over 10 bytes" in refusal(read_bytes, path, 10)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc")
def test_sizes_that_are_not_known_are_bounded(tmp_path):
    path = tmp_path / "config.json"
    path.symlink_to("/proc/self/maps")  # a regular file of 0 bytes, until it is read
    assert os.stat(path).st_size == 0
    assert "over 10 bytes" in refusal(read_bytes, path, 10)
    assert len(read_bytes(path)) > 10


def test_a_line_and_a_document_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("dynamics.io.json_lines.LINE", 100)
    monkeypatch.setattr("dynamics.io.json.DOCUMENT", 100)
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"text": "' + "x" * 100 + '"}\n')
    assert "line 2: over 100 bytes" in refusal(lambda: list(read_json_lines(path)))
    assert "over 100 bytes" in refusal(read_document, path)
    with opened(path) as stream:
        assert stream.readline() == b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8 text at byte 0"),
        (b'{"a": 1} x', "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100 + b"]" * 100, "nested too deeply"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested too deeply"),
        (b"[1" + b"0" * 5000 + b"]", "a number of 5001 digits"),
        (b"[-1" + b"0" * 400 + b"]", "a number of 402 digits"),
        (b"[1e400]", "1e400 is beyond every floating-point number"),
        (b"[" + b"9" * 400 + b".0]", "is beyond every floating-point number"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'{"\\uDC00": 1}', "half of a surrogate pair"),
        (b"[" + b"1," * 8_000_000 + b"1]", "holds over 8000000 values"),
    ],
    ids=range(15),
)
def test_documents_are_bounded(text, reason):
    said = refusal(parse_json, text, "config.json")
    assert said.startswith("config.json: ")
    assert reason in said
    assert len(said) < 200


def test_names_that_stand_twice():
    text = b'{"weight_map": {"a\\n": "x", "b": "x", "a\\n": "y"}}'
    assert parse_json(text, "index")["weight_map"]["a\n"] == "y"
    assert "a\\x0a stands twice" in refusal(parse_json, text, "index", unique=True)


def test_what_is_no_object():
    for text, kind in ((b"[]", "a list"), (b'"x"', "text"), (b"3", "a number"), (b"null", "null"), (b"true", "true or false")):
        assert f"is {kind}, not a JSON object" in refusal(json_object, text, "config.json")


def test_unusual_documents_that_are_read():
    """Python's json module writes them, and published models have them."""
    document = {"limit": [0.0, float("inf")], "model_max_length": int(1e30), "é": "\U0001f600", "deep": json.loads("[" * 60 + "]" * 60)}
    for ascii_only in (True, False):
        assert json_object(b"\xef\xbb\xbf" + json.dumps(document, ensure_ascii=ascii_only).encode(), "config.json") == document
    assert parse_json(b'["\\ud83d\\ude00"]', "x") == ["\U0001f600"]
    assert parse_json(b'["\\ud83d"]', "x", surrogates=True) == ["\ud83d"]


def test_pointers(tmp_path):
    path = tmp_path / "latest"
    path.write_text("global_step10\n")
    assert read_pointer(path) == "global_step10"
    for text in ("", "..", "../x", "/etc", "a\nb", "a\\b", "\x1b[31m"):
        path.write_text(text)
        assert "does not hold the name of a folder beside it" in refusal(read_pointer, path)
    path.write_bytes(b"x" * (side_files.POINTER_LIMIT + 1))
    assert "over 4096 bytes" in refusal(read_pointer, path)
