"""How much can it solve: pass@k of graded samples, unbiased, with intervals, compared pairwise.

    python -m dynamics.passk base=base_results.jsonl rl=rl_results.jsonl --figure pass.png
    python -m dynamics.passk runs/*/evals/test.jsonl --against base --json -

pass@k is the chance that at least one of k samples of a problem is correct, averaged over problems; n samples of each give an unbiased
estimate for every k <= n (``dynamics.passk.estimators``). Beyond n there is no estimate, and none is given.

As a library, on the tidy table that ``dynamics.samples.read`` makes, or on any table with columns ``problem, correct`` (a row a sample) or
``problem, n, c`` (a row a problem), and ``model`` where there are several::

    import dynamics
    dynamics.passk.pass_at_k(n=64, c=3, k=[1, 8, 64])
    curve = dynamics.passk.curve(table)
    curve.points                                  # a DataFrame: k, pass_at_k, low, high, problems, ...
    dynamics.passk.compare(curve, other).crossing

Conventions. Every problem weighs the same, whatever its n. Intervals are bootstrapped over problems, each with all of its samples, and
pointwise. Models are compared on the problems they share, paired by id. A sample without a verdict is left out and counted.
"""

from __future__ import annotations

from dynamics.passk.comparison import SCHEMA, Comparison, Curve, Report, compare, counts, curve, report
from dynamics.passk.estimators import auc_at_k, g_pass_at_k, maj_at_k, mg_pass_at_k, pass_at_k, pass_hat_k

__all__ = [
    "SCHEMA",
    "Comparison",
    "Curve",
    "Report",
    "auc_at_k",
    "compare",
    "counts",
    "curve",
    "g_pass_at_k",
    "maj_at_k",
    "mg_pass_at_k",
    "pass_at_k",
    "pass_hat_k",
    "report",
]
