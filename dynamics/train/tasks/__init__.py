"""Tasks: sources of verifiable problems, and their prompts."""

from dynamics.train.tasks.mixture import Mixture, parts, source
from dynamics.train.tasks.problem import TASK_TYPES, Problem, ProposedTask, Question, ScoredSource, Source, Verdict
from dynamics.train.tasks.test_sets import TEST_SETS

__all__ = [
    "TASK_TYPES",
    "TEST_SETS",
    "Mixture",
    "Problem",
    "ProposedTask",
    "Question",
    "ScoredSource",
    "Source",
    "Verdict",
    "parts",
    "source",
]
