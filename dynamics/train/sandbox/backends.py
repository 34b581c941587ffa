"""Backends of the sandbox: what surrounds the process that runs programs, on which system.

A backend turns the command line of that process into one that runs it confined. Whatever the backend, the process itself gives up its
capabilities and all system calls but computing wherever it runs on Linux (``dynamics.train.sandbox.confined``).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from typing import Literal, Protocol, cast, get_args

from dynamics.errors import InputError, printable

BackendName = Literal["auto", "landlock", "bubblewrap"]
#: environment variable with the name of a backend
VARIABLE = "DYNAMICS_SANDBOX"


class SandboxUnavailable(InputError):
    """No sandbox is available on this machine."""


class Backend(Protocol):
    """What surrounds the process that runs programs.

    Attributes
    ----------
    name : shown in descriptions of the confinement.
    confined : whether the process gives up its privileges by itself.
    landlock : whether that fails without Landlock.
    """

    name: str
    confined: bool
    landlock: bool

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        """Return the command line that runs ``python``, which needs to read ``folders``; raise ``SandboxUnavailable`` if it cannot."""


class Kernel:
    """Landlock and seccomp of Linux; needs no other program and no rights."""

    name, confined, landlock = "", True, True

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        """Return ``python``: it confines itself."""
        del folders, environment
        if sys.platform != "linux":
            raise SandboxUnavailable(refusal(f"on {sys.platform} there is no confinement for programs that a model wrote"))
        return list(python)


class Bubblewrap:
    """Namespaces of Linux, made by the program bwrap; for kernels without Landlock, or in addition to it."""

    name, confined, landlock = "bubblewrap", True, False

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        """Return a call of bwrap without network, other processes and files, except for what Python needs to start and ``folders``."""
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable(refusal("the program bwrap is not installed; install the package bubblewrap"))
        prefixes = {sys.base_prefix, sys.prefix, os.path.dirname(os.path.realpath(sys.executable)), os.path.dirname(__file__)}
        system = {"/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"}
        command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--dev", "/dev"]
        for name, value in environment.items():
            command += ["--setenv", name, value]
        for path in sorted(prefixes | system | set(folders)):  # a folder comes before what is inside it
            command += ["--ro-bind-try", path, path]
        return [*command, "--chdir", "/", "--", *python]


class Seatbelt:
    """The sandbox of macOS."""

    name, confined, landlock = "sandbox-exec", True, False

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        """Return a call of sandbox-exec that allows computing, forking, and reading Python's own files and ``folders``."""
        del environment
        readable = [sysconfig.get_paths()["stdlib"], sys.base_prefix, sys.prefix, "/usr/lib", "/System/Library", "/dev/null", *folders]
        paths = " ".join(f"(subpath {json.dumps(path)})" for path in readable)
        profile = (
            "(version 1)(deny default)(allow process-fork)(allow signal (target same-sandbox))(allow sysctl-read)"
            f"(allow process-exec (literal {json.dumps(sys.executable)}))(allow file-read-metadata)(allow file-read* {paths})"
            '(allow file-write-data (literal "/dev/null"))'
        )
        return ["sandbox-exec", "-p", profile, *python]


class Unconfined:
    """No confinement; programs have the permissions of the user."""

    name, confined, landlock = "nothing", False, False

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        """Return ``python``."""
        del folders, environment
        return list(python)


def candidates(name: BackendName) -> list[Backend]:
    """List the backends to try, in this order; ``auto`` is what the environment variable ``DYNAMICS_SANDBOX`` says, if it is set."""
    if name == "auto":
        chosen = os.environ.get(VARIABLE) or name
        if chosen not in get_args(BackendName):
            raise InputError(f"{VARIABLE}={printable(chosen)}: is not one of {', '.join(get_args(BackendName))}")
        name = cast(BackendName, chosen)
    if name == "bubblewrap":
        return [Bubblewrap()]
    if name == "landlock":
        return [Kernel()]
    if sys.platform == "darwin":
        return [Seatbelt()]
    return [Kernel(), Bubblewrap()] if sys.platform == "linux" and shutil.which("bwrap") else [Kernel()]


def refusal(what: str) -> str:
    """Build the message for a sandbox that is not available."""
    return f"{what}; --allow-unconfined runs them unsandboxed, with your permissions"
