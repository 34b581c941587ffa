"""Folders are written whole or not at all, and can be locked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamics import InputError
from dynamics.io import folders


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path) -> None:
    target = tmp_path / "step_000001"
    folders.save_folder(target, lambda folder: (folder / "a").write_text("whole"))

    def full(folder: Path) -> None:
        (folder / "a").write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"step_000001: cannot be written \(No space left on device\); go on with --resume"):
        folders.save_folder(target, full, "go on with --resume")
    assert (target / "a").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]


def test_a_folder_on_a_file_system_that_locks_only_files(tmp_path: Path, monkeypatch) -> None:
    """NFS: a file in the folder is locked instead."""
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.flock

    def flock(handle: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(9, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)

    def refuse() -> None:
        raise InputError("busy")

    with folders.exclusive(tmp_path, refuse), pytest.raises(InputError, match="busy"), folders.exclusive(tmp_path, refuse):
        pass
    with folders.exclusive(tmp_path, refuse):
        pass


def test_of_two_that_save_the_same_folder_the_first_one_is_kept(tmp_path: Path) -> None:
    """Another process makes the folder while this one writes its own."""
    target = tmp_path / "target"

    def late(folder: Path) -> None:
        (folder / "a").write_text("second")
        folders.save_folder(target, lambda other: (other / "a").write_text("first"), keep=True)

    folders.save_folder(target, late, keep=True)
    assert (target / "a").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_interrupted_while_it_is_written_is_removed(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folders.save_folder(tmp_path / "target", interrupted)
    assert not list(tmp_path.iterdir())


def test_a_lock_is_not_given_up_because_nobody_reads_what_is_said(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def broken() -> None:
        raise BrokenPipeError

    def refuse() -> None:
        raise InputError("busy")

    with folders.exclusive(tmp_path, refuse) as held:
        assert held
        with pytest.raises(InputError), folders.exclusive(tmp_path, broken):
            pass
        with folders.exclusive(tmp_path, lambda: None) as again:  # instead of waiting for itself
            assert not again
        with pytest.raises(InputError, match="busy"), folders.exclusive(tmp_path, refuse):
            pass
    assert not list(tmp_path.iterdir())
