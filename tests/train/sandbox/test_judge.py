"""Confined judges: what they may read, what a scorer can do, and faults of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from dynamics.train.sandbox import Sandbox, SandboxUnavailable
from dynamics.train.sandbox.judge import Judge, Reply
from train.sandbox.test_host import children_of

SCRIPT = """
import os, sys
VALUES = {}
def prepare(key, config):
    if config is None:
        raise ValueError("no \\x1b config")
    VALUES[key] = config
    return sorted(VALUES)
def judge(request):
    kind, *rest = request
    return globals()[kind](*rest)
def value(key):
    return VALUES[key]
def attempt(function, *arguments):
    try:
        return repr(getattr(os, function)(*arguments))[:20]
    except OSError as error:
        return type(error).__name__
def leave():
    os._exit(0)
def loop():
    while True:
        pass
def nothing():
    return None
def everything():
    return float("nan")
def forge(text):
    import struct
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<I", len(text)) + text)
        except OSError:
            pass
    os._exit(0)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def judge(script):
    try:
        made = Judge(script, ["numpy"], 1)
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with made:
        yield made


def test_a_judge_reads_its_libraries_and_writes_nothing(judge: Judge, tmp_path: Path) -> None:
    library = Path(pytest.__file__)
    before = library.read_bytes()
    mine = tmp_path / "mine"
    mine.write_text("x")

    def attempt(*arguments: object) -> object:
        return judge.verdict(("attempt", *arguments)).value

    assert str(attempt("open", str(library), os.O_RDONLY)).isdigit()
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_APPEND, os.O_CREAT, os.O_RDONLY | os.O_TRUNC):
        assert attempt("open", str(library), flags) == "PermissionError"
    for call in (("truncate", str(library), 0), ("open", str(mine), os.O_RDONLY), ("unlink", str(library)), ("fork",), ("kill", 1, 0)):
        assert attempt(*call) == "PermissionError"
    assert attempt("getpid") != "PermissionError"
    assert library.read_bytes() == before
    assert mine.read_text() == "x"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (("nothing",), "forged"),
        (("everything",), "forged"),  # NaN is no JSON
        (("leave",), "ended without a result"),
        (("loop",), "timeout"),
        (("value", "no key"), "KeyError: 'no key'"),
        (("forge", b"E"), "exception: "),
        (("forge", b"V"), "forged"),
        (("forge", b"Vtrue false"), "forged"),
        (("forge", b"D"), "forged"),
        (("forge", b"R"), "forged"),
    ],
)
def test_a_failed_scorer_is_no_verdict(request_, error: str, judge: Judge) -> None:
    assert judge.verdict(request_, timeout=1 if request_ == ("loop",) else 20) == Reply(None, error)


def test_prepared_tasks_survive_the_death_of_the_process(script: Path) -> None:
    others = set(children_of(os.getpid()))
    with Judge(script, [], 1) as own:
        assert own.prepare("a", 1) == ["a"]
        with pytest.raises(ValueError, match=r"^ValueError: no \\x1b config$"):
            own.prepare("b", None)
        for process in set(children_of(os.getpid())) - others:
            os.kill(process, signal.SIGKILL)
        assert own.prepare("c", 3) == ["a", "c"]
        for process in set(children_of(os.getpid())) - others:
            os.kill(process, signal.SIGKILL)
        assert [reply.value for reply in own.verdicts([("value", "a"), ("value", "c")])] == [1, 3]
    with pytest.raises(RuntimeError, match="closed"):
        own.verdict(("value", "a"))


def test_a_script_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import a_package_that_is_not_installed")
    with pytest.raises(SandboxUnavailable, match="ModuleNotFoundError: No module named 'a_package_that_is_not_installed'"):
        Judge(bad, [], 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_fork_of_the_trainer_uses_processes_of_its_own(judge: Judge) -> None:
    judge.prepare("k", 5)
    pid = os.fork()
    if pid == 0:
        try:
            good = all(judge.verdict(("value", "k")).value == 5 for _ in range(3))
            judge.close()
        except BaseException:
            good = False
        os._exit(0 if good else 1)
    assert all(judge.verdict(("value", "k")).value == 5 for _ in range(3))
    assert os.waitpid(pid, 0)[1] == 0
    assert judge.verdict(("value", "k")).value == 5


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_bubblewrap_shows_a_judge_its_script(script) -> None:
    try:
        Sandbox(1, backend="bubblewrap").close()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with Judge(script, [], 1, backend="bubblewrap") as judge:
        judge.prepare("a", 1)
        assert judge.verdict(("value", "a")) == Reply(1)
        assert judge.verdict(("attempt", "open", str(script), os.O_RDONLY)) == Reply("PermissionError")
