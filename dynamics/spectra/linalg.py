"""Ranks, principal angles, masks and tails of matrices: pure functions on float64 arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from dynamics.extras import optional_import

#: intruders: number of directions examined, and |cosine| below which a direction has no counterpart
TOP, COUNTERPART = 10, 0.5


#: fraction of the singular values that the Hill estimator uses
TAIL = 0.1


#: numbers of directions of which the energy is given
TOPS = (1, 4, 16, 64)
#: singular values from which a decay is fitted
FEWEST = 3


#: oversampling: number of directions that ``approx`` computes beyond k
MORE = 16


def ranks(sigma: Float[np.ndarray, " size"], shape: tuple[int, int]) -> dict[str, Any]:
    """Compute the rank, stable rank, effective ranks and energy ranks from singular values in descending order.

    >>> ranks(np.array([2.0, 2.0, 0.0]), (3, 3))["rank"], float(ranks(np.array([2.0, 2.0, 0.0]), (3, 3))["stable_rank"])
    (2, 2.0)
    """
    energy = sigma**2
    total = float(energy.sum())
    if not total:
        return {"rank": 0, "rank_90": 0, "rank_95": 0, "rank_99": 0} | dict.fromkeys(
            ("stable_rank", "effective_rank", "effective_rank_energy"), math.nan
        )
    reached = np.cumsum(energy) / total
    return {
        "rank": int((sigma > max(shape) * np.finfo(np.float64).eps * sigma[0]).sum()),
        "stable_rank": total / float(energy[0]),
        "effective_rank": _perplexity(sigma / sigma.sum()),
        "effective_rank_energy": _perplexity(energy / total),
        **{f"rank_{share}": int(np.searchsorted(reached, share / 100 - 1e-12) + 1) for share in (90, 95, 99)},
    }


def _perplexity(p: Float[np.ndarray, " size"]) -> float:
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def angles(first: Float[np.ndarray, "m k"], second: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " k"]:
    """Compute the principal angles between the spans of two matrices with k orthonormal columns, in degrees, ascending.

    Uses the sine and the cosine form of Bjoerck and Golub (1973), so that small angles and right angles are both accurate.

    >>> float(angles(np.eye(4)[:, :2], np.eye(4)[:, :2]).max())
    0.0
    """
    with optional_import("measuring spectra"):
        import torch

    a, b = torch.from_numpy(np.ascontiguousarray(first)), torch.from_numpy(np.ascontiguousarray(second))
    product = a.T @ b
    cosines = torch.linalg.svdvals(product).clamp(0, 1)
    sines = torch.linalg.svdvals(b - a @ product).flip(0).clamp(0, 1)
    return np.asarray(torch.rad2deg(torch.arctan2(sines, cosines)))


def norm(matrix: Float[np.ndarray, "m n"]) -> float:
    """Compute the Frobenius norm, in torch like the rest of ``approx``: alternating with numpy makes the two thread pools contend."""
    with optional_import("measuring spectra"):
        import torch

    return float(torch.linalg.vector_norm(torch.from_numpy(matrix)))


def hill(sigma: Float[np.ndarray, " size"]) -> float:
    """Estimate the power-law exponent of the largest tenth of the squared singular values (descending) by Hill's estimator."""
    eigenvalues = sigma[sigma > 0] ** 2
    count = max(1, int(TAIL * len(sigma)))
    if len(eigenvalues) <= count:
        return math.nan
    logs = np.log(eigenvalues[:count] / eigenvalues[count]).sum()
    return 1 + count / float(logs) if logs > 0 else math.nan


def energies(squares: Float[np.ndarray, " size"]) -> dict[str, float]:
    """Compute the share of the energy that the first 1, 4, 16 and 64 directions hold, from squared singular values in descending order.

    >>> energies(np.array([6.0, 1.0, 1.0, 1.0, 1.0]))["energy_4"]
    0.9
    """
    total = float(squares.sum())
    return {f"energy_{top}": min(1.0, float(squares[:top].sum()) / total) if total else math.nan for top in TOPS}


def fitted(sigma: Sequence[float] | Float[np.ndarray, " k"], shape: tuple[int, int]) -> int:
    """Count the singular values that a decay is fitted to: those that are not 0, up to rounding; see ``ranks``."""
    return int((np.asarray(sigma) > max(shape) * np.finfo(np.float64).eps * max(sigma, default=0.0)).sum())


def decay(sigma: Float[np.ndarray, " count"]) -> tuple[float, float]:
    """Fit sigma_i = c i^-alpha to the first singular values, all above 0, by least squares of log sigma_i on log i.

    Returns
    -------
    alpha, and the coefficient of determination R^2 of the line, which is NaN if all values are equal. Both are NaN for fewer than three
    values. Singular values are in order and not independent, so no interval follows from the residuals. R^2 is high for curves that are no
    power laws too: 0.84 for exp(-i / 10), about 0.9 for Gaussian noise of 576 x 576, over 32 values each.

    >>> [round(value, 9) for value in decay(np.arange(1, 33) ** -0.5)]
    [0.5, 1.0]
    """
    if len(sigma) < FEWEST:
        return math.nan, math.nan
    logs = np.log(sigma)
    slope = float(slope_weights(len(sigma)) @ logs)
    spread = float(((logs - logs.mean()) ** 2).sum())
    explained = slope**2 * log_spread(len(sigma))
    return -slope, min(1.0, explained / spread) if spread > len(sigma) * (64 * np.finfo(np.float64).eps) ** 2 else math.nan


def slope_weights(count: int) -> Float[np.ndarray, " count"]:
    """Return the weights with which values at log 1, log 2, ..., log count add up to the slope of their line of least squares."""
    x = np.log(np.arange(1, count + 1))
    return np.asarray((x - x.mean()) / log_spread(count))


def log_spread(count: int) -> float:
    """Compute the sum of squared deviations of log 1, ..., log count from their mean."""
    x = np.log(np.arange(1, count + 1))
    return float(((x - x.mean()) ** 2).sum())


def svd(matrix: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, "m r"], Float[np.ndarray, " r"], Float[np.ndarray, "r n"]]:
    """Compute U, sigma and V^T in float64, on a GPU if available."""
    with optional_import("measuring spectra"):
        import torch

    if torch.cuda.is_available():
        u, s, v = torch.linalg.svd(torch.from_numpy(matrix).cuda(), full_matrices=False)
        return u.cpu().numpy(), s.cpu().numpy(), v.cpu().numpy()
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return u, s, v


def padded(sigma: Float[np.ndarray, " known"], size: int) -> Float[np.ndarray, " size"]:
    """Pad singular values with zeros, or truncate them, to ``size``."""
    return np.concatenate([sigma, np.zeros(max(0, size - len(sigma)))])[:size]


def angle_summary(left: Float[np.ndarray, " k"], right: Float[np.ndarray, " k"], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields of a ``Spectrum`` for ascending angles.

    Parameters
    ----------
    left, right : degrees, between the first k directions before and after.
    shape : of the matrix. k directions span all of a k-dimensional space, before and after, so that no angle is defined.
    """
    summary: dict[str, Any] = {}
    for side, degrees, dimensions in (("left", left, shape[0]), ("right", right, shape[1])):
        defined = len(degrees) < dimensions
        summary[f"angle_{side}_max"] = float(degrees.max()) if defined else math.nan
        summary[f"angle_{side}_mean"] = float(degrees.mean()) if defined else math.nan
        summary[f"angles_{side}"] = tuple(degrees.tolist()) if defined else ()
    return summary


def energy_in_subspace(
    left: Float[np.ndarray, "m k"], right: Float[np.ndarray, "n k"], update: Float[np.ndarray, "m n"]
) -> dict[str, float]:
    """Compute the fractions of the update's energy in the span of the directions ``left`` (m, k) and ``right`` (n, k)."""
    with optional_import("measuring spectra"):
        import torch

    total = norm(update) ** 2
    tensor = torch.from_numpy(update)
    rows, columns = (torch.from_numpy(np.ascontiguousarray(side.T)) for side in (left, right))
    projected = rows @ tensor
    parts = {"inside": projected @ columns.T, "inside_left": projected, "inside_right": columns @ tensor.T}
    return {name: float((part**2).sum()) / total if total else math.nan for name, part in parts.items()}


def largest(values: Real[np.ndarray, "*shape"], count: int) -> Bool[np.ndarray, "*shape"]:
    """Mark the ``count`` largest values; of ties those that come first."""
    mask = np.zeros(values.size, bool)
    if count:
        flat = values.ravel()
        edge = np.partition(flat, flat.size - count)[flat.size - count]
        np.greater(flat, edge, out=mask)
        mask[np.flatnonzero(flat == edge)[: count - int(mask.sum())]] = True
    return mask.reshape(values.shape)
