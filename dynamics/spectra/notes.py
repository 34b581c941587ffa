"""Headline and notes for the spectra of two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.descriptions import plural

if TYPE_CHECKING:
    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum


def headline(spectra: Sequence[Spectrum], skipped: Sequence[Skip]) -> str:
    """State that all matrices are identical, or that most tensors are on one side only; else return an empty text."""
    alone = sum(skip.reason.startswith("only in") for skip in skipped)
    lines = []
    if alone > len(spectra):
        lines.append(f"these checkpoints share only some of their tensors: {plural(alone, 'tensor')} on one side only")
    if spectra and not any(spectrum.update_norm for spectrum in spectra):
        lines.append(f"identical: {plural(len(spectra), 'matrix', 'matrices')} measured, none differs")
    return "; ".join(lines)


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
