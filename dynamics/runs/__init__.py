"""Run directories: ours, and those of other trainers, as one view.

run = dynamics.runs.open_run("runs/grpo")
run.trainer, run.method, run.base
run.series("reward")                  # by step
dynamics.runs.read_rollouts(run)      # a table with a row per completion
"""

from __future__ import annotations

from dynamics.runs.open import open_run
from dynamics.runs.rollouts import read_rollouts
from dynamics.runs.view import METRICS, RolloutFile, Run, SavedCheckpoint, Settings

__all__ = ["METRICS", "RolloutFile", "Run", "SavedCheckpoint", "Settings", "open_run", "read_rollouts"]
