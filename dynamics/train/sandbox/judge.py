"""Judge answers of a model by the scorer of a library, in confined processes.

A scorer of a library may evaluate the text that it judges. It runs in a child of a confined process that has imported the library and never
sees an answer; the child may read the folders that the library needs, and has no network, no other process, and limits on time and memory.
The judge is a script: ``prepare(key, config)`` is called once for each task, ``judge(request)`` in a child for each answer.
"""

from __future__ import annotations

import math
import os
import pickle
import site
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import printable
from dynamics.io.threads import cores
from dynamics.train.sandbox.backends import BackendName
from dynamics.train.sandbox.host import MAX_ERROR, spread, started
from dynamics.train.sandbox.template import Template

#: folders and files that libraries with compiled parts need
_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache")
#: a loaded machine may take this many times the processor time
_WALL_TIME = 4


@dataclass(frozen=True)
class Reply:
    """What a judge says about an answer.

    Attributes
    ----------
    value : result of the script's ``judge``, which is never None; None after an error.
    error : short reason, or an empty text.
    """

    value: Any
    error: str = ""


class Judge:
    """Confined processes that run the scorer of a library.

    Parameters
    ----------
    script : defines ``prepare(key, config)`` and ``judge(request)``; imports nothing of this package.
    packages : names of the packages that it imports; their folders become readable.
    workers : number of parallel processes; the number of cores if None.
    memory : maximum address space of a child in bytes.
    allow_unconfined : run without a sandbox if none is available.
    backend : as for ``Sandbox``.

    Attributes
    ----------
    confinement : description of the sandbox mechanism.

    Raises
    ------
    SandboxUnavailable : there is no confinement here, or the script cannot be loaded in it.
    """

    def __init__(
        self,
        script: Path,
        packages: Sequence[str],
        workers: int | None = None,
        memory: int = 4 << 30,
        allow_unconfined: bool = False,
        backend: BackendName = "auto",
    ):
        folders = library_folders(packages)
        path = [entry for entry in sys.path if entry in folders or _is_standard(entry)]
        readable = sorted({*folders, *filter(_is_standard, sys.path), *_SYSTEM, sysconfig.get_paths()["stdlib"]})

        def make(backend: Any) -> Template:
            return Template(backend, 0, memory, script, readable, path)

        first = started(make, backend, allow_unconfined)
        self.confinement = first.confinement
        self._templates = [first, *(make(first.backend) for _ in range((workers or cores()) - 1))]
        self._threads = ThreadPoolExecutor(len(self._templates))

    def __enter__(self) -> Judge:
        """Return the judge, whose processes stop at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown()
        for template in self._templates:
            template.close()

    def prepare(self, key: str, config: Any) -> Any:
        """Call ``prepare(key, config)`` of the script in each process that children are forked from; return its result.

        Processes that are not needed yet do so when they start.

        Raises
        ------
        ValueError : it failed; the text says how.
        """
        first, *others = self._templates
        value = first.prepare(key, config)
        for template in others:
            template.prepare_later(key, config)
        return value

    def verdict(self, request: Any, timeout: float = 5.0) -> Reply:
        """Call ``judge(request)`` in a process of its own.

        Parameters
        ----------
        request : what can be pickled, and what the trainer made: text of a model only as str.
        timeout : seconds of processor time, rounded up; a loaded machine gets four times as many seconds.
        """
        return _verdict(request, timeout, self._templates[0])

    def verdicts(self, requests: Sequence[Any], timeout: float = 5.0) -> list[Reply]:
        """Apply ``verdict`` to each request, in parallel; replies are in the order of the requests."""
        return spread(self._threads, requests, self._templates, lambda request, template: _verdict(request, timeout, template))


def _verdict(request: Any, timeout: float, template: Template) -> Reply:
    results, error = template.exchange({}, [pickle.dumps(request)], _WALL_TIME * timeout, cpu=math.ceil(timeout))
    if results is None:
        return Reply(None, printable(error, MAX_ERROR))
    try:
        value = msgspec.json.decode(results[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    return Reply(value, "forged" if value is None else "")


def library_folders(packages: Sequence[str]) -> set[str]:
    """Return the folders that packages are imported from, and the folders of installed packages."""
    folders = {path for path in (*site.getsitepackages(), site.getusersitepackages()) if os.path.isdir(path)}
    folders.update(entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages"))
    for name in packages:
        spec = find_spec(name)
        if spec is not None and spec.origin:
            parents = Path(spec.origin).parents
            folders.add(str(parents[1] if spec.submodule_search_locations else parents[0]))
    return folders


def _is_standard(entry: str) -> bool:
    """Tell whether an entry of ``sys.path`` is of the standard library."""
    return bool(entry) and os.path.realpath(entry).startswith(os.path.realpath(sysconfig.get_paths()["stdlib"]))
