"""Notes on how the dtypes of two checkpoints affect the numbers of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamics.presentation.text import percent

if TYPE_CHECKING:
    from dynamics.sparsity.results import Comparison


def explain(comparison: Comparison) -> list[str]:
    """Explain how the dtypes of the two sides affect the numbers."""
    total, notes = comparison.total, []
    weights_of = {(row.dtype_base, row.dtype_tuned): 0 for row in comparison.rows}
    for row in comparison.rows:
        weights_of[row.dtype_base, row.dtype_tuned] += row.numel
    (base, tuned), most_weights = max(weights_of.items(), key=lambda item: item[1])
    hidden = total.changed["exact"] - total.changed["bf16"]
    share = hidden / total.numel if total.numel else 0.0
    if comparison.adapters:
        dora = " with the norms that DoRA stores" if any(record.get("dora") for record in comparison.adapters) else ""
        notes.append(
            f"tuned is an adapter: its weights are base + scaling B A{dora}, formed in float64 a chunk at a time. `exact` counts any "
            "update that is not zero; `bf16` is what a merge into bfloat16 would change"
        )
    elif base == tuned == "bfloat16":
        small = (total.changed["exact"] - total.changed["atol"]) / max(1, total.numel)
        more = f"; `atol` also calls unchanged {percent(small)} of the weights, which changed by no more than {comparison.atol:g}"
        also = more if small else ""
        agree = "`exact`, `bf16` and `rtol` agree" if comparison.rtol < 2**-8 else "`exact` and `bf16` agree"
        notes.append(
            f"both sides store bfloat16: {agree} by arithmetic, since two different bfloat16 values are at least 2^-8 apart, relative to "
            f"the larger{also}"
        )
    elif not total.changed["exact"]:
        pass  # identical: nothing for the dtypes to hide
    elif base == tuned:
        notes.append(
            f"both sides store {base}: {percent(share)} of the weights changed by less than bfloat16 can show, so sparsity is "
            f"{percent(total.sparsity['exact'])} as stored and {percent(total.sparsity['bf16'])} as a bfloat16 checkpoint would show it; "
            "compare with a paper only in the dtype it used"
        )
    else:
        notes.append(
            f"base stores {base}, tuned stores {tuned}: {percent(share)} of the weights differ as stored but agree in bfloat16. That part "
            "is rounding, or updates too small for bfloat16: two files cannot tell which. Use `bf16`, which treats both sides alike, and "
            "`exact` only if the wider side was never rounded"
        )
    if most_weights < total.numel:
        mixed = ", ".join(
            f"{a} -> {b}: {count / total.numel:.2%}" for (a, b), count in sorted(weights_of.items(), key=lambda item: -item[1])
        )
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
