"""Run directories: ours, and those of other trainers, as one view.

    run = dynamics.runs.open_run("runs/grpo")
    run.trainer, run.method, run.base
    run.series("reward")                  # by step
    dynamics.runs.read_rollouts(run)      # a table with a row per completion

The names are imported when they are first used, because the recorder, which runs inside of a training, needs this package and no table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamics.runs.open import open_run
    from dynamics.runs.rollouts import read_rollouts
    from dynamics.runs.view import METRICS, RolloutFile, Run, SavedCheckpoint, Settings

__all__ = ["METRICS", "RolloutFile", "Run", "SavedCheckpoint", "Settings", "open_run", "read_rollouts"]
_MODULES = {"open_run": "open", "read_rollouts": "rollouts"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dynamics.runs.{_MODULES.get(name, 'view')}"), name)
