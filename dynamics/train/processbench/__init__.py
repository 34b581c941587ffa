"""Let a critic look for the first wrong step of solutions, in files of the format of ProcessBench."""

from dynamics.train.processbench.judging import SCHEMA, Solution, first_wrong, read, report, score

__all__ = ["SCHEMA", "Solution", "first_wrong", "read", "report", "score"]
