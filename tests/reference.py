"""A plain reference implementation of the measures: whole arrays, float64, numpy only, and no code under test."""

from __future__ import annotations

import math

import numpy as np


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float64 -> bf16 bit patterns, to nearest with ties to even, from the value itself: scale to units of the last place and round."""
    values = np.asarray(values, np.float64)
    magnitude = np.abs(values)
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.floor(np.log2(np.where(magnitude > 0, magnitude, 1.0))), -126)
        exponent = np.where(magnitude >= np.exp2(exponent + 1), exponent + 1, exponent)
        exponent = np.maximum(np.where(magnitude < np.exp2(exponent), exponent - 1, exponent), -126)
        units = np.rint(np.ldexp(magnitude, (7 - exponent).astype(int)))  # rint: ties to even
        rounded = np.ldexp(units, (exponent - 7).astype(int))
    rounded = np.where(rounded > 3.3895313892515355e38, np.inf, rounded)
    bits = (rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    bits = np.where(np.isnan(values), np.uint16(0x7FC0), bits)
    return np.where(np.signbit(values), bits | np.uint16(0x8000), bits).astype(np.uint16)


def steps_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of bf16 bit patterns in steps, by their place in the sorted list of values."""

    def place(bits: np.ndarray) -> np.ndarray:
        magnitude = (bits & 0x7FFF).astype(np.int64)
        return np.where(bits & 0x8000, -magnitude, magnitude)

    return np.abs(place(a) - place(b))


def measure(base: np.ndarray, tuned: np.ndarray, rtol: float = 1e-3, atol: float = 1e-5) -> dict[str, object]:
    """Compute all measures of a row for two float arrays of the same shape, by definition."""
    a, b = np.asarray(base, np.float64).ravel(), np.asarray(tuned, np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    x, y = a[finite], b[finite]
    d = y - x
    steps = steps_between(bf16_bits(x), bf16_bits(y))
    changed = {
        "exact": int(np.sum(x != y) + odd.sum()),
        "bf16": int(np.sum(steps > 0) + np.sum(bf16_bits(a[odd]) != bf16_bits(b[odd]))),
        "rtol": int(np.sum(np.abs(d) > rtol * np.maximum(np.abs(x), np.abs(y))) + odd.sum()),
        "atol": int(np.sum(np.abs(d) > atol) + odd.sum()),
    }
    norm = lambda v: math.sqrt(math.fsum(v * v))  # noqa: E731
    na, nb, nd = norm(x), norm(y), norm(d)
    return {
        "numel": a.size,
        "changed": changed,
        "steps": steps,
        "base_norm": na,
        "update_norm": nd,
        "relative_update": nd / na if na else math.nan,
        "cosine": math.fsum(x * y) / (na * nb) if na and nb else math.nan,
        "max_abs_update": float(np.abs(d).max(initial=0.0)),
        "nonfinite": int((~finite).sum()),
    }
