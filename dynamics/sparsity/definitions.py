"""The four rules for "changed", which paper counts by which, and what the dtypes of the two sides do to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

RULES = ("exact", "bf16", "rtol", "atol")


@dataclass(frozen=True)
class Paper:
    """How a paper counts, and which number of a report that is."""

    rule: str
    title: str
    text: str


LIKE = {
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
    """What each rule calls changed, with its threshold."""
    return {
        "exact": "stored values differ",
        "bf16": "values differ after rounding both to bfloat16",
        "rtol": f"|d| > {rtol:g} max(|base|, |tuned|)",
        "atol": f"|d| > {atol:g}",
    }


def mukherjee_threshold(atol: float) -> float:
    """The difference above which a bf16 difference, rounded to bf16, exceeds ``atol`` rounded to bf16 (ties to even)."""
    import numpy as np

    from dynamics.checkpoints.tensor import decode
    from dynamics.sparsity.kernels import round_to_bfloat16

    bits = np.empty(1, np.uint16)
    round_to_bfloat16(np.array([atol]), bits)
    limit, above = decode(np.array([bits[0], bits[0] + 1], np.uint16), "bfloat16").astype(float)
    halfway = float(limit + above) / 2
    return halfway if bits[0] % 2 == 0 else math.nextafter(halfway, 0)
