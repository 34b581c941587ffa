"""Further outputs for the metrics of a step: TensorBoard and Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.extras import optional_import


def open_sinks(out: Path, tensorboard: bool, wandb: str | None) -> list[Any]:
    """Return functions of (step, metrics) that log metrics; a step of None closes them."""
    sinks = []
    if tensorboard:
        with optional_import("writing events for TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(str(out / "tensorboard"))

        def to_tensorboard(step: int | None, line: dict[str, Any]) -> None:
            try:
                if step is None:
                    writer.close()
                for name, value in _numbers(line):
                    writer.add_scalar(name, value, step)
            except OSError as error:  # of the thread that writes
                raise InputError(f"{out / 'tensorboard'}: {error.strerror or error}") from None

        sinks.append(to_tensorboard)
    if wandb:
        with optional_import("logging to Weights & Biases"):
            import wandb as client
        run = client.init(project=wandb, dir=str(out), name=out.name)

        def to_wandb(step: int | None, line: dict[str, Any]) -> None:
            if step is None:
                run.finish()
            else:
                run.log(dict(_numbers(line)), step=step)

        sinks.append(to_wandb)
    return sinks


def _numbers(line: dict[str, Any]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in line.items() if name != "step" and isinstance(value, (int, float))]
