"""Energy and decay of the updates of several matrices together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints import parameter_names
from dynamics.spectra.linalg import TOPS, fitted, log_spread

if TYPE_CHECKING:
    from dynamics.spectra.comparison import Spectrum

ENERGIES = tuple(f"energy_{top}" for top in TOPS)
DECAYS = ("decay_base", "decay_update")


def pooled(spectra: Sequence[Spectrum]) -> dict[str, Any]:
    """Pool the matrices that changed.

    Returns
    -------
    ``matrices``, their number; ``energy_1`` and the like, the share of the energy of all updates that lies in the first directions of
    each; ``decay_base`` and ``decay_update``, the common exponent of lines that have intercepts of their own; ``bounds`` as in
    ``Spectrum``. NaN for what was not measured of any matrix. A matrix with a large update weighs more in the energies, one with more
    singular values in its fit weighs more in the decays.
    """
    moved = [spectrum for spectrum in spectra if spectrum.update_norm]
    result: dict[str, Any] = {"matrices": len(moved)}
    bounds: dict[str, tuple[float, float]] = {}
    for names, weigh in ((ENERGIES, _energy), (DECAYS, _spread)):
        for name in names:
            measured = [spectrum for spectrum in moved if getattr(spectrum, name) == getattr(spectrum, name)]
            weights = [weigh(spectrum, name) for spectrum in measured]
            result[name] = _mean([getattr(spectrum, name) for spectrum in measured], weights)
            if any(name in spectrum.bounds for spectrum in measured):
                ends = [spectrum.bounds.get(name, (getattr(spectrum, name),) * 2) for spectrum in measured]
                bounds[name] = _mean([low for low, _ in ends], weights), _mean([high for _, high in ends], weights)
    return result | {"bounds": bounds}


def by_module(spectra: Sequence[Spectrum]) -> dict[str, dict[str, Any]]:
    """Pool the matrices of each kind of module, in the usual order of the kinds."""
    kinds: dict[str, list[Spectrum]] = {}
    for spectrum in spectra:
        kinds.setdefault(parameter_names.kind(spectrum.name), []).append(spectrum)
    return {kind: pooled(kinds[kind]) for kind in sorted(kinds, key=parameter_names.module_order)}


def _energy(spectrum: Spectrum, _name: str) -> float:
    return spectrum.update_norm**2


def _spread(spectrum: Spectrum, name: str) -> float:
    return log_spread(fitted(spectrum.sigma_base if name == "decay_base" else spectrum.sigma_update, spectrum.shape))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    whole = math.fsum(weights)
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / whole if whole else math.nan
