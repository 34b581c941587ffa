"""Update sparsity: which weights changed between two checkpoints, under four rules side by side, and by how much.

    python -m dynamics.sparsity BASE TUNED
    python -m dynamics.sparsity step_0 step_100 step_200 --json series.json --figure series.png

Update sparsity is the fraction of weights that did not change, 1 - changed / numel. Whether a weight "changed" depends on the rule and on
the dtypes of training and storage, and papers differ in both. Every report therefore uses four rules, with d = tuned - base:

    exact   the stored values differ as numbers
    bf16    the values differ after rounding both to bfloat16
    rtol    |d| > 1e-3 max(|base|, |tuned|)
    atol    |d| > 1e-5

As a library::

    import dynamics
    comparison = dynamics.sparsity.compare("base", "tuned")       # paths, Hub ids, or mappings such as model.state_dict()
    comparison.total.sparsity["bf16"]
    comparison.tensors                                            # a DataFrame with a row per tensor

Conventions. -0.0 equals +0.0. A NaN equals a NaN of the same bits. A pair with NaN or infinity on either side counts as `nonfinite`: it
changed, under every rule, if its values differ, and is excluded from the histogram, the norms and the cosine. Every fraction is weighted
by the number of weights; none is a mean over tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamics.sparsity.comparison import compare, compare_all, last_against_first, row, series, series_dict, table
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.results import SCHEMA, STEPS, Comparison, Row, Step

if TYPE_CHECKING:
    from dynamics.sparsity.update import Update, apply_update, save_update

__all__ = [
    "RULES",
    "SCHEMA",
    "STEPS",
    "Comparison",
    "Row",
    "Step",
    "Update",
    "apply_update",
    "compare",
    "compare_all",
    "last_against_first",
    "row",
    "save_update",
    "series",
    "series_dict",
    "table",
]


def __getattr__(name: str) -> Any:
    if name in ("Update", "apply_update", "save_update"):  # a comparison does not need them, and starts faster without
        from dynamics.sparsity import update

        return getattr(update, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
