r"""Run Python code written by a model in sandboxed processes.

    with Sandbox() as sandbox:
        outcome = sandbox.run("def f(x):\n    return x + 1", [(3,), (4,)])
        outcome.values                       # [4, 5]
        sandbox.run_deterministic("def f(x):\n    return list({'a', 'b'})", [(1,)]).error     # "not deterministic"

What is covered, on Linux: a program cannot read or write files (but read the standard library), see this process's environment or
memory, open sockets, start processes or threads, send signals, outlive its time, use more than its memory, flood with output, or change
anything that the next program sees; this holds for root too. Values cross as text that is parsed as Python literals here, and what is
equal is decided here; a program can forge its own return value and nothing else. Landlock, a seccomp list of allowed calls, rlimits, an
empty environment, a process group and a pipe of its own for each.

What is not covered: faults of the kernel; side channels (timing, the load of the machine); that a file exists can be seen, not what is in
it; a program that returns other values at another time of day passes as deterministic. Written for macOS (sandbox-exec) and aarch64, but
tested on Linux on x86_64 only. Elsewhere it refuses, unless told ``allow_unconfined``.
"""

from __future__ import annotations

import contextlib
import json
import select
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.train.sandbox.expressions import Outcome, Refused, literal, same

_SCRIPT = Path(__file__).with_name("confined.py")
#: hash seeds; values that depend on the order of sets differ between them
_SEEDS = (0, 4242)
#: seconds beyond a program's timeout after which the executor is considered dead
_GRACE = 5.0


class SandboxUnavailable(InputError):
    """No sandbox is available on this machine."""


@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes
    ----------
    source : full Python.
    inputs : the arguments of each call.
    entry : the name of the function to call.
    timeout : seconds for all calls.
    """

    source: str
    inputs: Sequence[tuple[Any, ...]]
    entry: str = "f"
    timeout: float = 2.0


class _Executor:
    """A sandboxed process that forks a child per program; restarted when it has died."""

    def __init__(self, seed: int, memory: int, confined: bool):
        self.seed, self.memory, self.confined = seed, memory, confined
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.confinement = ""

    def start(self) -> None:
        command = [sys.executable, "-s", "-S", "-P", "-B", str(_SCRIPT), "confined" if self.confined else "open"]
        if self.confined and sys.platform == "darwin":
            command = ["sandbox-exec", "-p", _profile(), *command]
        elif self.confined and sys.platform != "linux":
            raise SandboxUnavailable(_refusal(f"on {sys.platform} there is no confinement for programs that a model wrote"))
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": str(self.seed)},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
            greeting = self._receive(30.0)
        except (OSError, _ExecutorDied) as error:
            self.stop()
            raise SandboxUnavailable(_refusal(f"the sandbox did not start ({error})")) from None
        if "unavailable" in greeting:
            self.stop()
            raise SandboxUnavailable(_refusal(f"programs that a model wrote cannot be confined here ({greeting['unavailable']})"))
        self.confinement = str(greeting["confinement"])

    def stop(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process = None

    def execute(self, job: Job) -> dict[str, Any]:
        request = {
            "source": job.source,
            "inputs": repr(list(job.inputs)),
            "entry": job.entry,
            "timeout": job.timeout,
            "memory": self.memory,
        }
        data = json.dumps(request).encode()
        with self.lock:
            for _ in range(2):
                if self.process is None:
                    self.start()
                try:
                    self._send(struct.pack("<I", len(data)) + data)
                    return self._receive(job.timeout + _GRACE)
                except (OSError, _ExecutorDied, ValueError):
                    self.stop()
        return {"error": "the executor died"}

    def _send(self, data: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) or 0 :]

    def _receive(self, seconds: float) -> dict[str, Any]:
        (size,) = struct.unpack("<I", self._exactly(4, time.monotonic() + seconds))
        answer = json.loads(self._exactly(size, time.monotonic() + seconds))
        assert isinstance(answer, dict)
        return answer

    def _exactly(self, count: int, deadline: float) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        parts = b""
        while len(parts) < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = self.process.stdout.read(count - len(parts)) if ready else b""
            if not part:
                raise _ExecutorDied("no answer")
            parts += part
        return parts


class _ExecutorDied(Exception):
    pass


class Sandbox:
    """Confined executors; a context manager.

    Parameters
    ----------
    workers : number of parallel executors per hash seed; the number of cores if None.
    memory : maximum address space of a program in bytes.
    allow_unconfined : run programs without a sandbox if none is available; they then have your permissions.

    Attributes
    ----------
    confinement : description of the sandbox mechanism.
    """

    def __init__(self, workers: int | None = None, memory: int = 512 << 20, allow_unconfined: bool = False):
        if not workers:
            from dynamics.io.threads import cores

            workers = cores()
        self.workers = workers
        self._pools = [[_Executor(seed, memory, True) for _ in range(self.workers)] for seed in _SEEDS]
        try:
            self._pools[0][0].start()
        except SandboxUnavailable:
            if not allow_unconfined:
                raise
            for executor in self._executors():
                executor.confined = False
            self._pools[0][0].start()
        self.confinement = self._pools[0][0].confinement
        self._threads = ThreadPoolExecutor(2 * self.workers)

    def _executors(self) -> list[_Executor]:
        return [executor for pool in self._pools for executor in pool]

    def __enter__(self) -> Sandbox:
        """Return the sandbox, whose executors stop at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the executors."""
        self.close()

    def close(self) -> None:
        """End the executors."""
        self._threads.shutdown()
        for executor in self._executors():
            executor.stop()

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Call ``entry`` with each tuple of arguments, all in one fresh confined process. Never raises for what a program does."""
        return self._run(Job(source, inputs, entry, timeout), self._pools[0][0])

    def run_deterministic(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Like ``run``, in two processes with different hash seeds, which must give the same values."""
        return self.run_all_deterministic([Job(source, inputs, entry, timeout)])[0]

    def run_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run each job in a process of its own; outcomes are in the order of the jobs."""
        return self._spread(jobs, self._pools[0])

    def run_all_deterministic(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Apply ``run_deterministic`` to each job."""
        first, second = (self._spread(jobs, pool) for pool in self._pools)
        outcomes = []
        for a, b in zip(first, second, strict=True):
            differs = a.values is not None and (b.values is None or not all(map(same, a.values, b.values)))
            outcomes.append(Outcome(None, "not deterministic") if differs else a)
        return outcomes

    def _spread(self, jobs: Sequence[Job], pool: list[_Executor]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(jobs)

        def work(number: int) -> None:
            for index in range(number, len(jobs), len(pool)):
                outcomes[index] = self._run(jobs[index], pool[number])

        list(self._threads.map(work, range(min(len(pool), len(jobs)))))
        return [outcome for outcome in outcomes if outcome is not None]

    @staticmethod
    def _run(job: Job, executor: _Executor) -> Outcome:
        answer = executor.execute(job)
        if "error" in answer:
            return Outcome(None, str(answer["error"])[:300])
        try:
            values = literal(str(answer["value"]), size=1 << 16)
        except Refused as error:
            return Outcome(None, str(error))
        if not isinstance(values, list) or len(values) != len(job.inputs):
            return Outcome(None, "forged")
        if any(len(repr(value)) > MAX_VALUE for value in values):
            return Outcome(None, "output too long")
        return Outcome(values, None)


#: maximum length of a value in characters; longer values are errors and are not truncated
MAX_VALUE = 1000


def _refusal(what: str) -> str:
    return f"{what}; --allow-unconfined runs them unsandboxed, with your permissions"


def _profile() -> str:
    """For sandbox-exec: compute, fork, read Python's own files."""
    readable = [sysconfig.get_paths()["stdlib"], sys.base_prefix, sys.prefix, "/usr/lib", "/System/Library", "/dev/null"]
    paths = " ".join(f"(subpath {json.dumps(path)})" for path in readable)
    return (
        "(version 1)(deny default)(allow process-fork)(allow signal (target same-sandbox))(allow sysctl-read)"
        f"(allow process-exec (literal {json.dumps(sys.executable)}))(allow file-read-metadata)(allow file-read* {paths})"
        '(allow file-write-data (literal "/dev/null"))'
    )
