"""Whether several updates of one base moved the same weights.

    python -m dynamics.overlap BASE TUNED_A TUNED_B [MORE]
    python -m dynamics.overlap --series BASE step_50 step_100 step_150

A weight is in the mask of an update if it changed, by each of the four rules of ``dynamics.sparsity``. For two masks:

    o1, o2     share of the first mask that is in the second, and of the second that is in the first
    jaccard    both / either
    chance     what independent masks of the same density would give; ``by tensor``: of the same density in every tensor

Layers and kinds of modules differ in density, which alone makes masks overlap more than one density for the whole model would: the
baseline to compare with is the one by tensor. As a library: ``dynamics.overlap.compare(base, [a, b])``.

With ``--series`` the checkpoints are later states of one run: when each weight first changed, and how many came back.
"""

from __future__ import annotations

from dynamics.overlap.comparison import SCHEMA, Comparison, Overlap, Row, compare, overlap, table

__all__ = ["SCHEMA", "Comparison", "Overlap", "Row", "compare", "overlap", "table"]
