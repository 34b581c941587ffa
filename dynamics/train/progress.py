"""Seeing a run: one line on the terminal that moves, with reward, entropy, speed and the time that is left."""

from __future__ import annotations

import sys
from typing import Any


class TrainingProgress:
    """A progress bar to be called after every step; silent when stderr is not a terminal.

    Parameters
    ----------
    method
        Name of the method, which the bar begins with.
    steps
        Number of steps of the run.
    """

    def __init__(self, method: str, steps: int):
        self.method, self.steps = method, steps
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingProgress:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Show the metrics of a step."""
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            self._start(step)
        self._progress.update(self._task, completed=step, summary=summary(metrics))

    def _start(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(self.method, total=self.steps, completed=step, summary="")
        self._progress.start()


def summary(metrics: dict[str, Any]) -> str:
    """Summarise a step: reward if it has one, else loss; entropy in nats; tokens per second."""
    name = "reward" if "reward" in metrics else "loss"
    return f"{name} {metrics[name]:.3f}  entropy {metrics['entropy']:.3f}  {metrics['time/tokens_per_second']:,.0f} tokens/s"
