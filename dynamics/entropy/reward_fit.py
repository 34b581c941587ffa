"""The relation of reward and entropy over training, R = -a exp(H) + b."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynamics.bootstrap import t_interval
from dynamics.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Fit:
    """Fit of R = -a exp(H) + b, arXiv 2505.22617.

    Attributes
    ----------
    a, b : coefficients.
    a_interval, b_interval : confidence intervals, (low, high).
    ceiling : predicted R at H = 0, b - a.
    ceiling_interval : confidence interval of the ceiling.
    residual : standard deviation of the residuals.
    """

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    ceiling: float
    ceiling_interval: tuple[float, float]
    residual: float


def fit(entropy: ArrayLike, reward: ArrayLike, level: float = 0.95) -> Fit:
    """Fit reward on exp(entropy) by least squares, over checkpoints or steps.

    Parameters
    ----------
    entropy : (points,) in nats.
    reward : (points,).
    level : confidence level of the intervals.

    Raises
    ------
    InputError : fewer than three points, or entropies that are all equal.

    Notes
    -----
    The intervals are those of ordinary least squares, which assumes independent residuals. Successive steps of a run are correlated, so
    their intervals are too narrow. If the entropy hardly changes, ``a`` is meaningless whatever its interval.
    """
    x, y = np.exp(np.asarray(entropy, float)), np.asarray(reward, float)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"entropy has shape {x.shape}, reward {y.shape}: expected the same shape")
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0:
        raise InputError(f"{len(x)} points with {len(np.unique(x))} different entropies: a fit with an interval needs at least three")
    design = np.stack([-x, np.ones_like(x), 1 - x], 1)[:, :2]
    inverse = np.linalg.inv(design.T @ design)
    a, b = inverse @ design.T @ y
    rest = y - design @ np.array([a, b])
    variance = float(rest @ rest) / (len(x) - 2)
    errors = [math.sqrt(max(variance * float(w @ inverse @ w), 0.0)) for w in np.array([[1, 0], [0, 1], [-1, 1]])]
    centre = [float(a), float(b), float(b - a)]
    intervals = [(float(low), float(high)) for low, high in zip(*t_interval(centre, errors, len(x) - 2, level), strict=True)]
    return Fit(centre[0], centre[1], intervals[0], intervals[1], centre[2], intervals[2], math.sqrt(variance))
