"""Estimates and bounds of the quantities of ``dynamics.spectra``, computed from the leading singular directions only.

``randomized_svd`` bounds the singular values. The ranks of the update are bounded by the flattest and the most peaked spectrum within
these bounds. The upper bound of the drift is |D| / |W| (Mirsky); its lower bound is the smallest drift within the intervals of the
singular values. Angles and shares of energy change by at most the error of the directions (Wedin); this bound is trivial if the k-th and
the next singular value nearly agree.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dynamics.checkpoints.adapter import LowRank
from dynamics.extras import optional_import
from dynamics.spectra.linalg import (
    COUNTERPART,
    MORE,
    TOP,
    TOPS,
    angle_summary,
    angles,
    decay,
    energies,
    energy_in_subspace,
    fitted,
    largest,
    norm,
    padded,
    ranks,
    slope_weights,
)
from dynamics.spectra.matrix import Matrix, difference
from dynamics.spectra.randomized_svd import ROUNDING, Sketch, extremes, likely_tail, sketch

#: ranks that grow as the energy spreads over more directions
SPREADING = ("stable_rank", "effective_rank_energy", "rank_90", "rank_95", "rank_99")
#: shares that fall
CONCENTRATING = tuple(f"energy_{top}" for top in TOPS)
#: singular values below this share of the norm of a matrix may be rounding of the sketch
NOISE = 10 * ROUNDING


def approximate(
    before: Matrix,
    after: Matrix,
    changed: Bool[np.ndarray, "m n"],
    k: int,
    count: int,
    seed: int,
    factors: LowRank | None,
) -> dict[str, Any]:
    """Estimate the fields of a ``Spectrum``, with ``bounds``; the arguments are those of ``measure_stored``.

    At most one matrix of the size of the weight is held in float64 at a time, or two of them while the largest values are found.
    """
    size = min(before.shape)
    # the same random start and number of steps for both, so that the sketches have similar errors and differ by the update only
    first, second = (sketch(matrix.wide, k + MORE, seed=seed) for matrix in (before, after))
    update = difference(before, after)
    bounds: dict[str, tuple[float, float]] = {}
    if factors is None:
        of_update = sketch(update, k + MORE, seed=seed)
        update_ranks = _update_ranks(of_update, before.shape, bounds)
        sigma, captured = of_update.sigma, extremes(of_update)[1]
        falls = _decay("base", first, k, bounds) | _decay("update", of_update, k, bounds)
    else:
        sigma = padded(factors.singular_values(), size)
        update_ranks, captured = ranks(sigma, before.shape) | energies(sigma**2), sigma**2
        exponent, fit = decay(sigma[: fitted(sigma[:k], before.shape)])
        falls = _decay("base", first, k, bounds) | {"decay_update": exponent, "decay_update_fit": fit}
    sine = first.sine(k)
    slack = math.degrees(math.asin(sine) + math.asin(second.sine(k)))
    left, right = angles(first.left[:, :k], second.left[:, :k]), angles(first.right[:, :k], second.right[:, :k])
    angle_fields = angle_summary(left, right, before.shape)
    for name in ("angle_left_max", "angle_left_mean", "angle_right_max", "angle_right_mean"):
        if angle_fields[name] == angle_fields[name]:
            bounds[name] = (max(0.0, angle_fields[name] - slack), min(90.0, angle_fields[name] + slack))
    shares = energy_in_subspace(first.left[:, :k], first.right[:, :k], update)
    largest_share = float(captured[:k].sum() / captured.sum()) if captured.sum() else math.nan
    for name, value in shares.items():
        slack_of_root = sine * (2 if name == "inside" else 1)
        root = math.sqrt(value) if value == value else math.nan
        bounds[name] = (max(0.0, root - slack_of_root) ** 2, min(1.0, largest_share * (1 + 1e-9), (root + slack_of_root) ** 2))
    update_norm = norm(update)
    del update
    principal, bounds["principal"] = _principal(first, changed, k, count, sine)
    counterparts = np.abs(product(second.left[:, :TOP].T, first.left)).max(1)
    bounds["intruders"] = (0, min(TOP, size))
    nss, bounds["nss"] = _drift(first, second, update_norm)
    gap, bounds["gap"] = _gap(first, k)
    return {
        **update_ranks,
        **falls,
        **angle_fields,
        **shares,
        "principal": principal,
        "nss": nss,
        "gap": gap,
        "intruders": int((counterparts < COUNTERPART).sum()),
        "sigma_base": tuple(first.sigma[:k].tolist()),
        "sigma_tuned": tuple(second.sigma[:k].tolist()),
        "sigma_update": tuple(sigma[:k].tolist()),
        "bounds": bounds,
    }


def product(a: Float[np.ndarray, "m k"], b: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "m n"]:
    """Multiply two matrices in torch, as in the rest of this module (see ``linalg.norm``)."""
    with optional_import("measuring spectra"):
        import torch

    return np.asarray(torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b)))


def _update_ranks(of_update: Sketch, shape: tuple[int, ...], bounds: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Estimate and bound the ranks of the update; estimates assume that the energy of the remaining directions decays smoothly."""
    size = min(shape)
    rows_columns = (shape[0], shape[1])
    if not of_update.norm:
        return ranks(np.zeros(size), rows_columns) | energies(np.zeros(size))
    likely = np.sort(np.concatenate([of_update.sigma, np.sqrt(likely_tail(of_update))]))[::-1]
    estimate = ranks(likely, rows_columns) | energies(likely**2)
    flattest, most_peaked = (ranks(np.sqrt(squares), rows_columns) | energies(squares) for squares in extremes(of_update))
    for name in (*SPREADING, *CONCENTRATING):
        ends = sorted([flattest[name], most_peaked[name]])
        bounds[name] = (ends[0] * (1 - 1e-9), ends[1] * (1 + 1e-9)) if isinstance(ends[0], float) else (ends[0], ends[1])
        if name in CONCENTRATING:
            bounds[name] = (bounds[name][0], min(1.0, bounds[name][1]))
        estimate[name] = min(max(estimate[name], bounds[name][0]), bounds[name][1])
    bounds["effective_rank"] = (bounds["effective_rank_energy"][0], float(size))  # the entropy of sigma^p decreases with p
    bounds["rank"] = (int((of_update.sigma > max(shape) * np.finfo(np.float64).eps * of_update.above()[0]).sum()), size)
    return estimate


def _decay(side: str, sketched: Sketch, k: int, bounds: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Estimate and bound the decay of the first singular values, unless some are so small that the sketch cannot tell them from 0."""
    sigma = sketched.sigma[:k]
    if not sketched.norm or sigma[-1] <= NOISE * sketched.norm:
        return {f"decay_{side}": math.nan, f"decay_{side}_fit": math.nan}
    exponent, fit = decay(sigma)
    if exponent == exponent:
        weights, low, high = -slope_weights(k), np.log(sigma), np.log(sketched.above()[:k])
        ends = (float(np.where(weights > 0, low, high) @ weights), float(np.where(weights > 0, high, low) @ weights))
        bounds[f"decay_{side}"] = (ends[0] - 1e-9, ends[1] + 1e-9)
    return {f"decay_{side}": exponent, f"decay_{side}_fit": fit}


def _principal(of_base: Sketch, changed: Bool[np.ndarray, "m n"], k: int, count: int, sine: float) -> tuple[float, tuple[float, float]]:
    """Estimate and bound the share of changed weights that are among the largest of the rank-k part.

    Weights near the cutoff may or may not be among the largest.
    """
    if not changed.any():
        return math.nan, (math.nan, math.nan)
    values = product(of_base.left[:, :k] * of_base.sigma[:k], of_base.right[:, :k].T)
    np.abs(values, out=values)
    mask = largest(values, count)
    share = float(mask[changed].mean())
    if sine >= 1:
        return share, (0.0, 1.0)
    values -= values.min(initial=math.inf, where=mask)
    undecided = np.abs(values, out=values) <= 2 * 2 * sine * float(of_base.above()[0])
    return share, (float((mask & ~undecided)[changed].mean()), float((mask | undecided)[changed].mean()))


def _drift(first: Sketch, second: Sketch, update_norm: float) -> tuple[float, tuple[float, float]]:
    if not first.norm:
        return math.nan, (math.nan, math.nan)
    differences = np.maximum(0, np.maximum(second.sigma - first.above(), first.sigma - second.above()))
    low = max(float(np.linalg.norm(differences)), abs(second.norm - first.norm)) / first.norm
    high = update_norm / first.norm
    squared_moves = (second.sigma - first.sigma) ** 2
    tail = likely_tail(
        first
    )  # assumes that the remaining singular values move in the same proportion as the smaller half of the computed ones
    share = float(squared_moves[len(squared_moves) // 2 :].sum() / (first.sigma[len(squared_moves) // 2 :] ** 2).sum())
    tail_drift = share * float(tail.sum())
    estimate = math.sqrt(float(squared_moves.sum()) + tail_drift) / first.norm
    return min(max(estimate, low), high), (low * (1 - 1e-9), high * (1 + 1e-9))


def _gap(of_base: Sketch, k: int) -> tuple[float, tuple[float, float]]:
    if not of_base.norm:
        return math.nan, (math.nan, math.nan)
    last = k >= min(of_base.shape)
    low, high = of_base.sigma, of_base.above()
    estimate = float(low[k - 1] - (0.0 if last else low[k])) / float(low[0])
    least = max(0.0, float(low[k - 1] - (0.0 if last else high[k]))) / float(high[0])
    return estimate, (least * (1 - 1e-9), float(high[k - 1] - (0.0 if last else low[k])) / float(low[0]) * (1 + 1e-9))
