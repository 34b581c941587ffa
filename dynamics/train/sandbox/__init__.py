"""Runs programs that a model wrote: by walking small expressions, or in confined processes."""

from dynamics.train.sandbox.expressions import Expressions, Outcome, Refused
from dynamics.train.sandbox.host import Job, Sandbox, SandboxUnavailable
from dynamics.train.sandbox.runner import ProgramRunner

__all__ = ["Expressions", "Job", "Outcome", "ProgramRunner", "Refused", "Sandbox", "SandboxUnavailable"]
