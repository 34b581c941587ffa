"""A file is replaced whole or not at all, and only regular files are replaced."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from dynamics.cli.outputs import check_output, write
from dynamics.errors import InputError
from dynamics.io.atomic import replacing


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    write(str(path), "one")
    assert path.read_text() == "one"
    for stop, expected in ((OSError("no room"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(expected):
            write_half(path, stop)
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["out.json"]


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def make_device(path):
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # like /dev/null
    except PermissionError:
        pytest.skip("no right to make devices")


def make_link_to_device(path):
    make_device(path.with_name("device"))
    path.symlink_to(path.with_name("device"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_fifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (make_device, "not a regular file"),
        (make_link_to_device, "not a regular file"),
        (os.mkdir, "is a folder"),
    ],
)
def test_what_is_not_a_file_is_refused_before_anything_is_written(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = tmp_path / "out"
    make(path.relative_to(tmp_path) if make is make_socket else path)
    before = os.lstat(path)
    began = False
    with pytest.raises(InputError, match=message) as caught, replacing(path):
        began = True
    assert not began
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        check_output(str(path))
    after = os.lstat(path)
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_link_to_a_file_is_replaced_by_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "old"
    (tmp_path / "nowhere").symlink_to("nothing")
    write(str(tmp_path / "nowhere"), "new")
    assert (tmp_path / "nowhere").read_text() == "new"
