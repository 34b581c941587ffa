"""Notes on what quantised weights do to the numbers of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamics.descriptions import plural

if TYPE_CHECKING:
    from dynamics.checkpoints.tensor import Checkpoint


def explain(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """Say which weights were dequantised, and how that affects a comparison of two checkpoints; an empty list if none were."""
    sides = {"base": base} if tuned.format == "peft-lora" else {"base": base, "tuned": tuned}
    notes = [_dequantised(side, checkpoint) for side, checkpoint in sides.items() if checkpoint.dequantised]
    quantised = [side for side, checkpoint in sides.items() if checkpoint.dequantised]
    if quantised and tuned.format == "peft-lora":
        notes.append("the adapter's update is added to the dequantised base, so the change is the adapter's alone")
    elif len(quantised) == 1:
        other = "tuned" if quantised == ["base"] else "base"
        notes.append(
            f"only {quantised[0]} is quantised: where values differ, that is mostly the rounding of the quantiser, which moves nearly "
            f"every weight. Compare the weights from before the quantisation, or quantise {other} in the same way"
        )
    elif quantised:
        notes.append(
            "both sides are quantised: a weight is equal where both snap to one value of the grid, whatever training did to it, and all "
            "weights of a block change where its scale does"
        )
    if quantised and any(label.startswith("AWQ") for checkpoint in sides.values() for label in checkpoint.dequantised):
        notes.append("AWQ also moves a scale of each channel into the layer before, so norms and neighbouring weights differ too")
    return notes + [_plain(side, checkpoint) for side, checkpoint in sides.items() if _float8(checkpoint)]


def headline(base: Checkpoint, tuned: Checkpoint) -> str:
    """Warn if only one of two checkpoints is quantised; else return an empty text."""
    if tuned.format == "peft-lora" or bool(base.dequantised) == bool(tuned.dequantised):
        return ""
    side = "base" if base.dequantised else "tuned"
    return f"only {side} is quantised: the numbers show the rounding of the quantiser rather than the training"


def stored(checkpoint: Checkpoint) -> str:
    """Name the formats that were dequantised, for a description of the checkpoint; empty if there are none."""
    return f", dequantised from {' and '.join(checkpoint.dequantised)}" if checkpoint.dequantised else ""


def _dequantised(side: str, checkpoint: Checkpoint) -> str:
    formats = sorted(checkpoint.dequantised.items(), key=lambda item: -item[1])
    listed = " and ".join(f"{label} ({plural(count, 'weight')})" for label, count in formats)
    return f"{side} was dequantised from {listed}; a quantised weight lies on the grid of its codes and scales"


def _float8(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel for tensor in checkpoint.tensors.values() if tensor.dtype.startswith("float8"))


def _plain(side: str, checkpoint: Checkpoint) -> str:
    weights = plural(_float8(checkpoint), "weight")
    return f"{side} stores {weights} as 8-bit floats without scales: they are read as weights that were cast to that dtype"
