"""The progress of a run on stderr: reward, entropy, speed and the time that is left."""

from __future__ import annotations

from typing import Any

from dynamics.cli.progress import ProgressBar


class TrainingProgress:
    """Progress to be called after every step: a bar on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    method
        Name of the method, which the bar or the line begins with.
    steps
        Number of steps of the run.
    """

    def __init__(self, method: str, steps: int):
        self.method, self.steps = method, steps
        self._bar: ProgressBar | None = None

    def __enter__(self) -> TrainingProgress:
        """Give itself: the bar appears with the first step, after what else is shown while the model is loaded."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar on the terminal as it is."""
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Show the metrics of a step."""
        if self._bar is None:
            self._bar = ProgressBar(self.method, counts=True, keep=True).__enter__()
        self._bar(step, self.steps, summary(metrics))


def summary(metrics: dict[str, Any]) -> str:
    """Summarise a step: reward if it has one, else loss; entropy in nats; tokens per second. A skipped step may have neither."""
    first = "reward" if "reward" in metrics else "loss"
    shown = [f"{name} {metrics[name]:.3f}" for name in (first, "entropy") if name in metrics] or ["nothing trained"]
    return "  ".join([*shown, f"{metrics['time/tokens_per_second']:,.0f} tokens/s"])
