"""Progress on stderr: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from dynamics.cli.command import tell

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

#: environment variable that switches progress off if it is 0
VARIABLE = "DYNAMICS_PROGRESS"


class ProgressBar:
    """Progress of work that takes more than about two seconds: a bar if stderr is a terminal, else occasional lines.

    Lines are printed after 2, 4, 8, 16 and 32 seconds, then once a minute. The environment variable ``DYNAMICS_PROGRESS=0`` disables
    both.

    Parameters
    ----------
    description : description of the work.
    unit : unit of the speed, which is shown per second; empty to show no speed.
    patience : seconds before the bar or the first line is shown; ``PATIENCE`` if None.
    counts : whether to show ``3/12`` rather than a percentage.
    keep : whether the bar stays on the terminal when the work is done.
    compiles : whether the work runs numba kernels, which are compiled on first use; a line then reports the compilation.

    Examples
    --------
    >>> with ProgressBar("comparing", "tensors") as bar:
    ...     bar(1, 2)
    ...     bar(2, 2, "lm_head.weight")
    """

    PATIENCE = 2.0
    LONGEST_PAUSE = 60.0

    def __init__(
        self,
        description: str,
        unit: str = "",
        *,
        patience: float | None = None,
        counts: bool = False,
        keep: bool = False,
        compiles: bool = False,
    ):
        self.description, self.unit, self.counts, self.keep, self.compiles = description, unit, counts, keep, compiles
        self.patience = self.PATIENCE if patience is None else patience
        self._latest: tuple[int, int | None, str] = (0, None, "")
        self._first: tuple[int, float] | None = None  # amount done at the first report, and its time
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._listening = contextlib.ExitStack()
        self._start = time.monotonic()

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that ``done`` of ``total`` are done, with ``text`` after the bar."""
        with self._lock:
            self._latest = done, total, text
            if self._first is None:
                self._first = done, time.monotonic()
            self._update()

    def __enter__(self) -> ProgressBar:
        """Start the clock."""
        self._start = time.monotonic()
        if os.environ.get(VARIABLE) == "0":
            return self
        if self.compiles:
            self._announce_compiling()
        self._thread = threading.Thread(target=self._show_bar if sys.stderr.isatty() else self._print_lines, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; remove the bar from the terminal unless ``keep`` is set."""
        self._finished.set()
        if self._thread is not None:
            self._thread.join()
        self._listening.close()
        if self._progress is not None:
            self._progress.stop()

    def _announce_compiling(self) -> None:
        """Report when numba starts to compile, which takes seconds; because of numba's cache it happens once."""
        from numba.core import event

        class Listener(event.Listener):
            def on_start(self, _event: Any) -> None:
                if not _announced:
                    _announced.append(True)
                    tell("compiling kernels, once; later runs use them as they are")

            def on_end(self, _event: Any) -> None:
                pass

        self._listening.enter_context(event.install_listener("numba:compile", Listener()))

    def _update(self) -> None:
        if self._progress is not None and self._task is not None:
            done, total, text = self._latest
            self._progress.update(self._task, completed=done, total=total, text=text)

    def _print_lines(self) -> None:
        """Print lines at growing intervals until the work is done."""
        pause = self.patience
        while not self._finished.wait(pause):
            with self._lock:
                line = self._line(time.monotonic() - self._start)
            tell(line)
            pause = min(max(time.monotonic() - self._start, self.PATIENCE), self.LONGEST_PAUSE)

    def _line(self, seconds: float) -> str:
        """Format amount done, elapsed time and estimated remaining time."""
        done, total, text = self._latest
        if not total or not done:
            return f"{self.description}: {duration(seconds)}"
        amount = f"{done:,}/{total:,}" if self.counts else f"{100 * done // total} %"
        already, began = self._first or (0, self._start)
        pace = (time.monotonic() - began) / (done - already) if done > already else None
        left = f", about {duration(pace * (total - done))} left" if pace and done < total else ""
        return f"{self.description}: {amount}{f', {text}' if text else ''}, {duration(seconds)}{left}"

    def _show_bar(self) -> None:
        """Show the bar after ``patience`` seconds, even without a result: opening files and compiling can take the longest."""
        if self._finished.wait(self.patience):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(20 if self.counts else 40)]
        columns.append(MofNCompleteColumn() if self.counts else TaskProgressColumn())
        if self.unit:
            columns.append(_speed(self.unit))
        columns += [TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn()]
        progress = Progress(*columns, console=Console(stderr=True), transient=not self.keep)
        with self._lock:
            self._task = progress.add_task(self.description, total=None, text="")
            self._progress = progress
            self._update()
        progress.start()


#: not empty once this process has reported that it compiles
_announced: list[bool] = []


def duration(seconds: float) -> str:
    """Format a duration in suitable units.

    >>> duration(8), duration(95), duration(7300)
    ('8 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _speed(unit: str) -> ProgressColumn:
    """Make a column that shows the speed in ``unit`` per second."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else "")

    return Speed()
