"""Train the runs of a preset in parallel, here or on a cluster; finished runs are reused, interrupted runs are resumed."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses.presets import BASE_RUN, PRESETS, launcher, plan, reads
from analyses.runs import Run, find
from dynamics import InputError
from dynamics.cli.command import INTERRUPTED, tell
from dynamics.errors import printable
from dynamics.runs.directory import RunDirectory

#: configurations of accelerate, in the checkout
ACCELERATE = Path(__file__).resolve().parent.parent / "docs" / "accelerate"
#: modules that are the commands which start several processes
LAUNCHERS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}
#: seconds that runs on a cluster have to save when the command is interrupted
STOPPING = 120


def train(preset: str, folder: Path, force: bool = False, scheduler: str | None = None, block: str | None = None) -> list[Run]:
    """Train the runs of a preset in parallel.

    Parameters
    ----------
    preset : name of a preset.
    folder : folder of the runs. Finished runs are reused, interrupted runs are resumed.
    force : train all runs from the start.
    scheduler : of Dask, whose workers train the runs, see ``dynamics.cluster.scheduler.connected``; None to train them here. All hosts must
        have ``folder`` at the same path.
    block : train only the runs of this block of the preset.

    Returns
    -------
    The runs that are compared: all of the preset, or those of the block and others that are finished.

    Raises
    ------
    InputError : a run failed, or one is finished with other settings.
    """
    runs = plan(preset, folder, block)
    unfinished = {name for name, options in runs.items() if force or not is_finished(folder / name, options)}
    if force:
        discarded = set(runs)
    elif BASE_RUN in unfinished:  # runs that started from another base are of no use
        discarded = set(runs) - {BASE_RUN}
    else:  # nor are those that read rollouts which are yet to be made
        discarded = {name for name, options in runs.items() if reads(options) in unfinished}
    pending = {name: options for name, options in runs.items() if name in unfinished | discarded}
    if pending:
        _train_all(preset, folder, pending, discarded, scheduler)
    others = {name: options for name, options in plan(preset, folder).items() if name not in runs}
    finished = [name for name, options in others.items() if is_finished(folder / name, options)]
    return find([folder / name for name in (*runs, *finished) if name != BASE_RUN])


def _train_all(preset: str, folder: Path, pending: dict[str, list[str]], discarded: set[str], scheduler: str | None) -> None:
    """Train the ``pending`` runs, the base run first, after removing the files of those in ``discarded``."""
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.threads import cores
    from dynamics.train import tiny

    workers = PRESETS[preset].parallel_runs or cores()
    minutes = f"; about {PRESETS[preset].minutes} min for all on two cores" if PRESETS[preset].minutes else ""
    where = f"{workers} at a time" if scheduler in (None, "local") else f"by the workers of {printable(scheduler)}"
    tell(f"{preset}: {len(plan(preset, folder))} runs, {len(pending)} to do now, {where}{minutes}")
    for name, options in pending.items():
        tell(f"  {name}: {' '.join(options)}")
    if any("--model" not in options for options in pending.values()):
        with ProgressBar("making the embedded model") as bar:
            tiny.find(progress=bar)
    progress = _Progress(len(pending))
    if scheduler is not None:
        _train_on_cluster(scheduler, workers, folder, pending, discarded, progress, _start(preset))
        return
    children = Children()
    sources = _Sources(pending)
    starts = _start(preset)

    def train_one(name: str) -> None:
        with sources.ready(name):
            train_run(folder / name, pending[name], name in discarded, children, starts)
        progress.finished(name)

    with ThreadPoolExecutor(workers) as pool:
        try:
            if BASE_RUN in pending:
                pool.submit(train_one, BASE_RUN).result()
            for _ in pool.map(train_one, [name for name in pending if name != BASE_RUN]):
                pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                children.stop()
            try:
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:
                children.stop()
                raise
            raise


def _start(preset: str) -> list[str]:
    """List the words after ``python`` that start the processes of a run of a preset; none for one process."""
    words = launcher(preset, str(ACCELERATE))
    return ["-m", LAUNCHERS[words[0]], *words[1:]] if words else []


def _train_on_cluster(
    scheduler: str,
    workers: int,
    folder: Path,
    pending: Mapping[str, Sequence[str]],
    discarded: set[str],
    progress: _Progress,
    starts: Sequence[str],
) -> None:
    """Train the ``pending`` runs by the workers of a Dask scheduler; a run whose worker died goes on from its last state on another one."""
    from dynamics.cluster.scheduler import RETRIES, connected, guarded, results

    with connected(scheduler, workers) as client:
        from distributed import Event, wait

        for name in discarded & pending.keys():
            shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        stop = Event(f"stop-{uuid.uuid4().hex}", client=client)
        futures: dict[str, Any] = {}
        for name, options in pending.items():
            before = [futures[other] for other in (BASE_RUN, reads(options)) if other in futures]
            arguments = (str((folder / name).resolve()), list(options), stop.name, before, list(starts))
            futures[name] = client.submit(guarded, _train_there, *arguments, pure=False, retries=RETRIES, key=f"{name}-{stop.name}")

        def save() -> None:
            stop.set()
            wait(list(futures.values()), timeout=STOPPING)

        for _, (name, host) in results(client, list(futures.values()), save):
            if not (folder / name / "run.json").exists():
                raise InputError(
                    f"{folder / name}: worker {host} wrote it to a folder of its own; --runs must name one that all hosts share"
                )
            progress.finished(f"{name}, on {host}")


def _train_there(target: str, options: list[str], stop: str, before: Sequence[Any], starts: Sequence[str] = ()) -> tuple[str, str]:
    """Train or resume a run on a worker of a cluster, until the event ``stop`` is set; return its name and the host."""
    from distributed import Event, get_client

    from dynamics.cluster.scheduler import Failed, host

    folder, stopping, ended, children = Path(target), Event(stop, client=get_client()), threading.Event(), Children(end_with_parent=True)
    if failed := next((run for run in before if isinstance(run, Failed)), None):
        raise InputError(f"{folder.name}: starts from a run that failed ({failed.message})")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: does not exist there; --runs must name a folder that all hosts share")

    def watch() -> None:
        while not ended.is_set():
            if stopping.wait(timeout="1s"):
                children.stop()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        train_run(folder, options, False, children, starts)
    finally:
        ended.set()
        watching.join()
    return folder.name, host()


class _Sources:
    """Makes a run wait for the one whose rollouts it trains on, which is started before it."""

    def __init__(self, pending: Mapping[str, Sequence[str]]):
        self._source = {name: reads(options) for name, options in pending.items()}
        self._ended = {name: threading.Event() for name in pending}
        self._made: set[str] = set()

    @contextmanager
    def ready(self, name: str) -> Iterator[None]:
        """Wait until a run can be trained, and note that it was; raise InputError if what it trains on failed."""
        try:
            source = self._source[name]
            if source in self._ended:
                self._ended[source].wait()
                if source not in self._made:
                    raise InputError(f"{name}: trains on the rollouts of {source}, which failed")
            yield
            self._made.add(name)
        finally:
            self._ended[name].set()


class Children:
    """Processes that train runs, each in a group of its own, so that a signal reaches them only from here.

    Parameters
    ----------
    end_with_parent : whether the processes are killed when this one dies, where the system can do so: on a cluster, another process then
        goes on with the run.
    """

    def __init__(self, end_with_parent: bool = False) -> None:
        self._prepare = _end_with_parent if end_with_parent and sys.platform == "linux" else None
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command to its end; return its exit status and what it wrote to stderr. After ``stop`` it is not started."""
        with self._lock:
            if self._stopped:
                return INTERRUPTED, "interrupted"
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                preexec_fn=self._prepare,
            )
            self._running.add(process)
        try:
            _, error = process.communicate()
        except KeyboardInterrupt:  # in the main thread
            self.stop()
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, error

    def stop(self) -> None:
        """Ask every process to save and end; a second call ends it at once."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _end_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Progress:
    """Counts finished runs and estimates the remaining time from them."""

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.start = time.perf_counter()

    def finished(self, name: str) -> None:
        self.done += 1
        elapsed = time.perf_counter() - self.start
        remaining = elapsed / self.done * (self.total - self.done)
        tell(f"  {self.done}/{self.total} {name}; {elapsed / 60:.1f} min, about {remaining / 60:.1f} min to go")


def train_run(target: Path, options: list[str], discard: bool, children: Children, starts: Sequence[str] = ()) -> None:
    """Train or resume one run in a process of its own, or in those that the words ``starts`` start."""
    if discard and target.exists():
        shutil.rmtree(target)
    resume = ["--resume"] if (target / "run.json").exists() else []
    command = [sys.executable, *starts, "-m", "dynamics.train", options[0], "--out", str(target), *options[1:], *resume]
    status, error = children.run(command)
    if status:
        lines = error.strip().splitlines()
        said = [line for line in lines if line.startswith("dynamics.train: error")]  # what starts several processes writes after it
        raise InputError(f"{target.name}: {(said or lines or ['failed'])[-1]}")
    shutil.rmtree(target / "state", ignore_errors=True)  # three times the size of the model, and needed only to resume


def is_finished(folder: Path, options: list[str]) -> bool:
    """Whether a run exists and is finished.

    Parameters
    ----------
    folder : run directory.
    options : expected method and options of ``python -m dynamics.train``.

    Raises
    ------
    InputError : it is finished with other settings, or computes in another dtype than the environment asks for; it is not replaced.
    """
    from dynamics.train import checks, command_line, config

    if not (folder / "run.json").exists():
        return False
    document = RunDirectory(folder).read_run()
    recorded: dict[str, Any] = config.EARLIER | (document.get("config") or {})
    forced, computed = config.forced_compute_dtype(), document.get("compute_dtype")
    if forced not in (None, computed) and recorded.get("compute_dtype") == "auto":
        raise InputError(f"{folder}: computes in {computed}, and {config.COMPUTE_DTYPE} says {forced}; --force trains all runs again")
    if document.get("status") != "finished":
        return False
    wanted = config.as_recorded(command_line.parse([options[0], "--out", str(folder), *options[1:]]).config)
    wanted = {name: value for name, value in wanted.items() if name not in checks.MAY_CHANGE}  # those change rounding at most
    if different := _different_settings(wanted, recorded):
        raise InputError(f"{folder}: is finished, with other settings ({', '.join(different)}); --force trains all of them again")
    return True


def _different_settings(wanted: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Names of settings with other values than wanted. A checkpoint or rollouts of the same run in a folder that was moved are the same."""
    different = [name for name in wanted if wanted[name] != recorded.get(name)]
    if "model" in different and Path(wanted["model"]).parts[-3:] == Path(str(recorded.get("model"))).parts[-3:]:
        different.remove("model")
    task = str(recorded.get("task"))
    if (
        "task" in different
        and ":" in task
        and (wanted["task"].partition(":")[0], Path(wanted["task"]).name)
        == (
            task.partition(":")[0],
            Path(task).name,
        )
    ):
        different.remove("task")
    return different
