"""The share of a checkpoint that was compared, and the warning if it is too small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynamics.checkpoints.tensor import Skip

#: a smaller share of either checkpoint makes a comparison incomplete
NEARLY_ALL = 0.999


def coverage(side: str, compared: int, skipped: Iterable[Skip]) -> float:
    """Compute the share of a checkpoint's parameters that were compared.

    What the other checkpoint does not have by design does not count: neither as compared, nor as left out.

    Parameters
    ----------
    side : ``base`` or ``tuned``, as in ``skipped``.
    compared : number of compared parameters.
    skipped : skipped tensors of both checkpoints.
    """
    missing = 0
    for skip in skipped:
        if skip.where == "both" and skip.by_design:  # matched, but of no use to the measure
            compared += skip.numel
        elif skip.where in (side, "both") and not skip.by_design:
            missing += skip.numel
    return compared / (compared + missing) if compared + missing else 1.0


def warning(shares: Mapping[str, float]) -> str:
    """Name the checkpoints of which parameters were left out; empty if there are none. ``shares`` maps each side to its ``coverage``."""
    few = [f"{100 * share:.2f} % of {side}" for side, share in shares.items() if share < NEARLY_ALL]
    return f"parameters were left out of the comparison: only {' and '.join(few)} compared" if few else ""
