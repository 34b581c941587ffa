"""The report as one self-contained HTML page: nothing is fetched, and whatever a checkpoint's names hold is text and stays text.

Numbers, heat map, histogram and tables are in the page as written; a script only adds what needs one: the switch between the four rules,
and the sorted, filtered, paged table of tensors, of which there can be twenty thousand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from dynamics.checkpoints.parameter_names import MODULE_ORDER, OUTSIDE, kind
from dynamics.errors import printable
from dynamics.presentation import html, style, text
from dynamics.presentation.text import percent
from dynamics.sparsity import plot_rules
from dynamics.sparsity.definitions import RULES, rule_texts
from dynamics.sparsity.plot import heat_rows, limits, series_lines, series_table

if TYPE_CHECKING:
    from dynamics.sparsity.comparison import Comparison, Row, Step

DEFAULT_RULE = "bf16"
MEASURES = ("base_norm", "update_norm", "relative_update", "cosine_distance", "max_abs_update")
HEADS = (*RULES, "base norm", "update norm", "relative update", "1 - cosine", "max |d|", "non-finite")

GLOSSARY = {
    "sparsity": "1 - changed / weights, under one of four rules: the fraction of weights that did not change. Many scripts print the "
    "fraction that did under the same name.",
    "exact": "Across dtypes it measures storage: any float32 file differs from its own bfloat16 copy.",
    "bf16": "Hides updates below about |w| / 256, which float32 masters accumulate.",
    "rtol": "For two bfloat16 files this is bf16: different bfloat16 values are at least 2^-8 apart.",
    "atol": "At 1e-5, calls a one-step change of a bfloat16 weight below 0.00195 no change.",
    "bf16 steps": "How many bfloat16 values apart the two are, both rounded to bfloat16. A weight that was 0 is thousands of steps away "
    "from anything.",
    "norms": "L2, of base and of d = tuned - base, summed in float64. Relative update is their ratio.",
    "1 - cosine": "Between base and tuned, from (|d|^2 - (|tuned| - |base|)^2) / (2 |base| |tuned|), which does not cancel when they are "
    "close.",
    "non-finite": "Pairs with NaN or infinity on either side: changed if they differ, and left out of steps, norms and cosine.",
}


def page(comparison: Comparison, steps: Sequence[Step] = ()) -> str:
    """A comparison, and the steps of a series, as the text of one HTML file."""
    sections = [
        _head(comparison),
        _series(steps),
        html.section("Where: layer by module", _heat_map(comparison)),
        html.section("How far: distance in bf16 steps", _histogram(comparison.total)),
        html.section("By kind of module", _rows(comparison.modules, "module")),
        html.section("By layer", _rows(comparison.layers, "layer")),
        _adapters(comparison),
        html.section("By tensor", _tensor_table()),
        html.section("Left out", _skipped(comparison)),
        html.section("What the numbers are", html.glossary(GLOSSARY)),
    ]
    return html.document("Update sparsity", [*sections, html.script("sparsity.js", _tensor_data(comparison.rows), "tensors")])


def _head(comparison: Comparison) -> str:
    total = comparison.total
    sides = "".join(
        f"<p>{name} <code>{html.safe(side.path)}</code> "
        f"<span class=faint>{html.safe(side.format)}, {escape(text.types(side.dtypes))}</span></p>"
        for name, side in (("base", comparison.base), ("tuned", comparison.tuned))
    )
    cards = "".join(
        f'<div class=card style="--rule:{plot_rules.RULE_COLORS[rule]}">{rule}<b>{percent(total.sparsity[rule])}</b>'
        f"<span>{total.changed[rule]:,} changed</span><span class=faint>if {escape(definition)}</span></div>"
        for rule, definition in rule_texts(comparison.rtol, comparison.atol).items()
    )
    like = ""
    if comparison.like:
        paper = {key: comparison.like[key] for key in ("paper", "rule")}
        like = (
            f"<div class=like>{escape(paper['paper'])}<br><b>{percent(comparison.like['sparsity'])}</b> sparsity, "
            f"{comparison.like['changed']:,} weights changed<br><span class=faint>{escape(paper['rule'])}</span></div>"
        )
    norms = ", ".join(f"{head} {_measure(total, key)}" for head, key in zip(HEADS[4:], (*MEASURES, "nonfinite"), strict=True))
    notes = "".join(f"<p>{html.safe(note, 2000)}</p>" for note in comparison.notes)
    return (
        f"<h1>Which weights moved</h1>{sides}<p>{total.numel:,} weights in {len(comparison.rows):,} tensors compared; "
        f"below, the fraction that did <em>not</em> change</p>{like}<div class=cards>{cards}</div><p class=faint>{escape(norms)}</p>{notes}"
    )


def _measure(row: Row, key: str) -> str:
    value = getattr(row, key)
    return f"{value:,}" if isinstance(value, int) else text.number(value)


def _rows(rows: Sequence[Row], what: str) -> str:
    lines = (
        [html.safe(row.name), f"{row.numel:,}", *(percent(row.sparsity[rule]) for rule in RULES)]
        + [_measure(row, key) for key in (*MEASURES, "nonfinite")]
        for row in rows
    )
    return html.table([f"<{what}", "weights", *HEADS], lines)


def _heat_map(comparison: Comparison) -> str:
    grid = comparison.grid
    cells = {(cell["layer"], cell["module"]): cell for cell in grid.to_dict("records")}
    scales = {rule: limits(grid[f"sparsity_{rule}"].to_numpy(float)) for rule in RULES}
    columns = [module for module in MODULE_ORDER if module in set(grid["module"])]
    rows = heat_rows(grid["layer"])
    prefix, labels = text.layer_labels(row for row in rows if row is not None and row != OUTSIDE)
    lines = []
    for row in rows:
        if row is None:
            lines.append(f"<tr class=gap><td colspan={len(columns) + 1}></td></tr>")
            continue
        drawn = "".join(_cell(cells.get((row, column)), scales) for column in columns)
        lines.append(f"<tr><th>{escape(labels.get(row, row))}</th>{drawn}</tr>")
    top = "".join(f"<th>{escape(column)}</th>" for column in columns)
    buttons = "".join(
        f"<button type=button data-rule={place} aria-pressed={str(rule == DEFAULT_RULE).lower()}>{rule}</button> "
        for place, rule in enumerate(RULES)
    )
    keys = "".join(_key(place, rule, scales[rule]) for place, rule in enumerate(RULES))
    named = f"layer ({escape(prefix)}*)" if prefix else "layer"
    return (
        f"<p id=switch hidden>rule {buttons}</p>{keys}<div class=scroll><table class=heat><thead><tr><th>{named}</th>{top}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div><p class=faint>Percent of weights unchanged; grey holds no weights. "
        "Colours run from the lowest to the highest cell of a rule.</p>"
    )


def _key(place: int, rule: str, scale: tuple[float, float]) -> str:
    stops = ", ".join(_colour(fraction)[0] for fraction in np.linspace(0, 1, 9))
    return (
        f"<div class=scale data-scale={place}{'' if rule == DEFAULT_RULE else ' hidden'}>{rule} {percent(scale[0])}"
        f'<i style="background:linear-gradient(to right, {stops})"></i>{percent(scale[1])}</div>'
    )


def _cell(cell: Mapping[Any, Any] | None, scales: dict[str, tuple[float, float]]) -> str:
    if cell is None:
        return "<td class=empty></td>"
    drawn = []
    for rule, (low, high) in scales.items():
        value = cell[f"sparsity_{rule}"]
        drawn.append((percent(value).removesuffix(" %"), *_colour((value - low) / (high - low))))
    words = [
        f"{cell['numel']:,} weights",
        *(f"{rule}: {cell[f'changed_{rule}']:,} changed, {percent(cell[f'sparsity_{rule}'])} sparse" for rule in RULES),
    ]
    label, back, ink = drawn[RULES.index(DEFAULT_RULE)]
    title = escape(f"{printable(cell['layer'])} {cell['module']}\n" + "\n".join(words))
    data = escape("|".join(" ".join(one) for one in drawn))
    return f'<td data-cells="{data}" title="{title}" style="background:{back};color:{ink}">{escape(label)}</td>'


def _colour(fraction: float) -> tuple[str, str]:
    """(background, readable ink) of a place on the colour scale."""
    red, green, blue, _ = mpl.colormaps[style.SEQUENTIAL](min(max(fraction, 0.0), 1.0))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    return mpl.colors.to_hex((red, green, blue)), "#111" if light else "#fff"


def _histogram(total: Row) -> str:
    """A bar a bin, up to the last that holds any weight; lengths go with the logarithm of the count, the numbers stand beside."""
    bins = list(total.ulp.items())[: text.last_bin(total.ulp)]
    most = math.log10(max(10, *(count for _, count in bins)))
    whole = sum(total.ulp.values())
    lines = []
    for label, count in bins:
        length = 100 * math.log10(max(1, count)) / most
        bar = f'<i style="width:{length:.1f}%"></i>' if count else ""
        share = count / whole if whole else math.nan
        lines.append(f"<tr><td>{label}</td><td>{count:,}</td><td>{percent(share)}</td><td style='width:60%'>{bar}</td></tr>")
    return (
        "<table class=bars style='width:100%'><thead><tr><th>steps</th><th>weights</th><th>share</th><th></th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table><p class=faint>Both sides rounded to bfloat16. Bars are logarithmic: each tenfold is "
        "equally long. Pairs with NaN or infinity are not in it.</p>"
    )


def _series(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    with style.use_style():
        drawing = style.new_figure(9, 4.2)
        series_lines(series_table(steps), drawing.subplots())
        chart = html.image(drawing, "sparsity against checkpoint, under each rule")
    labels = text.short_paths({path for step in steps for path in (step.start, step.end)})
    lines = (
        [step.against, escape(labels[step.start]), escape(labels[step.end])]
        + [percent(step.comparison.total.sparsity[rule]) for rule in RULES]
        + [_measure(step.comparison.total, key) for key in (*MEASURES, "nonfinite")]
        for step in steps
    )
    table = html.table(["<against", "<from", "<to", *HEADS], lines)
    return html.section("The series", chart + table + "<p class=faint>All else on this page is the last checkpoint against the first.</p>")


def _adapters(comparison: Comparison) -> str:
    if not comparison.adapters:
        return ""
    lines = (
        [html.safe(one["name"]), str(one["rank"]), str(one["numerical_rank"]), text.number(one["scaling"]), text.number(one["update_norm"])]
        for one in comparison.adapters
    )
    return html.section("The adapter's factors", html.table(["<target", "rank", "numerical rank", "scaling", "update norm"], lines))


TENSOR_HEADS = ("tensor", "module", "shape", "dtype", "weights", *HEADS)


def _tensor_table() -> str:
    heads = "".join(
        f"<th{' class=text' * (place < 4)}><button type=button>{escape(head)}</button></th>" for place, head in enumerate(TENSOR_HEADS)
    )
    return (
        "<noscript><p>This table needs scripts; `--csv` writes the same rows.</p></noscript><p id=pages hidden>"
        "<input id=filter type=search placeholder='part of a name' aria-label='part of a name'> "
        "<button type=button data-step=-1>previous</button> <button type=button data-step=1>next</button> <span class=faint></span></p>"
        f"<div class=scroll><table id=tensor-table><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>"
    )


def _tensor_data(rows: Sequence[Row]) -> str:
    """The rows of the tensor table as JSON that is safe inside a script element: what the cells say, and what they sort by."""
    records = []
    for row in rows:
        dtype = row.dtype_base if row.dtype_base == row.dtype_tuned else f"{row.dtype_base} → {row.dtype_tuned}"
        words = [printable(row.name, 300), kind(row.name), "x".join(map(str, row.shape or ())) or "scalar", str(dtype)]
        values = [row.numel, *row.sparsity.values(), *(getattr(row, key) for key in MEASURES), row.nonfinite]
        cells = [f"{row.numel:,}", *map(percent, row.sparsity.values()), *(_measure(row, key) for key in (*MEASURES, "nonfinite"))]
        sort = [value if math.isfinite(value) else None for value in values]
        records.append({"shown": words + cells, "sort": words + sort})
    return json.dumps({"text": 4, "rows": records}, allow_nan=False, separators=(",", ":"))  # ASCII: no line separators of Unicode


def _skipped(comparison: Comparison) -> str:
    groups = text.skipped_groups(comparison.skipped)
    if not groups:
        return "<p>Nothing: every tensor of both sides was compared.</p>"
    lines = (
        [
            escape(where),
            str(len(names)),
            html.safe(reason, 500),
            ", ".join(html.safe(name) for name in names[:20]) + (", …" if len(names) > 20 else ""),
        ]
        for where, reason, names in groups
    )
    return html.wrapped(html.table(["<in", "how many", "<why", "<what"], lines))
