"""Headline and notes for the spectra of two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.checkpoints.coverage import coverage, warning
from dynamics.descriptions import plural

if TYPE_CHECKING:
    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum


def headline(spectra: Sequence[Spectrum], skipped: Sequence[Skip]) -> str:
    """State that parameters were left out, and that all matrices are identical; else return an empty text."""
    lines = [incomplete(spectra, skipped)]
    if spectra and not any(spectrum.update_norm for spectrum in spectra):
        lines.append(f"identical: {plural(len(spectra), 'matrix', 'matrices')} measured, none differs")
    return "; ".join(filter(None, lines))


def coverage_of(spectra: Sequence[Spectrum], skipped: Sequence[Skip]) -> dict[str, float]:
    """Compute the share of the parameters of each checkpoint in matrices that could be measured; vectors do not count."""
    measured = sum(math.prod(spectrum.shape) for spectrum in spectra)
    return {side: coverage(side, measured, skipped) for side in ("base", "tuned")}


def incomplete(spectra: Sequence[Spectrum], skipped: Sequence[Skip]) -> str:
    """Name the checkpoint of which more than 0.1 % of the parameters could not be measured; else return an empty text."""
    return warning(coverage_of(spectra, skipped))


def notes(spectra: Sequence[Spectrum]) -> list[str]:
    """Explain missing values: matrices that did not change, and subspaces as large as the whole space."""
    lines = []
    unchanged = sum(not spectrum.update_norm for spectrum in spectra)
    if unchanged:
        lines.append(
            f"{plural(unchanged, 'matrix', 'matrices')} of {len(spectra):,} did not change: no rank, angle or energy (-); medians leave "
            "them out"
        )
    whole = [spectrum for spectrum in spectra if spectrum.k >= min(spectrum.shape) and spectrum.update_norm]
    if whole:
        smallest = min(min(spectrum.shape) for spectrum in whole)
        lines.append(
            f"{plural(len(whole), 'matrix', 'matrices')} of {len(spectra):,} with a side no longer than k (the smallest is {smallest}): "
            "their first k directions span the whole space before and after, so there is no angle (-); choose a smaller --subspace"
        )
    return lines
