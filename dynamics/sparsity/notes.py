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
    if note := _of_dtypes(comparison, base, tuned):
        notes.append(note)
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


def _of_dtypes(comparison: Comparison, base: str | None, tuned: str | None) -> str:
    """Explain what the dtypes of most weights do to the rules; empty if there is nothing to explain."""
    total = comparison.total
    share = (total.changed["exact"] - total.changed["bf16"]) / max(1, total.numel)
    if comparison.adapters:
        dora = " with the norms that DoRA stores" if any(record.get("dora") for record in comparison.adapters) else ""
        return (
            f"tuned is an adapter: its weights are base + scaling B A{dora}, computed in float64 a chunk at a time. `exact` counts any "
            "update that is not zero; `bf16` is what a merge into bfloat16 would change"
        )
    if comparison.base.dequantised or comparison.tuned.dequantised:
        return ""  # the grid of the quantiser is what matters, see the notes on it
    if base == tuned == "bfloat16":
        small = total.changed["exact"] - total.changed["atol"]
        agree = "`exact`, `bf16` and `rtol` agree" if comparison.rtol < 2**-8 else "`exact` and `bf16` agree"
        note = f"both sides store bfloat16: {agree} by arithmetic, since two different ones differ by at least 2^-8 of the larger"
        if small:
            unchanged = percent(small / total.numel)
            note += f"; `atol` also calls unchanged {unchanged} of the weights, which changed by no more than {comparison.atol:g}"
        return note
    if not total.changed["exact"]:
        return ""  # identical: nothing for the dtypes to hide
    if base == tuned:
        return (
            f"both sides store {base}: {percent(share)} of the weights changed by less than bfloat16 can show, so sparsity is "
            f"{percent(total.sparsity['exact'])} as stored and {percent(total.sparsity['bf16'])} as a bfloat16 checkpoint would show it; "
            "compare with a paper only in the dtype that it used"
        )
    return (
        f"base stores {base}, tuned stores {tuned}: {percent(share)} of the weights differ as stored but agree in bfloat16. That part "
        "is rounding, or updates too small for bfloat16: two files cannot tell which. Use `bf16`, which treats both sides alike, and "
        "`exact` only if the wider side was never rounded"
    )
