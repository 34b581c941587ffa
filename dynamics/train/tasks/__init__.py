"""Tasks: where verifiable problems come from, and how they are written as prompts."""

from dynamics.train.tasks.mixture import source
from dynamics.train.tasks.problem import TASK_TYPES, TEST_SETS, Problem, ProposedTask, Question, Source, Verdict

__all__ = ["TASK_TYPES", "TEST_SETS", "Problem", "ProposedTask", "Question", "Source", "Verdict", "source"]
