"""The training methods, with their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynamics.train import config
from dynamics.train.config import TrainConfig
from dynamics.train.games.azr import SelfPlay
from dynamics.train.method import Method
from dynamics.train.methods.rlvr import RLVR
from dynamics.train.methods.sft import SFT
from dynamics.train.policy import Policy
from dynamics.train.tasks.problem import Source


@dataclass(frozen=True)
class TrainingMethod:
    """A training method and its config class.

    Attributes
    ----------
    config : class of the settings.
    make : creates the method from its settings, the policy and the source of problems.
    """

    config: type[TrainConfig]
    make: Callable[[Any, Policy, Source], Method]


METHODS = {
    "sft": TrainingMethod(config.METHODS["sft"], SFT),
    "rlvr": TrainingMethod(config.METHODS["rlvr"], RLVR),
    "selfplay": TrainingMethod(config.METHODS["selfplay"], SelfPlay),
}
