"""The embedded model is reproducible and made only once; its tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import tiny


def test_the_embedded_model_is_the_same_every_time(tmp_path: Path, monkeypatch) -> None:
    recipe = tiny.Recipe(steps=12, hidden=32, layers=1, intermediate=32, threads=1)
    made = []
    for name in ("a", "b"):
        monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / name))
        folder = tiny.find(recipe)
        made.append((folder.name, (folder / "model.safetensors").read_bytes()))
        before = (folder / "model.safetensors").stat().st_mtime_ns
        assert tiny.find(recipe) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert made[0] == made[1]
    assert tiny.folder(tiny.Recipe(steps=13)).name != tiny.folder(recipe).name


#: a process that makes a small embedded model, and says where it is
MAKER = "from dynamics.train import tiny; print(tiny.find(tiny.Recipe(steps={}, hidden=32, layers=1, intermediate=32, threads=1)))"


def maker(cache: Path, steps: int) -> subprocess.Popen[str]:
    environment = os.environ | {"DYNAMICS_CACHE": str(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", MAKER.format(steps)], env=environment, **pipes)


@pytest.mark.slow
def test_one_process_makes_the_embedded_model_and_the_others_wait(tmp_path: Path) -> None:
    """A process that is killed in the meantime leaves nothing behind."""
    fcntl = pytest.importorskip("fcntl")
    with maker(tmp_path, 10**6) as killed:
        while not (tmp_path.exists() and _locked(fcntl, tmp_path)):
            assert killed.poll() is None
            time.sleep(0.01)
        with maker(tmp_path, 100) as first, maker(tmp_path, 100) as second:
            message = f"another process is making the embedded model in {tmp_path}; waiting for it\n"
            for waiting in (first, second):
                assert message in iter(waiting.stderr.readline, "")  # after any output of libraries
            killed.kill()
            killed.wait()
            left = list(tmp_path.iterdir())
            places = {first.communicate()[0].strip(), second.communicate()[0].strip()}
    assert not left
    assert {str(path) for path in tmp_path.iterdir()} == places


def _locked(fcntl: ModuleType, folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def test_a_folder_half_written_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """A process that was killed while writing the files leaves such a folder."""
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    recipe = tiny.Recipe(steps=2, hidden=32, layers=1, intermediate=32, threads=1)
    half = tmp_path / f".{tiny.folder(recipe).name}.0.partial"
    half.mkdir()
    (half / "config.json").write_text("{")
    assert tiny.find(recipe) == tiny.folder(recipe)
    assert list(tmp_path.iterdir()) == [tiny.folder(recipe)]


def test_two_that_save_without_locks_leave_a_whole_folder(tmp_path: Path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    recipe = tiny.Recipe(steps=1, hidden=32, layers=1, intermediate=32, threads=1)
    others = []

    def late(step: int, steps: int) -> None:
        """Another process makes the folder while this one trains its own model."""
        others.append(tiny.find(recipe))

    folder = tiny.find(recipe, late)
    assert others == [folder]
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == [folder.name]
    assert all((folder / name).stat().st_size for name in ("config.json", "model.safetensors"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"cannot be made .*; set DYNAMICS_CACHE to a folder that can be written"):
        tiny.find(tiny.Recipe(steps=1))


def test_the_tokenizer_loses_nothing() -> None:
    words, rng = tiny.build_tokenizer(), np.random.default_rng(0)
    for _ in range(300):
        text = "".join(tiny.example(rng))
        assert words.decode(words(text)["input_ids"]) == text
    assert len(words) <= 64
