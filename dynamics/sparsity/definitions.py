"""The four rules that decide whether a weight changed, their thresholds, and the rules used by papers.

Two values differ unless they are equal as numbers or NaNs of the same bits: -0 equals +0. Then, for d = tuned - base,

    exact   the stored values differ
    bf16    the values differ once both are rounded to bfloat16, to nearest, ties to even
    rtol    |d| > rtol max(|base|, |tuned|)
    atol    |d| > atol

Under ``rtol`` and ``atol``, a pair with NaN or infinity on either side changed if its values differ. Values are compared in the narrowest
of bfloat16, float32 and float64 that represents both sides exactly; the bits of a NaN are its bits in that format. The elementwise
definition is ``dynamics.sparsity.kernels.differ``. The counts (``dynamics.sparsity.accumulate``) and the masks (``changed``) both use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.tensor import FITS_FLOAT32, decode

if TYPE_CHECKING:  # importing jaxtyping takes longer than everything else in `import dynamics.sparsity`
    from jaxtyping import Bool, Float, Shaped, UInt, UInt8

RULES = ("exact", "bf16", "rtol", "atol")


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the rules with a tolerance; d = tuned - base.

    Attributes
    ----------
    rtol : a weight changed if |d| > rtol max(|base|, |tuned|).
    atol : a weight changed if |d| > atol.
    bf16_atol : if given, also count the weights whose bf16-rounded values differ by more than this.
    """

    rtol: float = 1e-3
    atol: float = 1e-5
    bf16_atol: float | None = None

    def __post_init__(self) -> None:
        """Convert integers to floats: numba would compile the kernels again for integers."""
        for name in ("rtol", "atol", "bf16_atol"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Paper:
    """The counting rule of a paper, and the matching rule of this package."""

    rule: str
    title: str
    text: str


PAPERS = {
    "mukherjee": Paper(
        "mukherjee",
        "Mukherjee et al., arXiv 2505.11711",
        "both sides loaded as bfloat16, their difference rounded to bfloat16, unchanged if at most 1e-5 rounded to bfloat16 (1.00136e-5), "
        "as the paper's script does (which prints the changed fraction under the name sparsity in its per-layer lines)",
    ),
    "path-not-taken": Paper(
        "bf16",
        "The Path Not Taken, arXiv 2511.08567",
        "bfloat16 values, unchanged if |d| <= 1e-3 max(|a|, |b|); two different bfloat16 values are always at least 2^-8 apart relative to "
        "the larger, so this is exactly `bf16`",
    ),
}


def rule_texts(rtol: float, atol: float) -> dict[str, str]:
    """Describe when a weight changed under each rule, with its threshold."""
    return {
        "exact": "stored values differ",
        "bf16": "values differ after rounding both to bfloat16",
        "rtol": f"|d| > {rtol:g} max(|base|, |tuned|)",
        "atol": f"|d| > {atol:g}",
    }


def mukherjee_threshold(atol: float) -> float:
    """Compute the largest difference that, rounded to bf16 (ties to even), does not exceed ``atol`` rounded to bf16."""
    from dynamics.sparsity.kernels import round_to_bfloat16

    bits = np.empty(1, np.uint16)
    round_to_bfloat16(np.array([atol]), bits)
    limit, above = decode(np.array([bits[0], bits[0] + 1], np.uint16), "bfloat16").astype(float)
    halfway = float(limit + above) / 2
    return halfway if bits[0] % 2 == 0 else math.nextafter(halfway, 0)


def comparable(
    a: Shaped[np.ndarray, " n"], dtype_a: str, b: Shaped[np.ndarray, " n"], dtype_b: str
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    """Convert two flat arrays of stored values to the narrowest format that represents both exactly.

    Parameters
    ----------
    a, b : ``(n,)``, as stored (bfloat16 as uint16; see ``checkpoints.tensor.STORAGE``).
    dtype_a, dtype_b : stored dtypes, by their names in torch.

    Returns
    -------
    ``(n,)`` each: uint16 with the bits of bfloat16 if both sides are stored as bfloat16, else float32 or float64. The same array twice if
    ``a is b``.
    """
    if dtype_a == dtype_b == "bfloat16":
        return _contiguous(a, np.uint16), _contiguous(b, np.uint16)
    wide = np.float32 if dtype_a in FITS_FLOAT32 and dtype_b in FITS_FLOAT32 else np.float64
    x = _contiguous(decode(a, dtype_a), wide)
    return x, x if a is b else _contiguous(decode(b, dtype_b), wide)


def _contiguous(array: Shaped[np.ndarray, " n"], dtype: type) -> Shaped[np.ndarray, " n"]:
    """Return the array in the memory layout that the kernels are compiled for."""
    return np.require(array, dtype, ["C", "A", "W"])


def bit_patterns(values: Float[np.ndarray, " n"]) -> tuple[UInt[np.ndarray, " n"], np.unsignedinteger[Any], np.unsignedinteger[Any]]:
    """View float32 or float64 values as unsigned integers; also return the masks of the exponent bits and of all bits but the sign."""
    if values.dtype == np.float32:
        return values.view(np.uint32), np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)
    return values.view(np.uint64), np.uint64(0x7FF0000000000000), np.uint64(0x7FFFFFFFFFFFFFFF)


def compares_as_integers(dtype_a: str, dtype_b: str) -> bool:
    """Whether ``exact`` compares the stored integers, because float64 cannot represent all of them."""
    return dtype_a == dtype_b and dtype_a in ("int64", "uint64")


def changed(
    a: Shaped[np.ndarray, " n"],
    dtype_a: str,
    b: Shaped[np.ndarray, " n"],
    dtype_b: str,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> UInt8[np.ndarray, " n"]:
    """Mark the rules under which each weight changed.

    Parameters
    ----------
    a, dtype_a, b, dtype_b : see ``comparable``.
    thresholds : of the rules ``rtol`` and ``atol``.

    Returns
    -------
    ``(n,)`` uint8: bit ``RULES.index(rule)`` is set where the weight changed under that rule.

    Examples
    --------
    >>> base, tuned = np.array([1.0, 0.0, 2.0], np.float32), np.array([1.0, -0.0, 2.001], np.float32)
    >>> changed(base, "float32", tuned, "float32").tolist()  # exact and atol
    [0, 0, 9]
    """
    from dynamics.sparsity import kernels

    x, y = comparable(a, dtype_a, b, dtype_b)
    marks = np.empty(x.size, np.uint8)
    if x.dtype == np.uint16:
        kernels.mark_bfloat16(x, y, thresholds.rtol, thresholds.atol, marks)
        return marks
    bits_x, exponent, magnitude = bit_patterns(x)
    kernels.mark_float(x, y, bits_x, bit_patterns(y)[0], exponent, magnitude, thresholds.rtol, thresholds.atol, marks)
    if compares_as_integers(dtype_a, dtype_b):
        marks = (marks & ~np.uint8(kernels.EXACT_MARK)) | (a != b) * np.uint8(kernels.EXACT_MARK)
    return marks


def changed_under(rule: str, marks: UInt8[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Return the boolean mask of one rule from the marks of ``changed``."""
    return ((marks >> RULES.index(rule)) & 1).astype(bool)
