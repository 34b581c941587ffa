"""Overlap of updates as one self-contained HTML page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from dynamics.overlap.plot import figure
from dynamics.presentation import html, style, text
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES

if TYPE_CHECKING:
    from dynamics.overlap.comparison import Comparison

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
    "o1, o2": "Share of the first update's changed weights that the second changed too, and the other way round. Two dense updates overlap "
    "by that alone: read them beside chance.",
    "Jaccard": "Changed by both / changed by either.",
    "chance": "Of independent masks as dense as these two; by tensor: as dense in every tensor, the one to compare with, as "
    "layers and modules differ in density.",
    "same sign, cosine": "Of the two updates over the weights that both changed as stored. Between float32 checkpoints that is nearly all.",
}


def page(found: Comparison, series: bool = False) -> str:
    """The text of one HTML file."""
    from dynamics.overlap.comparison import table

    rows = table(found)
    sides = "".join(f"<p>{number} <code>{html.safe(one.path)}</code></p>" for number, one in enumerate(found.tuned, start=1))
    with style.use_style():
        drawing = html.image(figure(found), "Jaccard index of the changed weights beside its chance value")
    sections = [
        f"<h1>Did they move the same weights</h1><p>base <code>{html.safe(found.base.path)}</code></p>{sides}"
        f"<p>{found.numel:,} weights compared</p>",
        html.section("Jaccard index, rule bf16", drawing),
        html.section("All weights", _rows(rows[rows["level"] == "total"], "<rule", "rule")),
        html.section(
            "By kind of module, rule bf16", _rows(rows[(rows["level"] == "module") & (rows["rule"] == "bf16")], "<module", "name")
        ),
        html.section("By layer, rule bf16", _rows(rows[(rows["level"] == "layer") & (rows["rule"] == "bf16")], "<layer", "name")),
        _consensus(found),
        _series(found) if series else "",
        "".join(f"<p>{html.safe(note, 2000)}</p>" for note in found.notes),
        html.section("Left out", _skipped(found)) if found.skipped else "",
        html.section("What the numbers are", html.glossary(GLOSSARY)),
    ]
    return html.document("Overlap of updates", sections)


def _rows(part: pd.DataFrame, head: str, column: str) -> str:
    lines = [
        [
            html.safe(row[column]),
            f"{row['a'] + 1}, {row['b'] + 1}",
            percent(row["first"] / row["numel"]),
            percent(row["second"] / row["numel"]),
        ]
        + ["-" if math.isnan(row[name]) else f"{row[name]:.3f}" for name in SHARES]
        for row in part.to_dict("records")
    ]
    return html.table([head, "<pair", "1st changed", "2nd changed", *SHARES.values()], lines)


def _consensus(found: Comparison) -> str:
    count = len(found.tuned)
    if count < 3:
        return ""
    lines = [[rule, *(percent(one / found.numel) for one in found.consensus[rule])] for rule in RULES]
    return html.section("Moved by how many", html.table(["<rule", *(f"{number} of {count}" for number in range(count + 1))], lines))


def _series(found: Comparison) -> str:
    lines = [
        [rule, *(percent(one / found.numel) for one in found.first[rule]), percent(found.came_back[rule] / found.numel)] for rule in RULES
    ]
    heads = ["<rule", *(str(number + 1) for number in range(len(found.tuned))), "never", "came back"]
    return html.section("First changed at checkpoint", html.table(heads, lines))


def _skipped(found: Comparison) -> str:
    lines = [
        [html.safe(where), html.safe(reason), html.safe(", ".join(names[:5]), 400)]
        for where, reason, names in text.skipped_groups(found.skipped)
    ]
    return html.table(["<of", "<why", "<tensors"], lines)
