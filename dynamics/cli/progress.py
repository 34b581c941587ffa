"""Progress on stderr."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Bar:
    """A progress bar on stderr that shows itself only on a terminal and only for work of more than about two seconds.

    ``unit``: what is counted, to show how many a second.
    """

    PATIENCE = 1.5

    def __init__(self, what: str, unit: str = ""):
        self.what = what
        self.unit = unit
        self._progress: Any = None
        self._task: Any = None
        self._timer = threading.Timer(self.PATIENCE, self._show)
        self._timer.daemon = True

    def __call__(self, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=of)

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()
        if self._progress is not None:
            self._progress.stop()

    def _show(self) -> None:
        """Started by the clock and not by the first result, since opening files and compiling can take the longest."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text

        unit = self.unit

        class Speed(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.speed:,.0f} {unit}/s" if unit and task.speed else "")

        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Speed(), TimeRemainingColumn()
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = progress.add_task(self.what, total=None)
        progress.start()
        self._progress = progress
