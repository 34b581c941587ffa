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

import numpy as np

from dynamics.checkpoints.tensor import decode

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
