"""The shape of an update as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamics.presentation import html, style
from dynamics.spectra.plot import figure, frame

if TYPE_CHECKING:
    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum

COLUMNS = {
    "rank": "rank",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "rank_99": "rank 99 %",
    "nss": "NSS",
    "angle_left_max": "angle left",
    "angle_right_max": "angle right",
    "inside": "inside",
    "inside_chance": "chance",
    "principal": "principal",
    "low": "low",
    "chance": "chance",
    "intruders": "intruders",
}
GLOSSARY = {
    "rank": "Singular values of the update above max(m, n) eps sigma_1. Rounding to the storage dtype makes almost any update full rank.",
    "stable rank": "|D|_F^2 / |D|_2^2: how many directions as strong as the strongest would hold its energy.",
    "effective rank": "exp of the entropy of the singular values as shares.",
    "rank 99 %": "How many directions hold 99 % of |D|^2.",
    "NSS": "|sigma(W + D) - sigma(W)| / |sigma(W)|: how far the singular values moved.",
    "angle": "The largest of the k principal angles between the first directions before and after, in degrees. Says little where the k-th "
    "singular value is close to the next.",
    "inside": "Share of |D|^2 within the first k left and right directions of the base, beside k^2 / (m n).",
    "principal, low": "Share of the changed weights among the largest of the rank-k part of W, and among the smallest of W, beside the "
    "share of all weights there.",
    "intruders": "Of the first ten left directions after, those with |cosine| below 0.5 to every one before.",
    "in brackets": "Bounds, where the first directions alone were found: what the quantity lies between, however the rest may be.",
}


def page(base: str, tuned: str, found: list[Spectrum], skipped: Sequence[Skip], settings: Mapping[str, Any]) -> str:
    """The text of one HTML file."""
    rows = frame(found)
    bounds = {one.name: one.bounds for one in found}
    heads = ["<matrix", "shape", *COLUMNS.values()]
    lines = [
        [html.safe(row["name"]), "x".join(map(str, row["shape"]))]
        + [_cell(row[column], bounds[row["name"]].get(column)) for column in COLUMNS]
        for row in rows.to_dict("records")
    ]
    middle = rows.groupby("module", sort=False)[list(COLUMNS)].median()
    modules = [[html.safe(kind), *(_cell(value, None) for value in middle.loc[kind])] for kind in middle.index]
    with style.use_style():
        drawing = html.image(figure(found), "profiles over the layers, singular values and principal angles")
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    sections = [
        f"<h1>The shape of an update</h1><p>base <code>{html.safe(base)}</code></p><p>tuned <code>{html.safe(tuned)}</code></p>"
        f"<p>{len(found):,} matrices; {html.safe(said, 400)}</p>",
        html.section("Profiles", drawing),
        html.section("Medians by kind of module", html.table(["<module", *COLUMNS.values()], modules)),
        html.section("By matrix", html.table(heads, lines)),
        html.section("Left out", html.table(["<tensor", "<why"], [[html.safe(one.name), html.safe(one.reason)] for one in skipped]))
        if skipped
        else "",
        html.section("What the numbers are", html.glossary(GLOSSARY)),
    ]
    return html.document("The shape of an update", sections)


def _cell(value: Any, ends: Sequence[float] | None) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "-"
    text = f"{value:.4g}"
    return text if ends is None else f"{text} <span class=faint>[{ends[0]:.3g}, {ends[1]:.3g}]</span>"
