"""The learnable information of the tasks of each phase of a run, by training small learners on them."""

from dynamics.train.learnable.report import of_run

__all__ = ["of_run"]
