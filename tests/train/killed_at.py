"""Train in a process of its own, which is killed at a chosen moment.

Each change of a file or folder of the run is an *event*, a line of text: what is done and to which path, with random names replaced by
``*``. The process kills itself just before the event that is named. The hook of Python that is told of changes also hears of those that
libraries make.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import transformers

from dynamics.train import loop
from dynamics.train.__main__ import cli

#: events that change the disk, and the argument that is the path
CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.rmdir": 0, "os.remove": 0, "os.truncate": 0}
LOADED = loop.run, transformers.LlamaForCausalLM, transformers.AutoTokenizer  # slow to import, which is done once for all processes


def train(options: list[str], out: Path, moment: str = "") -> list[str]:
    """Train with options of ``python -m dynamics.train``, resuming if there is a run; return the events.

    The process is killed at the moment, an event; at none if it is empty. What it printed is in a file beside the folder of the run.
    """
    more = ["--resume"] if (out / "run.json").exists() else []
    events, printed = out.with_suffix(".events"), out.with_suffix(".log")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    child = processes.Process(target=_run, args=([*options, "--out", str(out), *more], out, events, printed, moment))
    child.start()
    child.join()
    assert child.exitcode == (-signal.SIGKILL if moment else 0), (moment, printed.read_text()[-2000:])
    return events.read_text().splitlines()


def _run(options: list[str], out: Path, events: Path, printed: Path, moment: str) -> None:
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 1)
    os.dup2(1, 2)
    _watch(out, events, moment)
    sys.exit(cli(options))


def _watch(run: Path, events: Path, moment: str) -> None:
    log = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    within = f"{run.absolute()}{os.sep}"

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in CHANGES:
            path = arguments[CHANGES[event]]
        else:
            return
        whole = os.path.abspath(os.fspath(path)) if isinstance(path, str | os.PathLike) else ""
        if not whole.startswith(within):
            return
        line = f"{event} {re.sub(r'[0-9a-f]{8}', '*', whole.removeprefix(within))}"
        if line == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, line.encode() + b"\n")

    sys.addaudithook(hook)
