"""Plots of the spectra of updates: profiles over the layers, singular values and principal angles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dynamics.errors import printable
from dynamics.presentation import style, ticks
from dynamics.spectra.comparison import frame

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamics.spectra.comparison import Spectrum

#: column -> (label of the axis, column of its chance value)
COLUMNS = {
    "stable_rank": ("stable rank of the update", None),
    "effective_rank": ("effective rank of the update", None),
    "nss": ("spectral drift (NSS)", None),
    "angle_left_max": ("largest left angle, degrees", None),
    "inside": ("update energy in the first k directions", "inside_chance"),
    "principal": ("changed weights in the principal mask", "chance"),
}


#: columns of fractions, which axes show as percentages
SHARES = ("inside", "principal")
#: what the legend calls the dotted lines: there is one for each shape of a matrix, up to ``CHANCES``
BY_CHANCE, CHANCES = "by chance", 4


def profile(rows: pd.DataFrame, column: str, ax: Axes) -> Axes:
    """Draw a quantity against the layer, a line for each kind of module. ``rows``: columns layer, module, and the quantity."""
    in_layers = rows[rows["layer"] >= 0]
    for kind, part in in_layers.groupby("module", sort=False):
        ordered = part.sort_values("layer")
        ax.plot(ordered["layer"], ordered[column], marker="o", ms=2.5, lw=1, label=str(kind))
    return frame_profile(in_layers, column, ax)


def frame_profile(in_layers: pd.DataFrame, column: str, ax: Axes) -> Axes:
    """Add what profiles share: the dotted chance values with their entry in the legend, the axes and the title."""
    label, chance = COLUMNS[column]
    for number, value in enumerate(sorted(set(in_layers[chance].round(6)))[:CHANCES] if chance is not None else ()):
        ax.axhline(value, color="black", lw=0.8, ls=":", label=f"{'_' * (number > 0)}{BY_CHANCE}")
    is_log = column == "nss" and len(in_layers) > 0 and bool((in_layers[column] > 0).all())
    if is_log:
        ax.set_yscale("log")
        ticks.logarithmic(ax.yaxis, 4)
    else:
        ticks.plain(ax.yaxis, share=column in SHARES)
    ticks.whole(ax.xaxis)
    ax.set_xlabel("layer")
    ax.set_title(f"{label}{', log scale' * is_log}", fontsize=8.5, pad=4)
    return ax


def legend(drawing: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Put a legend of all axes below them, each entry once."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        drawing.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, frameon=False, fontsize=7)


def values(spectra: list[Spectrum], ax: Axes) -> Axes:
    """Draw the singular values of the matrix with the largest drift: before, after, and of the update."""
    drifted_most = max(spectra, key=lambda spectrum: spectrum.nss if spectrum.nss == spectrum.nss else -1.0)
    curves = (
        ("base", drifted_most.sigma_base, "-", 2.5),
        ("tuned", drifted_most.sigma_tuned, "--", 1.2),
        ("update", drifted_most.sigma_update, ":", 1.5),
    )
    for label, sigma, dashes, width in curves:
        ax.plot(range(1, len(sigma) + 1), sigma, dashes, lw=width, label=label)
    if all(any(value > 0 for value in sigma) for _, sigma, _, _ in curves):
        ax.set_yscale("log")
        ticks.logarithmic(ax.yaxis, 4)
    else:
        ticks.plain(ax.yaxis)
    ticks.whole(ax.xaxis)
    ax.set_xlabel("index")
    ax.set_ylabel("singular value", fontsize=7)
    ax.set_title(printable(drifted_most.name, 40), fontsize=7)
    ax.legend(fontsize=6, frameon=False)
    return ax


def turned(spectra: list[Spectrum], side: str, ax: Axes) -> Axes:
    """Draw principal angles against their index, a line per matrix, and their median. ``side``: left or right."""
    lines = [getattr(spectrum, f"angles_{side}") for spectrum in spectra]
    for line in lines:
        ax.plot(range(1, len(line) + 1), line, color=style.FAINT, lw=0.5, alpha=0.5)
    most = max((len(line) for line in lines), default=0)
    complete = [line for line in lines if len(line) == most]
    if most:
        ax.plot(range(1, most + 1), pd.DataFrame(complete).median(), color="black", lw=1.5, label="median")
        ax.legend(fontsize=6, frameon=False)
    ticks.whole(ax.xaxis)
    ticks.plain(ax.yaxis)
    ax.set_xlabel("index")
    ax.set_ylabel(f"{side} angle, degrees", fontsize=7)
    return ax


def figure(spectra: list[Spectrum]) -> Any:
    """Draw six profiles over the layers with dotted chance values, singular values before and after, and angles against their index."""
    rows = frame(spectra)
    with style.use_style():
        drawing = style.new_figure(9.5, 7.6)
        axes = drawing.subplots(3, 3)
        for ax, column in zip(axes.flat, COLUMNS, strict=False):
            profile(rows, column, ax)
        values(spectra, axes[2, 0])
        turned(spectra, "left", axes[2, 1])
        turned(spectra, "right", axes[2, 2])
        legend(drawing, axes.flat[: len(COLUMNS)], 9)
    return drawing
