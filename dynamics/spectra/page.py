"""Present the shape of an update as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamics.descriptions import plural
from dynamics.presentation import html, style
from dynamics.spectra.comparison import changed_only, frame
from dynamics.spectra.notes import headline, notes
from dynamics.spectra.plot import figure

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class Cell:
    """A quantity of a matrix.

    Attributes
    ----------
    value
        As it is printed.
    bounds
        The interval that it lies in, where the first directions alone were computed.
    """

    value: str
    bounds: str = ""


def page(base: str, tuned: str, spectra: list[Spectrum], skipped: Sequence[Skip], settings: Mapping[str, Any]) -> str:
    """Render the spectra of two checkpoints.

    Parameters
    ----------
    base, tuned
        What the two checkpoints are called.
    spectra
        The spectrum of every matrix.
    skipped
        What was left out, and why.
    settings
        How it was measured, by name.

    Returns
    -------
    The text of one HTML file.
    """
    rows = changed_only(frame(spectra))
    medians = rows.groupby("module", sort=False)[list(COLUMNS)].median()
    with style.use_style():
        profiles = html.figure_uri(figure(spectra))
    context = {
        "base": html.one_line(base),
        "tuned": html.one_line(tuned),
        "matrix_count": plural(len(spectra), "matrix", "matrices"),
        "notes": [html.one_line(line, 600) for line in (headline(spectra, skipped), *notes(spectra)) if line],
        "settings": html.one_line(", ".join(f"{name} {value}" for name, value in settings.items()), 400),
        "profiles": profiles,
        "columns": list(COLUMNS.values()),
        "modules": [[html.one_line(kind), *map(_number, medians.loc[kind])] for kind in medians.index],
        "matrices": _matrices(rows, spectra),
        "skipped": [[html.one_line(skip.name), html.one_line(skip.reason)] for skip in skipped],
        "meanings": GLOSSARY,
    }
    return html.render("spectra.html", context)


def _matrices(rows: pd.DataFrame, spectra: list[Spectrum]) -> list[list[Cell]]:
    """Format a row a matrix: its name, its shape and every quantity of ``COLUMNS``."""
    bounds = {spectrum.name: spectrum.bounds for spectrum in spectra}
    return [
        [
            Cell(html.one_line(row["name"])),
            Cell("x".join(map(str, row["shape"]))),
            *(Cell(_number(row[column]), _interval(bounds[row["name"]].get(column), row[column])) for column in COLUMNS),
        ]
        for row in rows.to_dict("records")
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _interval(ends: Sequence[float] | None, value: float) -> str:
    """Format what a quantity lies between; nothing where the quantity is exact or not defined."""
    return "" if ends is None or math.isnan(value) else f"[{ends[0]:.3g}, {ends[1]:.3g}]"
