"""Unbiased pass@k of graded samples, with confidence intervals and paired comparisons of models.

    python -m dynamics.passk base=base_results.jsonl rl=rl_results.jsonl --figure pass.png
    python -m dynamics.passk runs/*/evals/test.jsonl --against base --json -

pass@k is the probability that at least one of k samples of a problem is correct, averaged over problems. n samples per problem give an
unbiased estimate for every k <= n (``dynamics.passk.estimators``); for k > n no estimate is reported.

The library functions take the tidy table of ``dynamics.samples.read``, or any table with the columns ``problem, correct`` (a row per
sample) or ``problem, n, c`` (a row per problem), and ``model`` if there are several::

    import dynamics
    dynamics.passk.pass_at_k(n=64, c=3, k=[1, 8, 64])
    curve = dynamics.passk.curve(table)
    curve.points                                  # a DataFrame: k, pass_at_k, low, high, problems, ...
    dynamics.passk.compare(curve, other).crossing

Conventions. All problems have the same weight, whatever their n. Intervals are bootstrapped over problems, each with all of its samples,
and are pointwise in k. Models are compared on the problems they share, paired by id. Samples without a verdict are excluded, and their
number is reported.
"""

from __future__ import annotations

from dynamics.passk.comparison import SCHEMA, Comparison, Curve, Report, compare, counts, curve, report
from dynamics.passk.estimators import auc_at_k, cover_at_tau, g_pass_at_k, maj_at_k, mg_pass_at_k, pass_at_k, pass_hat_k
from dynamics.passk.support_measures import Support, support

__all__ = [
    "SCHEMA",
    "Comparison",
    "Curve",
    "Report",
    "Support",
    "auc_at_k",
    "compare",
    "counts",
    "cover_at_tau",
    "curve",
    "g_pass_at_k",
    "maj_at_k",
    "mg_pass_at_k",
    "pass_at_k",
    "pass_hat_k",
    "report",
    "support",
]
