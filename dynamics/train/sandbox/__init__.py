"""Run programs written by a model: by interpreting small expressions, or in sandboxed processes."""

from dynamics.train.sandbox.backends import SandboxUnavailable
from dynamics.train.sandbox.expressions import Expressions, Outcome
from dynamics.train.sandbox.host import Job, Sandbox
from dynamics.train.sandbox.literals import Refused
from dynamics.train.sandbox.runner import ProgramRunner

__all__ = ["Expressions", "Job", "Outcome", "ProgramRunner", "Refused", "Sandbox", "SandboxUnavailable"]
