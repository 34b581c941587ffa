"""The death spiral of a proposer: its entropy rises, its valid share falls and the solver's reward rises, all in the same window.

SSP (arXiv 2510.18821, by notes on its text) reports it for a penalty of -0.1 on malformed proposals: the proposer ends in noise, and the
few valid tasks are easy. Each of the three trends alone is ordinary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from dynamics.errors import InputError

#: steps of a window, and the standard errors by which each of the three slopes must have its sign
WINDOW, THRESHOLD = 20, 2.0


@dataclass(frozen=True)
class Spiral:
    """The indicator, at the end of each window.

    Attributes
    ----------
    steps : (windows,) last step of each window.
    entropy, valid, reward : (windows,) slope of each series over the window in its own standard errors (t), positive for rising; NaN where
        fewer than half of the window's steps have a value, and infinite for a line without residuals.
    strength : (windows,) the weakest of the three in the direction of a spiral: min(entropy, -valid, reward).
    alarms : (windows,) whether ``strength`` is above the threshold.
    """

    steps: Int[np.ndarray, " windows"]
    entropy: Float[np.ndarray, " windows"]
    valid: Float[np.ndarray, " windows"]
    reward: Float[np.ndarray, " windows"]
    strength: Float[np.ndarray, " windows"]
    alarms: Bool[np.ndarray, " windows"]

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object: the strongest window and the alarms."""
        strongest = int(np.nanargmax(self.strength)) if np.isfinite(self.strength).any() or np.isinf(self.strength).any() else None
        return {
            "windows": len(self.steps),
            "alarms": [int(step) for step in self.steps[self.alarms]],
            "strongest": None
            if strongest is None
            else {
                "last_step": int(self.steps[strongest]),
                **{name: float(getattr(self, name)[strongest]) for name in ("strength", "entropy", "valid", "reward")},
            },
        }


def death_spiral(
    steps: ArrayLike, entropy: ArrayLike, valid: ArrayLike, reward: ArrayLike, window: int = WINDOW, threshold: float = THRESHOLD
) -> Spiral:
    """Look for a death spiral.

    Parameters
    ----------
    steps : (n,) increasing.
    entropy : (n,) the proposer's mean entropy per token, nats; NaN where unknown, here and below.
    valid : (n,) share of its proposals that are valid.
    reward : (n,) the solver's mean reward, on whatever it was trained on.
    window : number of entries, at least 4.
    threshold : of ``strength``.

    Notes
    -----
    Of three series of independent noise few windows in a hundred thousand have a strength above 2. Real series are autocorrelated: slopes
    look surer than they are, and many windows are looked at, so an alarm is a reason to read proposals, not a finding. A solver that
    learns while a proposer explores has the same signs.
    """
    x = np.asarray(steps, float)
    series = [np.asarray(values, float) for values in (entropy, valid, reward)]
    if any(values.shape != x.shape or x.ndim != 1 for values in series):
        raise InputError("steps, entropy, valid and reward must be four series of one length")
    if window < 4:
        raise InputError(f"window={window}: must be at least 4, for a slope with a standard error")
    if (np.diff(x) <= 0).any():
        raise InputError("steps must be increasing")
    starts = range(len(x) - window + 1)
    rows = [[_slope(x[start : start + window], values[start : start + window]) for values in series] for start in starts]
    table = np.array(rows, float).reshape(len(rows), 3)
    strength = (table * [1, -1, 1]).min(axis=1) if len(table) else np.zeros(0)
    ends = x[window - 1 :].astype(np.int64)
    with np.errstate(invalid="ignore"):
        alarms = strength > threshold
    return Spiral(ends, table[:, 0], table[:, 1], table[:, 2], strength, alarms)


def _slope(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Return the least-squares slope in its standard errors; 0 for a constant series."""
    known = ~np.isnan(y)
    count = int(known.sum())
    if count < max(4, len(x) / 2):
        return math.nan
    x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
    across = float(x @ x)
    slope = float(x @ y) / across
    rest = max(float(y @ y) - slope * slope * across, 0.0)
    if rest <= 1e-24 * float(y @ y):
        return math.copysign(math.inf, slope) if slope else 0.0
    return slope / math.sqrt(rest / (count - 2) / across)
