"""Which weights moved between two checkpoints, and by how much: update sparsity under four rules, side by side.

    python -m dynamics.sparsity BASE TUNED
    python -m dynamics.sparsity step_0 step_100 step_200 --json series.json --figure series.png

Update sparsity is the fraction of weights that did not change, 1 - changed / numel. Whether a weight "changed" depends on the rule, and
on the dtype in which it was trained and stored; papers differ in both. So every report gives:

    exact   the stored values differ as numbers
    bf16    they differ once both sides are rounded to bfloat16
    rtol    |d| > 1e-3 max(|base|, |tuned|)
    atol    |d| > 1e-5

As a library::

    import dynamics
    comparison = dynamics.sparsity.compare("base", "tuned")       # paths, Hub ids, or mappings such as model.state_dict()
    comparison.total.sparsity["bf16"]
    comparison.tensors                                            # a DataFrame, a row a tensor

Conventions. -0.0 equals +0.0. A NaN equals a NaN of the same bits. A pair with NaN or infinity on either side counts as `nonfinite`; it
is changed, under every rule, if its values differ, and is left out of the histogram, the norms and the cosine. Every fraction is
weighted by the number of weights, never a mean over tensors.
"""

from __future__ import annotations

from dynamics.sparsity.comparison import compare, last_against_first, row, series, series_dict, table
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.results import SCHEMA, STEPS, Comparison, Row, Step

__all__ = [
    "RULES",
    "SCHEMA",
    "STEPS",
    "Comparison",
    "Row",
    "Step",
    "compare",
    "last_against_first",
    "row",
    "series",
    "series_dict",
    "table",
]
