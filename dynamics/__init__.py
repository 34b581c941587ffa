"""What did this post-training run do to the model?

Sub-modules are imported when first used (PEP 562), so ``import dynamics`` costs milliseconds::

    import dynamics
    dynamics.sparsity.compare("base", "tuned").total
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics import betabinomial as betabinomial
    from dynamics import bootstrap as bootstrap
    from dynamics import checkpoints as checkpoints
    from dynamics import entropy as entropy
    from dynamics import estimators as estimators
    from dynamics import logits as logits
    from dynamics import overlap as overlap
    from dynamics import passk as passk
    from dynamics import plots as plots
    from dynamics import recorder as recorder
    from dynamics import samples as samples
    from dynamics import sketch as sketch
    from dynamics import sparsity as sparsity
    from dynamics import spectra as spectra
    from dynamics import train as train

__version__ = "0.1.0"
_SUBMODULES = (
    "betabinomial",
    "bootstrap",
    "checkpoints",
    "entropy",
    "estimators",
    "logits",
    "overlap",
    "passk",
    "plots",
    "recorder",
    "samples",
    "sketch",
    "sparsity",
    "spectra",
    "train",
)
__all__ = ["InputError", "__version__", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"dynamics.{name}")
    raise AttributeError(f"module 'dynamics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
