"""Modules and functions under the names they had before version 0.2: each still imports, with a warning, until the next release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

#: old name -> new name of a module
MOVED = {
    "dynamics.betabinomial": "dynamics.passk.betabinomial",
    "dynamics.estimators": "dynamics.passk.estimators",
    "dynamics.logits": "dynamics.entropy.logits",
    "dynamics.plots": "dynamics.presentation",
    "dynamics.plots.entropy": "dynamics.entropy.plot",
    "dynamics.plots.entropy_page": "dynamics.entropy.page",
    "dynamics.plots.entropy_terminal": "dynamics.entropy.terminal",
    "dynamics.plots.html": "dynamics.presentation.html",
    "dynamics.plots.methods": "dynamics.presentation.methods",
    "dynamics.plots.overlap": "dynamics.overlap.plot",
    "dynamics.plots.overlap_page": "dynamics.overlap.page",
    "dynamics.plots.overlap_terminal": "dynamics.overlap.terminal",
    "dynamics.plots.passk": "dynamics.passk.plot",
    "dynamics.plots.passk_page": "dynamics.passk.page",
    "dynamics.plots.passk_terminal": "dynamics.passk.terminal",
    "dynamics.plots.proposer": "dynamics.train.games.plot_rewards",
    "dynamics.plots.screen": "dynamics.presentation.tables",
    "dynamics.plots.sparsity": "dynamics.sparsity.plot",
    "dynamics.plots.sparsity_page": "dynamics.sparsity.page",
    "dynamics.plots.sparsity_rules": "dynamics.sparsity.plot_rules",
    "dynamics.plots.sparsity_terminal": "dynamics.sparsity.terminal",
    "dynamics.plots.spectra": "dynamics.spectra.plot",
    "dynamics.plots.spectra_page": "dynamics.spectra.page",
    "dynamics.plots.style": "dynamics.presentation.style",
    "dynamics.plots.text": "dynamics.presentation.text",
    "dynamics.plots.train_terminal": "dynamics.train.terminal",
    "dynamics.plots.ulp": "dynamics.sparsity.plot_ulp",
    "dynamics.rundir": "dynamics.runs.directory",
    "dynamics.sketch": "dynamics.spectra.randomized_svd",
    "dynamics.texts": "dynamics.rollouts.texts",
    "dynamics.traces": "dynamics.entropy.traces",
}
#: old name -> new name of a class or function whose module is still there
MOVED_NAMES = {
    "dynamics.bootstrap.Crossing": "dynamics.passk.crossing.Crossing",
    "dynamics.bootstrap.crossing": "dynamics.passk.crossing.crossing",
    "dynamics.bootstrap.crossing_ks": "dynamics.passk.crossing.crossing_ks",
    "dynamics.entropy.logits.Sums": "dynamics.entropy.moments.SoftmaxMoments",
}


def moved_names(module: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module from which names have moved."""

    def find(name: str) -> Any:
        old = f"{module}.{name}"
        if old not in MOVED_NAMES:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(old, MOVED_NAMES[old])
        new_module, _, new_name = MOVED_NAMES[old].rpartition(".")
        return getattr(importlib.import_module(new_module), new_name)

    return find


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} has moved to {new}; the old name will be removed in the next release", FutureWarning, stacklevel=3)


class _Finder(MetaPathFinder, Loader):
    """Import a moved module: the old name gives the very module of the new one."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """Answer for old names only."""
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to ``exec_module`` to put the moved module in the place of an empty one."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = MOVED[old]
        _warn(old, new)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Let imports of old names be answered; ahead of the path, which would find some a second time."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
