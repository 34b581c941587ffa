"""Present the shape of an update as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamics.descriptions import plural
from dynamics.presentation import html, style
from dynamics.spectra.comparison import changed_only, frame
from dynamics.spectra.linalg import TOPS
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
    **{f"energy_{top}": f"top {top}" for top in TOPS},
    "decay_update": "decay",
    "decay_base": "decay, base",
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
    "rank": "Number of singular values of the update D above max(m, n) eps sigma_1. Rounding to the storage dtype gives almost any update "
    "full rank.",
    "stable rank": "|D|_F^2 / |D|_2^2: the energy of the update, relative to that of its strongest direction.",
    "effective rank": "exp of the entropy of the singular values, normalised to a sum of 1.",
    "rank 99 %": "Number of directions that contain 99 % of |D|^2.",
    "top 1, 4, 16, 64": "Share of |D|^2 in its first 1, 4, 16 and 64 singular directions.",
    "decay": "Exponent of sigma_i ~ i^-decay of the update and of the base, by least squares of the logarithms over the first k singular "
    "values. A flat spectrum has 0.",
    "NSS": "|sigma(W + D) - sigma(W)| / |sigma(W)|: the relative change of the singular values.",
    "angle": "The largest of the k principal angles between the leading singular directions before and after, in degrees. It is not "
    "informative if the k-th singular value is close to the next.",
    "inside": "Share of |D|^2 within the first k left and right singular directions of the base. Its chance value is k^2 / (m n).",
    "principal, low": "Share of the changed weights among the largest weights of the rank-k part of W, and among the smallest weights of "
    "W. The chance value is the share of all weights in the mask.",
    "intruders": "Number of the first ten left singular directions after training with |cosine| below 0.5 to every direction before.",
    "in brackets": "Bounds of the quantity, if only the leading directions were computed.",
}


@dataclass(frozen=True)
class Cell:
    """A quantity of a matrix.

    Attributes
    ----------
    value
        The formatted value.
    bounds
        Bounds of the value, if only the leading directions were computed.
    """

    value: str
    bounds: str = ""


def page(
    base: str,
    tuned: str,
    spectra: list[Spectrum],
    skipped: Sequence[Skip],
    settings: Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> str:
    """Render the spectra of two checkpoints.

    Parameters
    ----------
    base, tuned
        Names of the two checkpoints.
    spectra
        The spectrum of every matrix.
    skipped
        The tensors that were left out, with reasons.
    settings
        Settings of the measurement, by name.
    remarks
        Notes on the checkpoints themselves.

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
        "notes": [html.one_line(line, 600) for line in (headline(spectra, skipped), *remarks, *notes(spectra)) if line],
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
    """Format a row per matrix: its name, its shape and every quantity of ``COLUMNS``."""
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
    """Format the bounds of a quantity; empty if the quantity is exact or not defined."""
    return "" if ends is None or math.isnan(value) else f"[{ends[0]:.3g}, {ends[1]:.3g}]"
