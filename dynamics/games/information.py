"""Learnable information of tasks: how much a fresh small learner gains on them, as the area above its final loss.

A learner that sees each task once, with its loss taken before it is trained on, codes the tasks prequentially. What it pays above its final
loss, sum over t of (L_t - L_end), is what there was to be learnt and what it learnt (arXiv 2603.02218, 2601.03220; the estimator
is this project's reconstruction). Noise costs L_end and adds nothing; copies are learnt at once and add little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dynamics.bootstrap import LEVEL
from dynamics.errors import InputError
from dynamics.games.intervals import Estimate, mean

#: share of the tokens at the end whose mean loss is the final one
TAIL = 0.2


@dataclass(frozen=True)
class Information:
    """What a learner learnt.

    Attributes
    ----------
    nats : sum over tokens of (loss before training on it - final loss).
    final : mean loss of the tail, nats per token.
    tokens : number of tokens of the curve.
    """

    nats: float
    final: float
    tokens: float

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {"nats": self.nats, "final": self.final, "tokens": self.tokens}


def learnable_information(losses: ArrayLike, tokens: ArrayLike, tail: float = TAIL) -> Information:
    """Estimate the learnable information from a loss curve.

    Parameters
    ----------
    losses : (steps,) mean loss per token of each batch before it is trained on, nats.
    tokens : (steps,) tokens of each batch.
    tail : share of the tokens, at the end, whose mean is the final loss.

    Returns
    -------
    The estimate. It is negative for a learner that gets worse.

    Raises
    ------
    InputError : series of different lengths, losses that are not finite, or fewer than two steps.

    Notes
    -----
    It measures tasks and learner together: another size, learning rate or number of tokens gives another number, so compare phases under
    one learner at equal tokens only. A learner that has not converged has a final loss that is too high, and the estimate is too low.
    Repeated tasks lower the final loss by memory.
    """
    curve, sizes = np.asarray(losses, float), np.asarray(tokens, float)
    if curve.ndim != 1 or curve.shape != sizes.shape or len(curve) < 2:
        raise InputError(f"losses of shape {curve.shape} and tokens of shape {sizes.shape}: expected two series of one length, at least 2")
    if not np.isfinite(curve).all() or not (sizes > 0).all():
        raise InputError("losses must be finite and each batch must have tokens")
    if not 0 < tail < 1:
        raise InputError(f"tail={tail}: must be between 0 and 1")
    before = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
    last = before >= (1 - tail) * sizes.sum()
    last[-1] = True
    final = float(np.average(curve[last], weights=sizes[last]))
    return Information(math.fsum((curve - final) * sizes), final, float(sizes.sum()))


def over_learners(found: list[Information], level: float = LEVEL) -> Estimate:
    """Average the estimates of learners of several seeds, with Student's t interval: it is about the learner's seed, not about tasks."""
    return mean([each.nats for each in found], level)
