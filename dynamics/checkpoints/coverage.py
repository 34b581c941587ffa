"""The share of a checkpoint that was compared, and the warning if it is too small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.tensor import Checkpoint, Skip

#: prefixes of reasons for skipping a tensor that do not remove any weight from the comparison
COUNTED_ELSEWHERE = ("a buffer", "the same memory", "tied:")
#: a smaller share of either checkpoint leads to a warning
NEARLY_ALL = 0.99


def coverage(checkpoint: Checkpoint, side: str, compared: int, skipped: Iterable[Skip]) -> float:
    """Compute the share of a checkpoint's weights that were compared. Buffers and aliases of a weight are not counted.

    Parameters
    ----------
    checkpoint : one of the two compared checkpoints.
    side : ``base`` or ``tuned``, as in ``skipped``.
    compared : number of compared weights.
    skipped : skipped tensors of both checkpoints.
    """
    left_out = {skip.name for skip in skipped if skip.where == side and not skip.reason.startswith(COUNTED_ELSEWHERE)}
    names = parameter_names.canonical(checkpoint.tensors)
    prefixes = ("", *parameter_names.STEMS)  # matching may have added a prefix to the names of one checkpoint
    missing = sum(
        tensor.numel for stored, tensor in checkpoint.tensors.items() if any(prefix + names[stored] in left_out for prefix in prefixes)
    )
    return compared / (compared + missing) if compared + missing else 1.0


def warning(shares: Mapping[str, float]) -> str:
    """Return a warning that names the partly compared checkpoints, or an empty string. ``shares`` maps each side to its ``coverage``."""
    few = [f"{100 * share:.1f} % of {side}" for side, share in shares.items() if share < NEARLY_ALL]
    return f"these checkpoints share only a part of their weights: {' and '.join(few)} compared" if few else ""
