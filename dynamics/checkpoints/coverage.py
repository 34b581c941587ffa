"""How much of a checkpoint was compared, and what to say first where that is not nearly all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.tensor import Checkpoint, Skip

#: beginnings of the reasons for which a tensor is left out though none of its weights is missing from the numbers
COUNTED_ELSEWHERE = ("a buffer", "the same memory", "tied:")
#: what less than this share of either side is said first
NEARLY_ALL = 0.99


def coverage(checkpoint: Checkpoint, side: str, compared: int, skipped: Iterable[Skip]) -> float:
    """Compute the share of a checkpoint's weights that were compared; buffers, and second names of a weight, do not count.

    Parameters
    ----------
    checkpoint : one of the two that were compared.
    side : ``base`` or ``tuned``, as ``skipped`` calls it.
    compared : number of weights that were compared.
    skipped : what was left out, of both sides.
    """
    left_out = {skip.name for skip in skipped if skip.where == side and not skip.reason.startswith(COUNTED_ELSEWHERE)}
    names = parameter_names.canonical(checkpoint.tensors)
    prefixes = ("", *parameter_names.STEMS)  # matching may have added one to the names of a side
    missing = sum(
        tensor.numel for stored, tensor in checkpoint.tensors.items() if any(prefix + names[stored] in left_out for prefix in prefixes)
    )
    return compared / (compared + missing) if compared + missing else 1.0


def warning(shares: Mapping[str, float]) -> str:
    """Say which sides were not nearly all compared; an empty text if all were. ``shares``: name of a side -> ``coverage``."""
    few = [f"{100 * share:.1f} % of {side}" for side, share in shares.items() if share < NEARLY_ALL]
    return f"these checkpoints share only a part of their weights: {' and '.join(few)} compared" if few else ""
