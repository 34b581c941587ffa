"""Have the units of a measure computed by the workers of a Dask scheduler.

Dask sends tasks to workers, runs those of a worker that died again on another one, and reports results as they come. Here is only what
a task is: some units, whose tallies come back as plain values. A worker opens the checkpoints itself, at the same paths, and checks that
they are those that this process sees.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamics.cli.command import tell
from dynamics.cluster.kept import Kept
from dynamics.cluster.work import Open, Record, Work, fingerprint, mismatch
from dynamics.errors import InputError, printable
from dynamics.extras import optional_import, own_version
from dynamics.io.threads import Progress, cores

#: bytes that a task reads, at least and at most; a unit is never cut
LEAST, LARGEST = 1 << 24, 1 << 29
#: how often a task runs again that failed for another reason than its input, and seconds that a scheduler has to answer
RETRIES, PATIENCE = 2, 30


class Failed(msgspec.Struct, frozen=True):
    """What went wrong on a worker that does not go away by running it again."""

    message: str


class Other(msgspec.Struct, frozen=True):
    """What a worker sees at the paths, if it is not what the process that asks sees."""

    record: Record
    host: str


def host() -> str:
    """Name the host of this process, and the process."""
    return f"{socket.gethostname()} (process {os.getpid()})"


@contextlib.contextmanager
def connected(address: str, workers: int | None = None) -> Iterator[Any]:
    """Yield a Dask client.

    Parameters
    ----------
    address : of a scheduler, such as ``tcp://host:8786``; the file that ``dask scheduler --scheduler-file`` writes; or ``local``, for
        workers that are started here and end with the block.
    workers : number of local workers; one per core if None.

    Raises
    ------
    InputError : no scheduler answers at the address, or its workers have another version of this package.
    """
    with optional_import("--scheduler"):
        from distributed import Client, LocalCluster
    with contextlib.ExitStack() as stack:
        if address == "local":
            # memory is limited by the machine, as it is for one process; any free port, since others have Dask's own
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers or cores(),
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
        by_file = isinstance(address, str) and address.endswith(".json")
        if by_file and not Path(address).is_file():
            raise InputError(f"--scheduler {printable(address)}: no such file; `dask scheduler --scheduler-file` writes it")
        try:
            client = Client(scheduler_file=address, timeout=PATIENCE) if by_file else Client(address, timeout=PATIENCE)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"--scheduler {printable(address)}: no scheduler answers ({printable(reason)}); give the address that `dask scheduler` "
                "prints, such as tcp://host:8786, or local"
            ) from None
        stack.enter_context(client)
        _check_workers(client, address)
        yield client


def _check_workers(client: Any, address: Any) -> None:
    """Refuse workers with another version of this package, or without it; say if there is none yet."""
    answers = client.run(own_version, on_error="return")
    if not answers:
        tell(f"--scheduler {printable(address)}: has no workers yet; waiting for the first")
    for worker, version in answers.items():
        if isinstance(version, BaseException):
            raise InputError(f"worker {printable(worker)}: cannot run this package ({_first_line(version)}); install it there")
        if version != own_version():
            raise InputError(f"worker {printable(worker)}: has version {printable(version)} of this package, not {own_version()}")


def results(client: Any, futures: Sequence[Any], save: Callable[[], None] | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield futures and their results as they come in.

    Parameters
    ----------
    client : see ``connected``.
    futures : of tasks that are made of ``guarded``.
    save : called after an error, also an interruption, before the tasks that have not ended are cancelled.

    Raises
    ------
    InputError : a task failed, or the workers that ran it died; one line, with the worker. The other tasks are cancelled.
    """
    from distributed import KilledWorker, as_completed

    try:
        for future in as_completed(futures):
            try:
                value = future.result()
            except KilledWorker as error:
                raise InputError(
                    f"worker {printable(error.last_worker.address)}: died, as {error.allowed_failures} before it did at the same task; "
                    "memory may have run out there, see its log; what was finished is kept"
                ) from None
            except (KeyboardInterrupt, InputError):
                raise
            except Exception as error:
                raise InputError(f"a worker failed: {_first_line(error)}; its log says more") from None
            if isinstance(value, Failed):
                raise InputError(value.message)
            yield future, value
    except (Exception, KeyboardInterrupt):
        if save is not None:
            save()
        raise
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be what failed
            client.cancel([future for future in futures if not future.done()])


def _first_line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", 300)


def guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function on a worker; return ``Failed``, which names the host, for what fails again: bad input, and too little memory."""
    try:
        return function(*arguments)
    except InputError as error:
        return Failed(f"worker {host()}: {error}")
    except MemoryError:
        return Failed(f"worker {host()}: memory ran out; start workers with fewer threads, or on hosts with more memory")
    except Exception as error:
        raise RuntimeError(f"worker {host()}: {_first_line(error)}") from None


def compute(
    work: Work, open_work: Open, sources: Sequence[str], settings: dict[str, Any], address: str, progress: Progress | None = None
) -> list[Any]:
    """Compute the tally of every unit by the workers of a scheduler; return them in the order of one process.

    Parameters
    ----------
    work : what there is to compute, opened by this process.
    open_work, sources, settings : how a worker opens the same; the paths must lead to the same files there.
    address : see ``connected``.
    progress : called with (bytes done, all bytes).
    """
    sizes = work.record.sizes
    kept = Kept(work, sources)
    left = [unit for unit in range(len(sizes)) if unit not in kept.tallies]
    if kept.tallies:
        tell(f"{len(kept.tallies):,} of {len(sizes):,} are kept from an earlier run")
    total, done = sum(sizes), sum(sizes[unit] for unit in kept.tallies)
    if left:
        with connected(address) as client:
            run = uuid.uuid4().hex
            there = [os.path.abspath(source) if os.path.exists(source) else source for source in sources]  # workers run in other folders
            same = (run, open_work, there, settings, fingerprint(work.record))
            futures = [
                client.submit(guarded, _tallies, *same, units, pure=False, retries=RETRIES, key=f"{run}-{units[0]}")
                for units in tasks(left, sizes, sum(client.nthreads().values()) or 1)
            ]
            if progress:
                progress(done, total)
            for _, found in results(client, futures):
                if isinstance(found, Other):
                    why = mismatch(work.record, found.record) or "the checkpoints changed meanwhile"
                    raise InputError(f"worker {found.host}: sees other files than the process that asks: {why}")
                for unit, tally in found:
                    kept.add(unit, tally)
                    done += sizes[unit]
                if progress:
                    progress(done, total)
    return [kept.tallies[unit] for unit in range(len(sizes))]


def tasks(units: Sequence[int], sizes: Sequence[int], threads: int) -> list[list[int]]:
    """Group units in order into tasks, about eight for each thread of the workers, of ``LEAST`` to ``LARGEST`` bytes.

    >>> tasks([0, 1, 2, 4], [10**9, 10, 10, 10, 10], 1)
    [[0], [1, 2, 4]]
    """
    most = min(LARGEST, max(LEAST, sum(sizes[unit] for unit in units) // (8 * threads)))
    grouped: list[list[int]] = []
    size = most
    for unit in units:
        if size + sizes[unit] > most or not grouped:
            grouped.append([])
            size = 0
        grouped[-1].append(unit)
        size += sizes[unit]
    return grouped


@functools.lru_cache(maxsize=4)
def _opened(_run: str, open_work: Open, sources: tuple[str, ...], settings: tuple[tuple[str, Any], ...]) -> Work:
    """Open the checkpoints once for all tasks of a run in a process; a later run opens them again."""
    return open_work(list(sources), dict(settings))


def _tallies(
    run: str, open_work: Open, sources: Sequence[str], settings: dict[str, Any], expected: str, units: Sequence[int]
) -> list[tuple[int, Any]] | Other:
    """Compute some units on a worker."""
    work = _opened(run, open_work, tuple(sources), tuple(settings.items()))
    if fingerprint(work.record) != expected:
        return Other(work.record, host())
    return list(zip(units, work.tally(units, 1, None), strict=True))
