"""Present the overlap of updates as one self-contained HTML page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamics.descriptions import plural
from dynamics.overlap.comparison import Comparison, table
from dynamics.overlap.plot import figure
from dynamics.presentation import html, style, text
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES

if TYPE_CHECKING:
    import pandas as pd

SHARES = {
    "o1": "o1",
    "o2": "o2",
    "jaccard": "Jaccard",
    "jaccard_chance": "chance",
    "jaccard_chance_by_tensor": "by tensor",
    "same_sign": "same sign",
    "cosine": "cosine",
}
GLOSSARY = {
    "o1, o2": "o1 is the share of the weights changed by the first update that the second changed too, o2 the reverse. Dense updates "
    "overlap by chance.",
    "Jaccard": "Weights changed by both / weights changed by either.",
    "chance": "Jaccard index of independent masks with the same density. By tensor: with the same density in every tensor. Compare with "
    "the latter, because layers and modules differ in density.",
    "same sign, cosine": "Of the two updates, over the weights that both changed under rule exact. For float32 checkpoints these are "
    "nearly all weights.",
}


@dataclass(frozen=True)
class Table:
    """A table whose columns depend on the number of checkpoints.

    Attributes
    ----------
    headers
        The title of every column.
    rows
        The formatted cells of every row.
    """

    headers: list[str]
    rows: list[list[str]]


def page(comparison: Comparison, series: bool = False) -> str:
    """Render a comparison of updates.

    Parameters
    ----------
    comparison
        Comparison of several tuned checkpoints with their base.
    series
        Whether the checkpoints are those of one run, in order.

    Returns
    -------
    The text of one HTML file.
    """
    rows = table(comparison)
    bf16 = rows[rows["rule"] == "bf16"]
    with style.use_style():
        jaccard = html.figure_uri(figure(comparison))
    context = {
        "base": html.one_line(comparison.base.path),
        "tuned": [html.one_line(checkpoint.path) for checkpoint in comparison.tuned],
        "headline": html.one_line(comparison.headline, 300),
        "weight_count": plural(comparison.numel, "weight"),
        "jaccard": jaccard,
        "shares": list(SHARES.values()),
        "total": _pairs(rows[rows["level"] == "total"], "rule"),
        "modules": _pairs(bf16[bf16["level"] == "module"], "name"),
        "layers": _pairs(bf16[bf16["level"] == "layer"], "name"),
        "consensus": _consensus(comparison) if len(comparison.tuned) > 2 else None,
        "first_changed": _first_changed(comparison) if series else None,
        "notes": [html.one_line(note, 2000) for note in comparison.notes],
        "skipped": [
            [html.one_line(where), html.one_line(reason), html.one_line(", ".join(names[:5]), 400)]
            for where, reason, names in text.skipped_groups(comparison.skipped)
        ],
        "meanings": GLOSSARY,
    }
    return html.render("overlap.html", context)


def _pairs(part: pd.DataFrame, column: str) -> list[list[str]]:
    """Format a row per pair of updates; ``column`` is the column of the first cell."""
    return [
        [
            html.one_line(row[column]),
            f"{row['a'] + 1}, {row['b'] + 1}",
            percent(row["first"] / row["numel"]),
            percent(row["second"] / row["numel"]),
            *("-" if math.isnan(row[name]) else f"{row[name]:.3f}" for name in SHARES),
        ]
        for row in part.to_dict("records")
    ]


def _consensus(comparison: Comparison) -> Table:
    """Format, for every rule, the share of weights that 0, 1, ... of the updates changed."""
    count = len(comparison.tuned)
    rows = [[rule, *(percent(weights / comparison.numel) for weights in comparison.consensus[rule])] for rule in RULES]
    return Table(["rule", *(f"{number} of {count}" for number in range(count + 1))], rows)


def _first_changed(comparison: Comparison) -> Table:
    """Format, for every rule, the share of weights that first changed at each checkpoint."""
    rows = []
    for rule in RULES:
        counts = [*comparison.first[rule], comparison.came_back[rule]]
        rows.append([rule, *(percent(weights / comparison.numel) for weights in counts)])
    return Table(["rule", *(str(number + 1) for number in range(len(comparison.tuned))), "never", "reverted"], rows)
