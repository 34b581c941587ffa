"""Train as ``python -m dynamics.train`` does, and be killed at a chosen moment.

    python killed_at.py RUN EVENTS MOMENT OPTION...

Each change of a file or folder within the folder RUN is a line of the file EVENTS, written just before it happens: what is done and to
which path, with random names replaced by ``*``. The process kills itself before the event MOMENT, a line of that kind; it is never killed
if MOMENT is empty. Nothing else differs: the hook of Python that is told of these events also hears of those of libraries.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys

#: events that change the disk, and the argument that is the path
CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.rmdir": 0, "os.remove": 0, "os.truncate": 0}


def watch(run: str, events: str, moment: str) -> None:
    """Log changes within ``run``, and be killed before the one that is named ``moment``."""
    log = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    within = os.path.abspath(run) + os.sep

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in CHANGES:
            path = arguments[CHANGES[event]]
        else:
            return
        if not isinstance(path, str | os.PathLike):
            return
        whole = os.path.abspath(os.fspath(path))
        if not whole.startswith(within):
            return
        line = f"{event} {re.sub(r'[0-9a-f]{8}', '*', whole.removeprefix(within))}"
        if line == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, line.encode() + b"\n")

    sys.addaudithook(hook)


if __name__ == "__main__":
    _, run, events, moment, *options = sys.argv
    watch(run, events, moment)
    sys.path[0] = os.getcwd()  # as with -m
    sys.argv = ["dynamics.train", *options, "--out", run]
    runpy.run_module("dynamics.train", run_name="__main__")
