"""The table of attacks and their outcomes, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamics.errors import InputError
from dynamics.train.sandbox import Job, Outcome, Sandbox, SandboxUnavailable
from dynamics.train.sandbox.confined import CALLS, LIMITED
from dynamics.train.tasks.problem import Problem
from dynamics.train.tasks.triplets import verify
from train.sandbox.attacks import ALL_CALLS, ATTACKS, CTYPES, FORGE, MAILBOX, MARKER, REFUSED, SEARCH, judged, not_refused

try:
    Sandbox(1).close()
except SandboxUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(1) as made:
        yield made


@pytest.mark.parametrize(("what", "program", "expected"), ATTACKS, ids=[attack[0] for attack in ATTACKS])
def test_contained(what: str, program: str, expected: object, sandbox: Sandbox, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("x")
    assert judged(sandbox, program, expected, str(mine)) == ""
    assert mine.read_text() == "x"
    assert mine.stat().st_mode & 0o600 == 0o600
    assert not any(os.path.exists(f"{folder}/dynamics-attack") for folder in ("/tmp", "/dev/shm"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the tests above were run as an ordinary user")
def test_contained_as_an_ordinary_user() -> None:
    root = Path(__file__).parent
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-B", str(root / "attacks.py")],
                capture_output=True,
                text=True,
                user=65534,
                group=65534,
                extra_groups=[],
                cwd="/",
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root.parents[2])},
            )
        except OSError:
            continue
        if not any(word in done.stderr for word in ("PermissionError", "ModuleNotFoundError", "can't open file", "SyntaxError")):
            break
    else:
        pytest.skip("an ordinary user has no interpreter here, or cannot read this checkout")
    assert done.stdout.strip().endswith(f"{len(ATTACKS) + len(REFUSED)} contained"), done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def marked():
    with Sandbox(1, refused=MARKER) as made:
        yield made


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
@pytest.mark.parametrize(("what", "calls"), REFUSED, ids=[attack[0] for attack in REFUSED])
def test_calls_are_refused_by_the_filter(what: str, calls: str, marked: Sandbox) -> None:
    assert not_refused(marked, calls) == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
def test_all_other_calls_are_refused(marked: Sandbox) -> None:
    allowed = [*(numbers[0] for numbers in CALLS.values()), *(numbers[0] for numbers, _, _ in LIMITED)]
    (result,) = marked.run(ALL_CALLS, [(allowed,)], timeout=10).values or [None]
    assert result == ([MARKER], 598 - len(allowed))


def test_a_program_sees_nothing_of_the_program_before(sandbox: Sandbox) -> None:
    word = "tigerlily"
    source = f"def f(x):\n    # {word}\n    return '{word}' + x"
    for _ in range(3):
        assert sandbox.run(source, [(word,), (word * 2,)]).values == [word * 2, word * 3]
    assert sandbox.run(SEARCH, [([*word],)], timeout=10) == Outcome([[]], None)
    beside = f"{SEARCH}\nmine = ['{word}' + str(len(SystemExit.__name__))]\n"  # the search finds what is in its own process
    assert sandbox.run(beside, [([*word],)], timeout=10).values == [["frame", "memory", "object"]]


def test_a_program_sees_an_argument_only_after_it_has_answered_the_one_before(sandbox: Sandbox) -> None:
    word = "tigerlily"
    assert (
        sandbox.run(SEARCH, [([*word],), ([*"snapdragon"], word)], timeout=10).error
        == "TypeError: f() takes 1 positional argument but 2 were given"
    )
    kept = SEARCH.replace("return sorted(found)", "return sorted(found) if letters[0] == 't' else None").replace(
        "f(letters)", "f(letters, *others)"
    )
    assert sandbox.run(kept, [([*word],), ([*"snapdragon"], word)], timeout=10).values == [[], None]
    peek = "import os\ndef f(x):\n    for d in range(3, 64):\n        try: return os.read(d, 99)\n        except OSError: pass"
    assert sandbox.run(peek, [(1,), (2,)], timeout=0.3) == Outcome(None, "timeout")


def test_programs_cannot_leave_each_other_messages(sandbox: Sandbox) -> None:
    before = sandbox.run(MAILBOX, [(False,)])
    assert before.values is not None, before
    assert sandbox.run(MAILBOX, [(True,)]).values is not None
    assert sandbox.run(MAILBOX, [(False,)]) == before


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc of Linux")
def test_no_process_has_capabilities() -> None:
    """Of a sandbox that reads no files; those of judges, which other tests may have left running, stay root without capabilities."""
    others = children_of(os.getpid())
    with Sandbox(1) as sandbox:
        sandbox.run("def f(x):\n    return x", [(1,)])
        templates = [pid for pid in children_of(os.getpid()) if pid not in others]
        assert templates
        seen = 0
        for pid in [*templates, *(child for template in templates for child in children_of(template))]:
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except OSError:  # a child of the run before, which has ended
                continue
            seen += pid not in templates
            status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
            assert os.geteuid() or status["CapBnd"] == "0" * 16
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            assert os.geteuid() or status["Uid"].split()[0] == "65534"
        assert seen


def test_patches_do_not_last(sandbox: Sandbox) -> None:
    sandbox.run("import builtins, math\nbuiltins.sorted = lambda a: 'x'\nmath.pi = 3\ndef f(x):\n    return 1", [(1,)])
    assert sandbox.run("import math\ndef f(x):\n    return [sorted([2, 1]), round(math.pi, 2)]", [(1,)]).values == [[[1, 2], 3.14]]


def test_values_are_exact(sandbox: Sandbox) -> None:
    values = [True, 1, 1.0, None, "é\n\U0001f600", b"\x00", (1, [2, {"a": {3}}]), -0.5, 10**30]
    assert sandbox.run("def f(x):\n    return x", [(value,) for value in values]).values == values
    assert [type(result) for result in sandbox.run("def f(x):\n    return x", [(value,) for value in values]).values or []] == [
        type(v) for v in values
    ]


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    return list({'a', 'b', 'c', 'd'})",
        "import random\ndef f(x):\n    return random.random()",
        "def f(x):\n    return id(object())",
        "import time\ndef f(x):\n    return time.perf_counter_ns()",
    ],
)
def test_two_hash_seeds_must_agree(program: str, sandbox: Sandbox) -> None:
    assert sandbox.run_deterministic(program, [(1,)]) == Outcome(None, "not deterministic")


def test_an_answer_is_never_code(sandbox: Sandbox) -> None:
    problem = Problem("abduction", "def f(x):\n    return x + 1", ((41,),), (42,), "p")
    assert verify(problem, "41", sandbox).correct
    for answer in ("41) or (True", "__import__('os').getpid()", "True", "41.0", "[41]", "(41,)", "", "4" * 5000):
        assert not verify(problem, answer, sandbox).correct
    stated = Problem("induction", "", ((1,), (2,)), (1, 2), "p")
    assert verify(stated, "def f(x):\n    return x", sandbox).correct
    for answer in ("class E:\n    __eq__ = lambda a, b: True\ndef f(x):\n    return E()", "def f(x):\n    return True if x == 1 else 2"):
        assert not verify(stated, answer, sandbox).correct


@pytest.mark.parametrize("message", ["forge(b'E')", "forge(b'D')", "forge(b'V1')", "forge()", "pass"])
def test_a_program_without_results_is_never_correct(message: str, sandbox: Sandbox) -> None:
    program = f"{FORGE}\n{message}\nos._exit(0)"
    outcome = sandbox.run(program, [(1,), (2,)])
    assert outcome.values is None
    assert outcome.error
    assert sandbox.run_deterministic(program, [(1,), (2,)]).values is None
    assert not verify(Problem("induction", "", ((1,), (2,)), (1, 2), "p"), program, sandbox).correct
    assert not verify(Problem("abduction", program, ((1,), (2,)), (5, 2), "p"), "1", sandbox).correct


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the call is that of x86_64")
def test_programs_that_run_at_once_cannot_wake_each_other() -> None:
    wait = f"""{CTYPES}import time
word = ctypes.cast(libc.printf, ctypes.c_void_p).value & -4
value = ctypes.c_int.from_address(word).value
def f(x):
    end = time.monotonic() + 0.5
    woken = 0
    while time.monotonic() < end:
        woken += libc.syscall(202, ctypes.c_void_p(word), x, value, (ctypes.c_long * 2)(0, 10**7), 0, 0) == (0 if x % 128 == 0 else 1)
    return woken"""
    with Sandbox(2) as pair:
        waiting, waking = pair.run_all([Job(wait, [(0,)]), Job(wait, [(1,)])])
    assert (waiting.values, waking.values) == ([0], [0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc of Linux")
def test_a_program_is_gone_before_the_next_begins() -> None:
    stay = f"{FORGE}def f(x):\n    forge(b'V7')\n    bytearray(100 << 20)\n    while True: pass"
    others = children_of(os.getpid())
    with Sandbox(1) as own:
        (template,) = set(children_of(os.getpid())) - set(others)
        for _ in range(5):
            assert own.run(stay, [(1,)]).values == [7]
            staying = children_of(template)
            assert own.run("def f(x):\n    return x", [(1,)]).values == [1]
            assert sum(_runs(child) for child in children_of(template) if child in staying) <= 1  # the child of the second program


def test_many_at_once_and_a_dead_executor(sandbox: Sandbox) -> None:
    jobs = [Job(f"def f(x):\n    return x * {n}", [(2,)]) for n in range(40)]
    assert [outcome.values for outcome in sandbox.run_all(jobs)] == [[2 * n] for n in range(40)]
    for template in children_of(os.getpid()):
        os.kill(template, signal.SIGKILL)
    assert [outcome.values for outcome in sandbox.run_all(jobs)] == [[2 * n] for n in range(40)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc of Linux")
def test_nothing_stays_behind_a_killed_trainer() -> None:
    program = (
        "from dynamics.train.sandbox import Sandbox\nimport threading, time\nbox = Sandbox(1)\n"
        "threading.Thread(target=box.run, args=('def f(x):\\n    while True: pass', [(1,)], 'f', 60), daemon=True).start()\n"
        "time.sleep(0.3)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        processes = [*(templates := children_of(trainer.pid)), *(child for template in templates for child in children_of(template))]
        assert len(processes) == 2  # the template and the child at work
        trainer.kill()
    deadline = time.monotonic() + 30
    while left := [pid for pid in processes if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_bubblewrap_contains_the_attacks_too(every: int) -> None:
    try:
        made = Sandbox(1, backend="bubblewrap")
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with made:
        assert made.confinement.startswith("bubblewrap, ")
        assert made.run("def f(x):\n    return x + 1", [(1,), (2,)]).values == [2, 3]
        for what, program, expected in ATTACKS[::every]:
            assert judged(made, program, expected, "/etc/hostname") == "", what


def test_a_backend_that_is_not_there_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="bwrap is not installed"):
        Sandbox(1, backend="bubblewrap")


def test_the_environment_chooses_the_backend(monkeypatch) -> None:
    monkeypatch.setenv("DYNAMICS_SANDBOX", "bubblewrap")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="bwrap is not installed"):
        Sandbox(1)
    monkeypatch.setenv("DYNAMICS_SANDBOX", "docker")
    with pytest.raises(InputError, match="DYNAMICS_SANDBOX=docker: is not one of auto, landlock, bubblewrap"):
        Sandbox(1)


def test_it_refuses_without_confinement(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(SandboxUnavailable, match="allow-unconfined"):
        Sandbox(1)
    with Sandbox(1, allow_unconfined=True) as open_sandbox:
        assert open_sandbox.confinement == "nothing"
        assert open_sandbox.run("def f(x):\n    return x", [(1,)]).values == [1]


def test_limits_of_the_machine_are_kept_and_said() -> None:
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):\n    resource.setrlimit(kind, (60, 60))\n"
        "from dynamics.train.sandbox import Sandbox\n"
        "with Sandbox(1) as box:\n"
        "    print([box.run(f'import os\\ndef f(x):\\n    return x + {n}', [(1,)]).values for n in range(3)])\n"
        "    print(box.run('import os\\nos.closerange(3, 64)\\ndef f(x):\\n    return x', [(1,), (2,)]).values)\n"
        "    print(box.run('import os\\ndef f(x):\\n    os._exit(0)', [(1,)]).error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[[1], [2], [3]]", "None", "ended without a result"], done


def test_an_interrupt_leaves_a_sandbox_that_works(sandbox: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for seconds in (0.001, 0.004, 0.01, 0.03):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again, since Python ignores one in the finalizer of an object
                while True:
                    sandbox.run("def f(x):\n    return x", [(1,)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sandbox.run("def f(x):\n    return x", [(1,)]).values == [1]


@pytest.mark.parametrize("arguments", [(float("inf"),), (object(),), (10**5000,)])
def test_an_argument_that_is_no_plain_value_is_named(arguments: tuple[object, ...], sandbox: Sandbox) -> None:
    assert sandbox.run("def f(x):\n    return 1", [arguments], timeout=float("inf")).error == "an argument is no plain value"
