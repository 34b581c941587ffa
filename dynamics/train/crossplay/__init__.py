"""The cross-play matrix of a run: each checkpoint of a player on the tasks of each phase."""

from dynamics.train.crossplay.report import of_run

__all__ = ["of_run"]
