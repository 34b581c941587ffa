r"""Spectra of updates: rank of the update of each weight matrix, and change of the matrix's singular values and subspaces.

    python -m dynamics.spectra BASE TUNED
    python -m dynamics.spectra BASE TUNED --only 'layers\.(0|15)\.' --subspace 32 --json spectra.json

    python -m dynamics.spectra BASE TUNED --method approx

For each matrix W of the base, with the update D = tuned - base, from singular value decompositions in float64:

    rank, stable rank, effective rank, rank at 90, 95 and 99 % of the energy    of D
    energy of the first 1, 4, 16 and 64 directions, decay of the first k        of D
    spectral drift (NSS)      |sigma(W + D) - sigma(W)| / |sigma(W)|
    principal angles          between the first k left (right) singular directions of W and of W + D
    energy inside             fraction of |D|^2 in the span of the first k directions of W, with its chance value
    mask overlaps             fraction of changed weights among the largest weights of the rank-k part of W, or the smallest of W
    intruders                 number of the first ten left directions of W + D that have no counterpart in W
    Hill exponent             power-law exponent of the tail of the squared singular values

``--method approx`` computes the first directions only, by random projections, and reports estimates with bounds that hold for any matrix
(``randomized_svd``). ``--method none`` omits everything that needs a decomposition. The update of a LoRA adapter is decomposed through its
factors.

As a library: ``dynamics.spectra.measure(base, tuned)`` of two arrays. Definitions after Zhu et al. (arXiv 2511.08567), Shuttleworth et al.
(arXiv 2410.21228) and Martin and Mahoney.
"""

from __future__ import annotations

from dynamics.spectra.comparison import METHODS, SCHEMA, Spectrum, compare, measure
from dynamics.spectra.linalg import angles, hill, ranks
from dynamics.spectra.rank_one_dynamics import RankOne, rank_one

__all__ = ["METHODS", "SCHEMA", "RankOne", "Spectrum", "angles", "compare", "hill", "measure", "rank_one", "ranks"]
