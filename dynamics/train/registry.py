"""The training methods: which class plays each, imported when it is needed."""

from __future__ import annotations

import importlib
from typing import cast

from dynamics.train.config import TrainConfig
from dynamics.train.method import Method
from dynamics.train.policy import Policy
from dynamics.train.tasks.problem import Source

#: module and class of each method; its settings are in ``settings.METHODS``
CLASSES = {
    "sft": "dynamics.train.methods.sft:SFT",
    "rlvr": "dynamics.train.methods.rlvr:RLVR",
    "selfplay": "dynamics.train.games.azr:SelfPlay",
    "seirenes": "dynamics.train.games.seirenes:Seirenes",
    "spc": "dynamics.train.games.spc:SPC",
    "pasodoble": "dynamics.train.games.pasodoble:PasoDoble",
    "populora": "dynamics.train.games.populora:PopuLoRA",
}


def make(method: str, config: TrainConfig, policy: Policy, source: Source) -> Method:
    """Make a method from its settings, the model of the run, and the source of problems."""
    module, _, name = CLASSES[method].partition(":")
    return cast("Method", getattr(importlib.import_module(module), name)(config, policy, source))
