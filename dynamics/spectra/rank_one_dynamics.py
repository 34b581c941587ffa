"""Rank-1 dynamics: how much of an update lies in its first direction, and whether it grows there linearly over training.

Papers on RL updates (arXiv 2510.00553, 2605.21468) report that one direction carries most of the gain and grows linearly with the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynamics.errors import InputError
from dynamics.spectra.linalg import svd


@dataclass(frozen=True)
class RankOne:
    """The first direction of the last update, and the updates before it.

    Attributes
    ----------
    shares : (checkpoints,) sigma_1^2 / sum of sigma^2 of each update, in its own first direction; 1 / stable rank. NaN for an update of 0.
    projections : (checkpoints,) <Delta W_t, u_1 v_1^T> with u_1, v_1 of the last update.
    slope : of the least-squares line of the projections over the steps, per step.
    r2 : its share of the variance of the projections; NaN for fewer than three checkpoints, or without variance.
    """

    shares: Float[np.ndarray, " checkpoints"]
    projections: Float[np.ndarray, " checkpoints"]
    slope: float
    r2: float


def rank_one(updates: Float[np.ndarray, "checkpoints m n"], steps: ArrayLike) -> RankOne:
    """Measure rank-1 dynamics of one weight matrix.

    Parameters
    ----------
    updates : W_t - W_0 of successive checkpoints, float64.
    steps : (checkpoints,) their steps, increasing.

    Raises
    ------
    InputError : shapes that do not fit, or steps that do not increase.

    Notes
    -----
    The direction is that of the last update, of which earlier ones are parts: a high R^2 is built in to some degree, and with a constant
    learning rate Adam's updates grow about linearly in any direction that does not turn around. Compare it with that of SFT.
    With a decaying rate a straight path is curved over steps. Of checkpoints stored in bfloat16 the rounding is part of the update.
    """
    changes, at = np.asarray(updates, np.float64), np.asarray(steps, float)
    if changes.ndim != 3 or at.shape != changes.shape[:1] or not len(at):
        raise InputError(f"updates of shape {changes.shape} and steps of shape {at.shape}: expected (checkpoints, m, n) and (checkpoints,)")
    if (np.diff(at) <= 0).any():
        raise InputError("steps must be increasing")
    parts = [svd(change) for change in changes]
    shares = np.array([sigma[0] ** 2 / (sigma**2).sum() if sigma[0] else math.nan for _, sigma, _ in parts])
    left, _, right = parts[-1]
    projections = np.einsum("tij,i,j->t", changes, left[:, 0], right[0])
    centred, moved = at - at.mean(), projections - projections.mean()
    across, variance = float(centred @ centred), float(moved @ moved)
    slope = float(centred @ moved) / across if across else math.nan
    r2 = slope * slope * across / variance if len(at) > 2 and variance > 0 else math.nan
    return RankOne(shares, projections, slope, r2)
