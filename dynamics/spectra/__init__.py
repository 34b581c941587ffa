r"""The shape of an update: its rank, and what it does to the singular values and subspaces of the matrices that it moves.

    python -m dynamics.spectra BASE TUNED
    python -m dynamics.spectra BASE TUNED --only 'layers\.(0|15)\.' --subspace 32 --json spectra.json

    python -m dynamics.spectra BASE TUNED --method approx

For every matrix W of the base, with its update D = tuned - base, by singular value decompositions in float64:

    rank, stable rank, effective rank, rank at 90, 95 and 99 % of the energy    of D
    spectral drift (NSS)      |sigma(W + D) - sigma(W)| / |sigma(W)|
    principal angles          between the first k left (right) singular directions of W and of W + D
    energy inside             share of |D|^2 within the first k directions of W, beside its chance value
    mask overlaps             share of the changed weights that are among the largest of the rank-k part of W, or the smallest of W
    intruders                 of the first ten left directions of W + D, those with no counterpart in W
    Hill exponent             of the tail of the squared singular values

``--method approx`` finds the first directions only, by random projections, and gives every quantity as an estimate with bounds that hold
whatever the matrix (``randomized_svd``); ``--method none`` leaves out all that needs a decomposition. The update of a LoRA folder is
decomposed by its factors.

As a library: ``dynamics.spectra.measure(base, tuned)`` of two arrays. Definitions after Zhu et al. (arXiv 2511.08567), Shuttleworth et al.
(arXiv 2410.21228) and Martin and Mahoney.
"""

from __future__ import annotations

from dynamics.spectra.comparison import METHODS, SCHEMA, Spectrum, compare, measure
from dynamics.spectra.linalg import angles, hill, ranks

__all__ = ["METHODS", "SCHEMA", "Spectrum", "angles", "compare", "hill", "measure", "ranks"]
