"""A player: a policy that learns, with its optimizer. A method has one, a game may have several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # checks of a command line import this module, and need no torch
    import torch

    from dynamics.train.policy import Policy

#: name of the player of a method that has only one
ONLY = "policy"


@dataclass(frozen=True)
class Player:
    """A policy that learns, with its optimizer.

    Attributes
    ----------
    name : under which its state, measurements and checkpoints are kept.
    policy : the model.
    optimizer : of the master weights of the policy; see ``update.make_player``.
    """

    name: str
    policy: Policy
    optimizer: torch.optim.Optimizer
