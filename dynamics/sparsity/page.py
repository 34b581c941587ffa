"""Present a comparison as one self-contained HTML page.

The HTML contains all numbers, the heat map, the histogram and most tables. Scripts add the switch between the four rules and the table of
tensors, which is sorted, filtered and paged because there can be 20,000 of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from dynamics.checkpoints.parameter_names import MODULE_ORDER, OUTSIDE, kind
from dynamics.checkpoints.quantised import notes as quantised
from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.presentation import html, style, text
from dynamics.presentation.text import percent
from dynamics.sparsity import plot_rules
from dynamics.sparsity.comparison import headline
from dynamics.sparsity.definitions import RULES, rule_texts
from dynamics.sparsity.plot import color_scale, heat_rows, series_lines, series_table

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dynamics.sparsity.results import Comparison, Row, Step

DEFAULT_RULE = "bf16"
#: field of a row -> header of its column
MEASURES = {
    "base_norm": "base norm",
    "update_norm": "update norm",
    "relative_update": "relative update",
    "cosine_distance": "1 - cosine",
    "max_abs_update": "max |d|",
    "nonfinite": "non-finite",
}
#: columns that describe a tensor; the numbers follow
DESCRIPTION = ("tensor", "module", "shape", "dtype")
#: maximum number of tensor names listed for each reason of leaving out
LISTED = 20

GLOSSARY = {
    "sparsity": "The fraction of weights that did not change under one of four rules: 1 - changed / weights. Many scripts use the same "
    "name for the fraction that changed.",
    "exact": "Across dtypes, this measures storage: a float32 file usually differs from its own bfloat16 copy.",
    "bf16": "Hides updates below about |w| / 256, which float32 masters accumulate.",
    "rtol": "At a threshold below 2^-8, this equals bf16 for two bfloat16 files: different bfloat16 values differ by at least 2^-8 of the "
    "larger.",
    "atol": "At 1e-5, a one-step change of a bfloat16 weight below 0.00195 counts as unchanged.",
    "bf16 steps": "The number of bfloat16 values from base to tuned, after both are rounded to bfloat16. A weight that was 0 is thousands "
    "of steps away from any usual value.",
    "norms": "L2 norms of base and of d = tuned - base, summed in float64. Relative update is norm of d / norm of base.",
    "1 - cosine": "Between base and tuned, computed as (|d|^2 - (|tuned| - |base|)^2) / (2 |base| |tuned|), which avoids cancellation when "
    "they are close.",
    "non-finite": "Pairs with NaN or infinity on either side. They count as changed if they differ, and are left out of steps, norms and "
    "cosine.",
}


@dataclass(frozen=True)
class Cell:
    """A cell of the heat map.

    Attributes
    ----------
    label, background, ink
        Text under the default rule, and its colours.
    rules
        For the script: label, background and ink under every rule, separated by spaces, and the rules by ``|``.
    title
        Tooltip with all numbers of the cell.
    """

    label: str
    background: str
    ink: str
    rules: str
    title: str


@dataclass(frozen=True)
class Scale:
    """The colours of the heat map under one rule.

    Attributes
    ----------
    rule
        Name of the rule.
    low, high
        Sparsities of the first and the last colour, with ≤ or ≥ if cells lie beyond.
    colors
        Evenly spaced colours from low to high.
    visible
        Whether the page shows this rule first.
    """

    rule: str
    low: str
    high: str
    colors: list[str]
    visible: bool


def page(comparison: Comparison, steps: Sequence[Step] = ()) -> str:
    """Render a comparison.

    Parameters
    ----------
    comparison
        Comparison of two checkpoints; for a series, of the last with the first.
    steps
        All comparisons of a series.

    Returns
    -------
    The text of one HTML file.
    """
    total = comparison.total
    context = {
        "sides": _sides(comparison),
        "headline": html.one_line(headline(comparison, steps), 300),
        "weight_count": plural(total.numel, "weight"),
        "tensor_count": plural(len(comparison.rows), "tensor"),
        "paper": _paper(comparison.like) if comparison.like else None,
        "rules": _rules(comparison),
        "norms": ", ".join(f"{header} {_measure(total, name)}" for name, header in MEASURES.items()),
        "notes": [html.one_line(note, 2000) for note in comparison.notes],
        "series": _series(steps) if steps else None,
        "heat_map": _heat_map(comparison),
        "histogram": _histogram(total),
        "measures": [*RULES, *MEASURES.values()],
        "modules": [_part(row, bool(comparison.adapters)) for row in comparison.modules],
        "layers": [_part(row, bool(comparison.adapters)) for row in comparison.layers],
        "adapters": [_adapter(factors) for factors in comparison.adapters],
        "tensor_headers": [*DESCRIPTION, "weights", *RULES, *MEASURES.values()],
        "tensors": {"text": len(DESCRIPTION), "rows": [_tensor(row) for row in comparison.rows]},
        "skipped": _skipped(comparison),
        "meanings": GLOSSARY,
    }
    return html.render("sparsity.html", context)


def _sides(comparison: Comparison) -> list[dict[str, str]]:
    return [
        {
            "role": role,
            "path": html.one_line(checkpoint.path),
            "storage": f"{html.one_line(checkpoint.format)}, {text.types(checkpoint.dtypes)}{quantised.stored(checkpoint)}",
            "digest": comparison.digests.get(role, ""),
        }
        for role, checkpoint in (("base", comparison.base), ("tuned", comparison.tuned))
    ]


def _paper(like: Mapping[str, Any]) -> dict[str, str]:
    """Format the sparsity under the rule of a paper."""
    return {
        "name": like["paper"],
        "rule": like["rule"],
        "sparsity": percent(like["sparsity"]),
        "changed": f"{like['changed']:,}",
    }


def _rules(comparison: Comparison) -> list[dict[str, str]]:
    total = comparison.total
    return [
        {
            "name": rule,
            "color": plot_rules.RULE_COLORS[rule],
            "sparsity": percent(total.sparsity[rule]),
            "changed": f"{total.changed[rule]:,}",
            "definition": definition,
        }
        for rule, definition in rule_texts(comparison.rtol, comparison.atol).items()
    ]


def _measure(row: Row, name: str) -> str:
    value = getattr(row, name)
    return f"{value:,}" if isinstance(value, int) else text.number(value)


def _measures(row: Row) -> list[str]:
    """Format the sparsity of a row under every rule, and its other measures."""
    return [*(percent(row.sparsity[rule]) for rule in RULES), *(_measure(row, name) for name in MEASURES)]


def _part(row: Row, adapter: bool) -> list[str]:
    """Format a kind of module or a layer; if it has no factor of an adapter, only size and sparsity have values."""
    measured = _measures(row)
    if adapter and not row.update_norm:
        measured[len(RULES) :] = ["-"] * len(MEASURES)
    return [html.one_line(row.name), f"{row.numel:,}", *measured]


def _heat_map(comparison: Comparison) -> dict[str, Any]:
    """Lay out the heat map: scales, corner header, columns and rows; a row that is None is a gap."""
    grid = comparison.grid
    scales = {rule: color_scale(grid, rule) for rule in RULES}
    modules = [module for module in MODULE_ORDER if module in set(grid["module"])]
    cells = {(cell["layer"], cell["module"]): _cell(cell, scales) for cell in grid.to_dict("records")}
    layers = heat_rows(grid["layer"])
    prefix, labels = text.layer_labels(layer for layer in layers if layer is not None and layer != OUTSIDE)
    return {
        "scales": [_scale(rule, *scales[rule]) for rule in RULES],
        "corner": f"layer ({prefix}*)" if prefix else "layer",
        "modules": modules,
        "rows": [
            None if layer is None else {"label": labels.get(layer, layer), "cells": [cells.get((layer, module)) for module in modules]}
            for layer in layers
        ],
    }


def _scale(rule: str, low: float, high: float, clipped: str) -> Scale:
    colors = [_color(fraction)[0] for fraction in np.linspace(0, 1, 9)]
    ends = ("≤ " * (clipped in ("min", "both")) + percent(low), "≥ " * (clipped in ("max", "both")) + percent(high))
    return Scale(rule, *ends, colors, rule == DEFAULT_RULE)


def _cell(cell: Mapping[Hashable, Any], scales: Mapping[str, tuple[float, float, str]]) -> Cell:
    styles = {}
    for rule, (low, high, _) in scales.items():
        sparsity = cell[f"sparsity_{rule}"]
        styles[rule] = (percent(sparsity, short=True).removesuffix(" %"), *_color((sparsity - low) / (high - low)))
    title = [
        f"{printable(cell['layer'])} {cell['module']}",
        f"{cell['numel']:,} weights",
        *(f"{rule}: {cell[f'changed_{rule}']:,} changed, {percent(cell[f'sparsity_{rule}'])} sparse" for rule in RULES),
    ]
    return Cell(*styles[DEFAULT_RULE], rules="|".join(" ".join(styles[rule]) for rule in RULES), title="\n".join(title))


def _color(fraction: float) -> tuple[str, str]:
    """Return a background of the colour scale, and a readable ink on it."""
    red, green, blue, _ = mpl.colormaps[style.SEQUENTIAL](min(max(fraction, 0.0), 1.0))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    return mpl.colors.to_hex((red, green, blue)), "#111" if light else "#fff"


def _histogram(total: Row) -> list[dict[str, str]]:
    """Format a row per bin, up to the last non-empty bin, with a logarithmic bar (``text.log_share``, as in the terminal)."""
    bins = list(total.ulp.items())[: text.last_bin(total.ulp)]
    whole = sum(total.ulp.values())
    return [
        {
            "steps": steps,
            "weights": f"{count:,}",
            "share": percent(count / whole if whole else math.nan),
            "width": f"{100 * text.log_share(count, whole):.1f}%" if count else "",
        }
        for steps, count in bins
    ]


def _series(steps: Sequence[Step]) -> dict[str, Any]:
    """Draw sparsity over a series, and format a row per comparison."""
    with style.use_style():
        drawing = style.new_figure(9, 4.2)
        series_lines(series_table(steps), drawing.subplots())
        chart = html.figure_uri(drawing)
    labels = text.short_paths({path for step in steps for path in (step.start, step.end)})
    rows = [[step.against, labels[step.start], labels[step.end], *_measures(step.comparison.total)] for step in steps]
    return {"chart": chart, "rows": rows}


def _adapter(factors: Mapping[str, Any]) -> list[str]:
    return [
        html.one_line(factors["name"]),
        str(factors["rank"]),
        str(factors["numerical_rank"]),
        text.number(factors["scaling"]),
        text.number(factors["update_norm"]),
    ]


def _tensor(row: Row) -> dict[str, list[Any]]:
    """Format the cells of a tensor, and list the values that the table sorts by; numbers that are not finite are None."""
    dtype = row.dtype_base if row.dtype_base == row.dtype_tuned else f"{row.dtype_base} → {row.dtype_tuned}"
    words = [printable(row.name, 300), kind(row.name), "x".join(map(str, row.shape or ())) or "scalar", str(dtype)]
    numbers = [row.numel, *(row.sparsity[rule] for rule in RULES), *(getattr(row, name) for name in MEASURES)]
    return {
        "shown": [*words, f"{row.numel:,}", *_measures(row)],
        "sort": [*words, *(number if math.isfinite(number) else None for number in numbers)],
    }


def _skipped(comparison: Comparison) -> list[list[str]]:
    """Format a row per reason of leaving tensors out, with the first of their names."""
    return [
        [
            html.one_line(where),
            str(len(names)),
            html.one_line(reason, 500),
            ", ".join(html.one_line(name) for name in names[:LISTED]) + (", …" if len(names) > LISTED else ""),
        ]
        for where, reason, names in text.skipped_groups(comparison.skipped)
    ]
