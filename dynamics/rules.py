"""The four rules for "changed", which paper counts by which, and what the dtypes of the two sides do to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamics.sparsity import Comparison

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
    from dynamics.kernels import round_to_bfloat16

    bits = np.empty(1, np.uint16)
    round_to_bfloat16(np.array([atol]), bits)
    limit, above = decode(np.array([bits[0], bits[0] + 1], np.uint16), "bfloat16").astype(float)
    halfway = float(limit + above) / 2
    return halfway if bits[0] % 2 == 0 else math.nextafter(halfway, 0)


def explain(comparison: Comparison) -> list[str]:
    """What the dtypes of the two sides do to the numbers, in words."""
    total, notes = comparison.total, []
    kinds = {(row.dtype_base, row.dtype_tuned): 0 for row in comparison.rows}
    for one in comparison.rows:
        kinds[one.dtype_base, one.dtype_tuned] += one.numel
    (base, tuned), most = max(kinds.items(), key=lambda item: item[1])
    hidden = total.changed["exact"] - total.changed["bf16"]
    share = hidden / total.numel if total.numel else 0.0
    if comparison.adapters:
        notes.append(
            "tuned is an adapter: its weights are base + scaling B A, formed in float64 a chunk at a time. `exact` counts any update that "
            "is not zero; `bf16` is what a merge into bfloat16 would change"
        )
    elif base == tuned == "bfloat16":
        small = (total.changed["exact"] - total.changed["atol"]) / max(1, total.numel)
        agree = "`exact`, `bf16` and `rtol` agree" if comparison.rtol < 2**-8 else "`exact` and `bf16` agree"
        notes.append(
            f"both sides store bfloat16: {agree} by arithmetic, since two different bfloat16 values are at least 2^-8 apart; `atol` also "
            f"calls unchanged {percent(small)} of the weights, which changed by no more than {comparison.atol:g}"
        )
    elif base == tuned:
        notes.append(
            f"both sides store {base}: {percent(share)} of the weights changed by less than bfloat16 can show, so sparsity is "
            f"{percent(total.sparsity['exact'])} as stored and {percent(total.sparsity['bf16'])} as a bfloat16 checkpoint would show it; "
            "compare with other papers under their own dtype"
        )
    else:
        notes.append(
            f"base stores {base}, tuned stores {tuned}: {percent(share)} of the weights differ as stored but agree in bfloat16. That part "
            "is rounding, or updates too small for bfloat16: two files cannot tell which. Read `bf16`, which treats both sides alike, and "
            "`exact` only if the wider side was never rounded"
        )
    if most < total.numel:
        mixed = ", ".join(f"{a} -> {b}: {count / total.numel:.2%}" for (a, b), count in sorted(kinds.items(), key=lambda item: -item[1]))
        notes.append(f"dtypes differ between tensors ({mixed}); each tensor is compared in its own, see the tensor rows")
    for side in ("base", "tuned"):
        types = (getattr(comparison, side).config or {}).get("gguf_types")
        quantised = [kind for kind in types or {} if kind not in ("F32", "F16", "BF16", "F64")]
        if quantised:
            notes.append(
                f"{side} is quantised ({', '.join(quantised)}): its values are the dequantised ones, so differences include the quantiser's"
            )
    if total.nonfinite:
        notes.append(f"{total.nonfinite} pairs hold NaN or infinity: counted, and left out of histogram, norms and cosine")
    return notes


def percent(fraction: float) -> str:
    """A fraction as a percentage that never rounds a rare change to none: 99.9999 %, or > 99.999999 %, but not 100 %."""
    if math.isnan(fraction):
        return "-"
    for digits in (2, 4, 6):
        text = f"{100 * fraction:.{digits}f}"
        if fraction in (0.0, 1.0) or float(text) not in (0.0, 100.0):
            return f"{text} %"
    return "> 99.999999 %" if fraction > 0.5 else "< 0.000001 %"
