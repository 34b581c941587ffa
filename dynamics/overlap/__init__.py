"""Update overlap: whether several fine-tuned checkpoints of one base model changed the same weights.

    python -m dynamics.overlap BASE TUNED_A TUNED_B [MORE]
    python -m dynamics.overlap --series BASE step_50 step_100 step_150

The mask of an update is the set of weights that changed, under each of the four rules of ``dynamics.sparsity``. For two masks:

    o1, o2     fraction of the first mask that is in the second, and of the second that is in the first
    jaccard    intersection / union
    chance     expected value for independent masks of the same density; ``by tensor``: of the same density in each tensor

The density differs between layers and kinds of modules, which alone makes masks overlap more than a uniform density would. Compare with
the baseline by tensor. As a library: ``dynamics.overlap.compare(base, [a, b])``.

With ``--series`` the checkpoints are successive states of one run; the report says when each weight first changed, and how many weights
returned to their base value.
"""

from __future__ import annotations

from dynamics.overlap.comparison import SCHEMA, Comparison, Overlap, Row, compare, overlap, table

__all__ = ["SCHEMA", "Comparison", "Overlap", "Row", "compare", "overlap", "table"]
