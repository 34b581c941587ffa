r"""Run Python code written by a model in sandboxed processes.

    with Sandbox() as sandbox:
        outcome = sandbox.run("def f(x):\n    return x + 1", [(3,), (4,)])
        outcome.values                       # [4, 5]
        sandbox.run_deterministic("def f(x):\n    return list({'a', 'b'})", [(1,)]).error     # "not deterministic"

What is covered, on Linux: a program cannot use files, see this process's environment or memory, open sockets, start processes or threads,
send signals, outlive its time, use more than its memory, flood with output, see anything of other programs, see an argument before it has
returned the value for the one before, or change anything that the next program sees; this holds for root too. Values cross as text that is
parsed as Python literals here, and what is equal is decided here; a program can forge its own return values and nothing else.

What is not covered: faults of the kernel; side channels (timing, the load of the machine); a program that returns other values at another
time of day passes as deterministic. Written for macOS (sandbox-exec) and aarch64, but tested on Linux on x86_64 only. Where nothing
confines, it refuses, unless told ``allow_unconfined``. docs/security.md has the whole threat model.
"""

from __future__ import annotations

import errno
import marshal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dynamics.errors import printable
from dynamics.io.threads import cores
from dynamics.train.sandbox.backends import BackendName, SandboxUnavailable, Unconfined, candidates
from dynamics.train.sandbox.expressions import Outcome, all_same, canonical, length, literal
from dynamics.train.sandbox.literals import Refused
from dynamics.train.sandbox.template import Template

#: hash seeds; values that depend on the order of sets differ between them
_SEEDS = (0, 4242)
#: maximum length of a value in characters; longer values are errors and are not truncated
MAX_VALUE = 1000
#: maximum length of an error message in characters
MAX_ERROR = 300
#: errors that depend on the machine and its load
_NOT_ITS_DOING = ("timeout", "memory", "killed by the system", "the executor died")


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


class Sandbox:
    """Confined processes that run programs; a context manager.

    Parameters
    ----------
    workers : number of parallel processes per hash seed; the number of cores if None.
    memory : maximum address space of a program in bytes.
    allow_unconfined : run programs without a sandbox if none is available; they then have your permissions.
    backend : landlock, bubblewrap, or auto for the first that is available.
    refused : error number of system calls that are not allowed; a number that no call returns tells a call that was refused from one
        that failed.

    Attributes
    ----------
    confinement : description of the sandbox mechanism.
    """

    def __init__(
        self,
        workers: int | None = None,
        memory: int = 512 << 20,
        allow_unconfined: bool = False,
        backend: BackendName = "auto",
        refused: int = errno.EPERM,
    ):
        self.workers = workers or cores()
        chosen = started(lambda backend: Template(backend, _SEEDS[0], memory, refused=refused), backend, allow_unconfined)
        self._pools = [[Template(chosen.backend, seed, memory, refused=refused) for _ in range(self.workers)] for seed in _SEEDS]
        self._pools[0][0] = chosen
        self.confinement = chosen.confinement
        self._threads = ThreadPoolExecutor(2 * self.workers)
        outcome = self.run("def f(x):\n    return x + 1", [(1,)], timeout=30)
        if outcome.values != [2]:
            self.close()
            raise SandboxUnavailable(f"the sandbox does not run a program that adds 1: {outcome.error}; see the limits of this machine")

    def __enter__(self) -> Sandbox:
        """Return the sandbox, whose processes stop at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown()
        for pool in self._pools:
            for template in pool:
                template.close()

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Call ``entry`` with each tuple of arguments, all in one fresh confined process. Never raises for what a program does.

        The process gets the arguments of a call once it has returned the value of the call before.
        """
        return _run(Job(source, inputs, entry, timeout), self._pools[0][0])

    def run_deterministic(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        """Like ``run``, in two processes with different hash seeds, which must give the same values."""
        return self.run_all_deterministic([Job(source, inputs, entry, timeout)])[0]

    def run_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run each job in a process of its own; outcomes are in the order of the jobs."""
        return self._spread(jobs, self._pools[0])

    def run_all_deterministic(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Apply ``run_deterministic`` to each job."""
        outcomes = self._spread(jobs, self._pools[0])
        good = [number for number, outcome in enumerate(outcomes) if outcome.values is not None]
        for number, second in zip(good, self._spread([jobs[number] for number in good], self._pools[1]), strict=True):
            first = outcomes[number]
            if second.error in _NOT_ITS_DOING:
                outcomes[number] = second
            elif second.values is None or not all_same(first.values or [], second.values):
                outcomes[number] = Outcome(None, "not deterministic")
        return outcomes

    def _spread(self, jobs: Sequence[Job], pool: list[Template]) -> list[Outcome]:
        return spread(self._threads, jobs, pool, _run)


def _run(job: Job, template: Template) -> Outcome:
    head = {"source": job.source, "entry": job.entry}
    try:
        canonical(list(job.inputs))
    except Refused:
        return Outcome(None, "an argument is no plain value")
    requests = [marshal.dumps(tuple(arguments)) for arguments in job.inputs]  # read by the same Python
    results, error = template.exchange(head, requests, job.timeout)
    if results is None:
        return Outcome(None, printable(error, MAX_ERROR))
    try:
        texts = [result.decode("utf-8", "surrogatepass") for result in results]
        if any(len(text) > MAX_VALUE for text in texts):
            return Outcome(None, "output too long")
        values = [literal(text, size=MAX_VALUE) for text in texts]
        if any(length(value) > MAX_VALUE for value in values):  # as with \N{...}, written by a program
            return Outcome(None, "output too long")
    except UnicodeDecodeError:
        return Outcome(None, "not text")
    except Refused as refused:
        return Outcome(None, f"no plain value: {refused}")
    return Outcome(values, None)


def started(make: Any, name: BackendName, allow_unconfined: bool) -> Template:
    """Start a template, made by ``make(backend)``, with the first backend that is available here."""
    unavailable: SandboxUnavailable | None = None
    for backend in candidates(name):
        template: Template = make(backend)
        try:
            template.start()
        except SandboxUnavailable as error:
            unavailable = unavailable or error
        else:
            return template
    if not allow_unconfined:
        assert unavailable is not None
        raise unavailable
    template = make(Unconfined())
    template.start()
    return template


def spread(threads: ThreadPoolExecutor, jobs: Sequence[Any], pool: list[Template], run: Any) -> list[Any]:
    """Run ``run(job, template)`` for each job, spread over the templates; results are in the order of the jobs."""
    outcomes: list[Any] = [None] * len(jobs)

    def work(number: int) -> None:
        for index in range(number, len(jobs), len(pool)):
            outcomes[index] = run(jobs[index], pool[number])

    list(threads.map(work, range(min(len(pool), len(jobs)))))
    return outcomes
