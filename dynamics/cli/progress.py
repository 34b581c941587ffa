"""Progress on stderr."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


class ProgressBar:
    """A progress bar on stderr that shows itself only on a terminal and, as a rule, only for work of more than about two seconds.

    Parameters
    ----------
    description : what is being done.
    unit : what is counted, to show how many a second; empty to show no speed.
    patience : seconds of work before the bar shows itself; ``PATIENCE`` if None.
    counts : whether to show ``3/12`` rather than a percentage.
    keep : whether the bar stays on the terminal when the work is done.

    Examples
    --------
    >>> with ProgressBar("comparing", "tensors") as bar:
    ...     bar(1, 2)
    ...     bar(2, 2, "lm_head.weight")
    """

    PATIENCE = 1.5

    def __init__(self, description: str, unit: str = "", *, patience: float | None = None, counts: bool = False, keep: bool = False):
        self.description, self.unit, self.counts, self.keep = description, unit, counts, keep
        self._latest: tuple[int, int | None, str] = (0, None, "")
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(self.PATIENCE if patience is None else patience, self._show)
        self._timer.daemon = True

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that ``done`` of ``total`` are done, and ``text`` behind the bar."""
        with self._lock:
            self._latest = done, total, text
            self._update()

    def __enter__(self) -> ProgressBar:
        """Start the clock, if stderr is a terminal."""
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the terminal, or leave it there if it is to stay."""
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()
        if self._progress is not None:
            self._progress.stop()

    def _update(self) -> None:
        if self._progress is not None and self._task is not None:
            done, total, text = self._latest
            self._progress.update(self._task, completed=done, total=total, text=text)

    def _show(self) -> None:
        """Show the bar. The clock starts it and not the first result, since opening files and compiling can take the longest."""
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


def _speed(unit: str) -> ProgressColumn:
    """Make a column that shows how many ``unit`` are done in a second."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else "")

    return Speed()
