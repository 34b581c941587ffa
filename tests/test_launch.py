"""The processes that train the runs of an analysis: a signal to the parent reaches each once, and each saves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("seaborn")

from analyses.launch import Children

#: a process that writes down the signals that it gets, and ends after the first
CHILD = """
import os, pathlib, signal, sys, time
target = pathlib.Path(sys.argv[1])
def end(number, _):
    target.with_suffix(".end").write_text(str(number)); print("saved", file=sys.stderr); sys.exit(128 + number)
signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)
target.write_text(str(os.getpid()))
time.sleep(60)
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_children_that_are_stopped_save_and_no_others_start(tmp_path: Path) -> None:
    children, ends = Children(), {}

    def work(name: str) -> None:
        ends[name] = children.run([sys.executable, "-S", "-c", CHILD, str(tmp_path / name)])

    threads = [threading.Thread(target=work, args=[name]) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for name in ("a", "b"):
        wait_for(tmp_path / name)
    children.stop()
    for thread in threads:
        thread.join()
    assert ends == {"a": (143, "saved\n"), "b": (143, "saved\n")}
    assert children.run([sys.executable, "-c", "print('started')"])[0] == 130


def test_an_interrupted_parent_waits_for_its_child(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for(tmp_path / "a")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Children().run([sys.executable, "-S", "-c", CHILD, str(tmp_path / "a")])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "a.end").read_text() == str(int(signal.SIGTERM))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_on_a_cluster_dies_with_its_worker(tmp_path: Path) -> None:
    program = "import sys; from analyses.launch import Children; Children(end_with_parent=True).run(sys.argv[1:])"
    worker = subprocess.Popen([sys.executable, "-c", program, sys.executable, "-S", "-c", CHILD, str(tmp_path / "a")])
    wait_for(tmp_path / "a")
    worker.kill()
    worker.wait()
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{(tmp_path / 'a').read_text()}/exe"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (tmp_path / "a.end").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("embedded_model")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_analysis_that_is_ended_continues_later(number: int, tmp_path: Path) -> None:
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from analyses.__main__ import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "comparison", "--preset", "quick"]
    words += ["--runs", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/*/metrics.jsonl")):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    begun = [file.parent for file in tmp_path.glob("runs/*/*/metrics.jsonl")]
    assert all((run / "state").is_dir() or '"finished"' in (run / "run.json").read_text() for run in begun)
    running = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in running
