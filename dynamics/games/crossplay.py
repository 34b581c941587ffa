"""The cross-play matrix: every checkpoint of a solver on the tasks of every phase, with progress and forgetting.

M[i, j] is the mean accuracy of checkpoint j on the tasks of phase i. PopuLoRA (arXiv 2605.16727) cross-evaluates teachers and students in
this way; progress and forgetting are this project's reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dynamics.bootstrap import LEVEL, difference_interval, mean_interval
from dynamics.errors import InputError
from dynamics.games.intervals import REPLICATES, Estimate, difference

SCHEMA = "dynamics.crossplay/1"


@dataclass(frozen=True)
class CrossPlay:
    """A cross-play matrix.

    Attributes
    ----------
    phases, checkpoints : names of rows and columns.
    matrix, low, high : (phases, checkpoints) mean accuracy and its interval over the tasks of the phase; NaN for a phase without tasks.
    tasks : (phases,) number of tasks of each phase.
    own : (phases,) column of the checkpoint at the end of each phase.
    progress : per phase, M[i, last] - M[i, own]: whether what came later helped on these tasks; 0 for the last phase by definition.
    forgetting : per phase, max over all j of M[i, j] - M[i, last], checkpoints before the phase included.
    gain : per phase, M[i, last] - M[i, first]: against the first checkpoint, as a rule the base.
    """

    phases: list[str]
    checkpoints: list[str]
    matrix: Float[np.ndarray, "phases checkpoints"]
    low: Float[np.ndarray, "phases checkpoints"]
    high: Float[np.ndarray, "phases checkpoints"]
    tasks: Int[np.ndarray, " phases"]
    own: list[int]
    progress: list[Estimate]
    forgetting: list[Estimate]
    gain: list[Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object, ``dynamics.crossplay/1``."""
        return {
            "schema": SCHEMA,
            "checkpoints": self.checkpoints,
            "phases": [
                {
                    "phase": name,
                    "tasks": int(self.tasks[row]),
                    "own": self.checkpoints[self.own[row]],
                    "accuracy": [
                        {"checkpoint": checkpoint, "value": value, "low": low, "high": high}
                        for checkpoint, value, low, high in zip(
                            self.checkpoints, *(ends[row].tolist() for ends in (self.matrix, self.low, self.high)), strict=True
                        )
                    ],
                    "progress": self.progress[row].to_dict(),
                    "forgetting": self.forgetting[row].to_dict(),
                    "gain": self.gain[row].to_dict(),
                }
                for row, name in enumerate(self.phases)
            ],
        }


def cross_play(
    rates: Float[np.ndarray, "tasks checkpoints"],
    phase_of: Sequence[int],
    own: Sequence[int],
    phases: Sequence[str],
    checkpoints: Sequence[str],
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> CrossPlay:
    """Compute the matrix from solve rates.

    Parameters
    ----------
    rates : share of right answers of each checkpoint to each task, in [0, 1]; checkpoints in the order of training.
    phase_of : (tasks,) row of each task.
    own : (phases,) column of the checkpoint at the end of each phase.
    phases, checkpoints : names of rows and columns.
    level, replicates : of the intervals, which resample the tasks of a phase, all checkpoints together.

    Raises
    ------
    InputError : shapes that do not fit, rates outside [0, 1], or an ``own`` that is no column.

    Notes
    -----
    Intervals are about tasks, not about seeds or runs. Forgetting is the largest of several noisy differences, of which one is 0, so it is
    never negative and its estimate is too high by chance; its interval is made of simultaneous ones (Bonferroni), which holds. Tasks of a
    phase depend on who proposed them: a later row can be harder or easier than an earlier one, so compare along rows, never along columns.
    """
    rates = np.asarray(rates, float)
    numbers = np.asarray(phase_of, int)
    if rates.ndim != 2 or rates.shape != (len(numbers), len(checkpoints)) or len(own) != len(phases):
        raise InputError(
            f"rates of shape {rates.shape} for {len(numbers)} tasks and {len(checkpoints)} checkpoints, {len(own)} own checkpoints for "
            f"{len(phases)} phases: expected (tasks, checkpoints), and an own checkpoint for each phase"
        )
    if np.isnan(rates).any() or (rates < 0).any() or (rates > 1).any():
        raise InputError("solve rates must be between 0 and 1")
    if any(not 0 <= column < len(checkpoints) for column in own) or ((numbers < 0) | (numbers >= len(phases))).any():
        raise InputError("a phase or an own checkpoint is out of range")
    shape = (len(phases), len(checkpoints))
    matrix, low, high = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    progress, forgetting, gain = [], [], []
    for row, column in enumerate(own):
        part = rates[numbers == row]
        if len(part):
            interval = mean_interval(part, level, replicates)
            matrix[row], low[row], high[row] = part.mean(axis=0), interval.low, interval.high
        last, first = (part[:, index] for index in (-1, 0))
        is_last = column == rates.shape[1] - 1
        progress.append(
            Estimate(0.0, 0.0, 0.0, len(part)) if is_last and len(part) else difference(part[:, column], last, level, replicates)
        )
        gain.append(difference(first, last, level, replicates))
        forgetting.append(_forgetting(part, level, replicates))
    tasks = np.bincount(numbers, minlength=len(phases))
    return CrossPlay(list(phases), list(checkpoints), matrix, low, high, tasks, list(own), progress, forgetting, gain)


def _forgetting(rates: Float[np.ndarray, "tasks checkpoints"], level: float, replicates: int) -> Estimate:
    """Compute the largest difference to the last column; its interval is made of simultaneous intervals, one for each column before it."""
    earlier = rates.shape[1] - 1
    if not len(rates):
        return Estimate(np.nan, np.nan, np.nan, 0)
    if not earlier:
        return Estimate(0.0, 0.0, 0.0, len(rates))
    last = np.repeat(rates[:, -1:], earlier, axis=1)
    interval = difference_interval(last, rates[:, :-1], 1 - (1 - level) / earlier, replicates)
    value = max(0.0, float((rates[:, :-1].mean(axis=0) - rates[:, -1].mean()).max()))
    return Estimate(value, max(0.0, float(interval.low.max())), max(0.0, float(interval.high.max())), len(rates))
