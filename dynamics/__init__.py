"""Measure what a post-training run did to a model.

Sub-modules are imported when first used (PEP 562), so ``import dynamics`` costs milliseconds::

    import dynamics
    dynamics.sparsity.compare("base", "tuned").total
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from dynamics import _moved
from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics import bootstrap as bootstrap
    from dynamics import checkpoints as checkpoints
    from dynamics import games as games
    from dynamics import models as models
    from dynamics import presentation as presentation
    from dynamics import report as report
    from dynamics import rollouts as rollouts
    from dynamics import runs as runs
    from dynamics import samples as samples
    from dynamics import train as train

__version__ = "0.1.0"
_SUBMODULES = (
    "bootstrap",
    "checkpoints",
    "entropy",
    "games",
    "models",
    "overlap",
    "passk",
    "presentation",
    "recorder",
    "report",
    "rollouts",
    "runs",
    "samples",
    "sparsity",
    "spectra",
    "train",
)
__all__ = ["InputError", "__version__", *_SUBMODULES]

_moved.install()


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES or f"dynamics.{name}" in _moved.MOVED:
        return importlib.import_module(f"dynamics.{name}")
    raise AttributeError(f"module 'dynamics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
