"""The optimizer steps of a player on a batch: what every engine does the same, whatever computes the gradient."""

from __future__ import annotations

from collections.abc import Callable

from dynamics.train import token_metrics, update
from dynamics.train.batch import Batch
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.player import Player
from dynamics.train.policy import Policy
from dynamics.train.updates import Update

#: takes one optimizer step; returns the values of the tokens before it, and the norm of the gradient
Take = Callable[[update.Before], tuple[update.Tokens, float]]


def iterate(player: Player, reference: Policy | None, batch: Batch, config: TrainConfig, step: int, take: Take) -> Update:
    """Take the optimizer steps of a player on a batch by ``take``, one after the other."""
    before = update.prepare(player.policy, reference, batch, config, step)
    iterations = config.num_iterations if isinstance(config, PolicyGradientConfig) else 1
    dual = isinstance(config, PolicyGradientConfig) and bool(config.clip_ratio_c)
    first: update.Tokens | None = None
    norm, clips = 0.0, dict[str, float]()
    for _ in range(iterations):
        tokens, taken = take(before)
        if first is None:
            first, norm = tokens, taken
        else:
            clips |= token_metrics.clip_metrics(tokens)
        if dual:
            clips["clip/dual"] = float(tokens.clipped_dual.mean())
    assert first is not None
    return Update(batch, first, norm, tokens.logp, clips, update.learning(batch, config), iterations, before.dropped, before.reference)
