"""What a run on the laboratory was trained on, against every problem set."""

from dynamics.train.contamination.report import FILE, of_run, write

__all__ = ["FILE", "of_run", "write"]
