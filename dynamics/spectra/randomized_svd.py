"""Randomised SVD: the first singular directions of a matrix, with bounds on the error.

Randomised range finding with power iterations (Halko, Martinsson and Tropp, arXiv 0909.4061). With Q the orthonormal basis found,
B = Q^T A and R = A - Q B, the squared singular values of A obey

    sigma_i(B)^2  <=  sigma_i(A)^2  <=  sigma_i(B)^2 + |R|_2^2

|R|_F follows from the norms; |R|_2 is bounded with random vectors, which fails with probability ``FAILURE`` per matrix. The bounds assume
nothing else about the matrix and can be wide: a few directions usually hold little of the energy of a weight matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.extras import optional_import

#: bound on |R|_2: number of random vectors, factor, and number of applications of R^T R
PROBES, FACTOR, TIMES = 16, 2.5, 3
FAILURE = FACTOR**-PROBES
#: allowance for float32 rounding, relative to the norm
ROUNDING = 2e-6


@dataclass(frozen=True)
class Sketch:
    """Approximate SVD of a matrix (m, n) by l directions.

    Attributes
    ----------
    left, sigma, right : (m, l), (l,), (n, l); ``sigma`` is never above the true singular values.
    norm, residual : Frobenius norm of the matrix, and of the residual R.
    tail : upper bound on the largest singular value of R.
    slips : (l,) |R v| for each right direction v.
    """

    shape: tuple[int, int]
    left: Float[np.ndarray, "m l"]
    sigma: Float[np.ndarray, " l"]
    right: Float[np.ndarray, "n l"]
    norm: float
    residual: float
    tail: float
    slips: Float[np.ndarray, " l"]

    def above(self) -> Float[np.ndarray, " l"]:
        """Return upper bounds of the singular values, (l,)."""
        return np.asarray(np.sqrt(self.sigma**2 + self.tail**2))

    def sine(self, k: int) -> float:
        """Bound the sine of the largest angle between the first k directions, left or right, and the true ones (Wedin's theorem).

        The bound is 1, and says nothing, unless the gap after the k-th singular value exceeds the uncertainty of the sketch.
        """
        if k > len(self.sigma) or (k == len(self.sigma) and k < min(self.shape)):
            return 1.0
        gap = float(self.sigma[k - 1] - math.hypot(self.sigma[k] if k < len(self.sigma) else 0.0, self.tail))
        return min(1.0, float(np.linalg.norm(self.slips[:k])) / gap) if gap > 0 else 1.0


def sketch(matrix: Float[np.ndarray, "m n"], count: int, powers: int = 2, seed: int = 0, device: str | None = None) -> Sketch:
    """Find the first ``count`` directions of ``matrix`` (m, n), the more exactly the more ``powers`` where singular values fall slowly.

    The basis is found in float32; the singular values, and everything that bounds are taken from but the slips, in float64.
    """
    with optional_import("measuring spectra"):
        import torch

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    a = torch.from_numpy(np.ascontiguousarray(matrix, np.float64)).to(target)
    m, n = a.shape
    count = min(count, m, n)
    norm = float(torch.linalg.vector_norm(a))
    if not norm:
        zero = np.zeros(count)
        return Sketch((m, n), np.eye(m, count), zero, np.eye(n, count), 0.0, 0.0, 0.0, zero)
    scale = norm / math.sqrt(m * n)
    narrow = a.float().div_(scale)
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, n, generator=random).to(target)
    for _ in range(powers):  # kept as rows: products with few columns are slow
        rows = torch.linalg.qr(((rows @ narrow.T) @ narrow).T).Q.T
    qt = torch.linalg.qr((rows @ narrow.T).T.double()).Q.T
    b = qt @ a
    u, s, vt = torch.linalg.svd(b, full_matrices=False)
    basis, short, right = qt.float(), (b / scale).float(), vt.float()
    slips = scale * torch.linalg.vector_norm((right @ narrow.T - (right @ short.T) @ basis).double(), dim=1) + ROUNDING * norm
    slack = 64 * np.finfo(np.float64).eps * norm**2
    residual = math.sqrt(max(0.0, norm**2 - float((s**2).sum())) + slack)
    tail = residual
    if count < min(m, n):
        probe = torch.randn(PROBES, n, generator=random).to(target)
        for _ in range(TIMES):
            out = probe @ narrow.T - (probe @ short.T) @ basis
            probe = out @ narrow - (out @ basis.T) @ short
        longest = float(torch.linalg.vector_norm(probe.double(), dim=1).max())
        # Lemma 4.1 there, of (R^T R)^TIMES; a thousandth for the rounding of float32, whose own part of R is in the last term
        bound = scale * (FACTOR * math.sqrt(2 / math.pi) * longest) ** (1 / (2 * TIMES)) * 1.001 + ROUNDING * norm
        tail = min(tail, bound)
    return Sketch((m, n), (qt.T @ u).cpu().numpy(), s.cpu().numpy(), vt.T.cpu().numpy(), norm, residual, tail, slips.cpu().numpy())


def likely_tail(sketched: Sketch) -> Float[np.ndarray, " rest"]:
    """Extrapolate the remaining squared singular values, (min(m, n) - l,): a decay to 0 with the correct sum."""
    count = min(sketched.shape) - len(sketched.sigma)
    last, energy = float(sketched.sigma[-1]) ** 2, sketched.residual**2
    if not count or not energy:
        return np.zeros(count)
    bend = max(0.0, count * last / energy - 1)
    falling = (1 - (np.arange(count) + 0.5) / count) ** bend
    return np.asarray(falling * (energy / falling.sum()))


def extremes(sketched: Sketch) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    """Compute the flattest and the most peaked squared singular values, (min(m, n),) each, that are consistent with the sketch.

    The most peaked spectrum majorises every consistent spectrum, and every consistent spectrum majorises the flattest. Quantities that
    grow as energy spreads out (stable rank, entropy of the energies, number of directions for a fraction of the energy) are bounded by
    their values at the two.
    """
    size, known = min(sketched.shape), len(sketched.sigma)
    total = sketched.norm**2
    low = np.zeros(size)
    low[:known] = sketched.sigma**2
    ranks = np.arange(1, size - known + 1)
    high = np.concatenate([sketched.sigma**2 + sketched.tail**2, np.minimum(sketched.tail**2, sketched.residual**2 / ranks)])
    room = np.maximum(high - low, 0)
    remaining = max(0.0, total - float(low.sum()))
    peaked = low + np.clip(remaining - (np.cumsum(room) - room), 0, room)
    under, over = 0.0, float(high.max(initial=0.0))
    for _ in range(200):
        level = (under + over) / 2
        under, over = (level, over) if np.clip(level, low, high).sum() < total else (under, level)
    return np.sort(np.clip(over, low, high))[::-1], np.sort(peaked)[::-1]
