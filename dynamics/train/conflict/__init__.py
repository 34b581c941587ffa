"""The conflict between the roles of a game, from the checkpoints and rollouts of a run."""

from dynamics.train.conflict.report import of_run

__all__ = ["of_run"]
