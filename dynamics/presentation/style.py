"""The style of all figures, and saving them.

Figures are made with ``matplotlib.figure.Figure`` and not with pyplot. So they need no display and do not change the caller's backend or
open figures, and the same table gives the same bytes.

    with style.use_style():
        figure = style.new_figure(8, 4)
        rules(table, figure.subplots())
        style.save(figure, "figures/precision.png")
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing

#: colours of series that are not rules (runs, methods, checkpoints), from the same palette
SERIES_COLORS = ("#56B4E9", "#D55E00", "#000000", "#F0E442", "#0072B2", "#009E73")

#: colour map for fractions: perceptually uniform, and readable in greyscale
SEQUENTIAL = "viridis"

INK = "#222222"
FAINT = "#6b6b6b"
GRID = "#e4e4e4"

#: widths in inches of a figure over one column and over both columns of a two-column paper; text is 8 to 9 points at these sizes
ONE_COLUMN, TWO_COLUMN = 3.4, 7.0
#: width in inches of a figure that fills a telephone held upright, at the same size of text; and the width up to which a figure is one
PHONE, NARROW = 3.7, 5.0

SUFFIXES = (".png", ".svg", ".pdf")

_RC: Any = {  # Any, because the type of matplotlib's keys depends on its version
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of matplotlib, so a figure does not depend on the fonts of the machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0.0,
    "ytick.major.size": 3.0,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "svg.fonttype": "path",
    "svg.hashsalt": "training-dynamics",  # otherwise the ids in an SVG are random
    "pdf.fonttype": 42,
}


@contextmanager
def use_style() -> Iterator[None]:
    """Set the style while figures are drawn and saved; the caller's matplotlib settings are restored afterwards."""
    import seaborn as sns

    with mpl.rc_context():
        mpl.rcdefaults()  # so that a figure does not depend on a matplotlibrc
        mpl.rcParams.update(sns.axes_style("ticks") | sns.plotting_context("paper") | _RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of ``width`` by ``height`` inches with constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = 200) -> Path:
    """Write ``figure`` atomically to ``path``, in the format of its suffix (png, svg or pdf).

    The same figure gives the same bytes: the file contains no date and no version of a program. Call it inside ``use_style``.
    """
    path = Path(path)
    suffix = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[suffix]
    drawn = io.BytesIO()  # without room on the disk, matplotlib's writer of PDF ends with an error of its own
    figure.savefig(drawn, format=suffix[1:], dpi=dpi, metadata=metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(drawn.getbuffer())
    return path


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of ``path`` in lower case. Call it before the figure is made, to fail early.

    Raises
    ------
    InputError : the suffix is not that of a figure format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{printable(path)}: a figure's suffix names its format, {suffix or 'none'!r} is not one of {', '.join(SUFFIXES)}")
    return suffix


def exponent(number: float) -> str:
    """Format a number for axes and legends: ``3e-4`` for 0.0003."""
    if not number:
        return "0"
    mantissa, _, power = f"{number:e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"


def label_bars(ax: Axes, labels: list[str], **text: Any) -> list[Text]:
    """Write ``labels`` above the bars of ``ax``, in drawing order."""
    bars = [patch for container in ax.containers for patch in container]
    if len(labels) != len(bars):
        raise ValueError(f"{len(labels)} labels for {len(bars)} bars")
    size: dict[str, Any] = {"fontsize": 7.0, "ha": "center", "va": "bottom", "xytext": (0, 2), "textcoords": "offset points"} | text
    tops = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars]
    return [ax.annotate(label, top, **size) for top, label in zip(tops, labels, strict=True)]


def band(ax: Axes, x: Any, low: Any, high: Any, **look: Any) -> None:
    """Draw a band from ``low`` to ``high``; at a single ``x``, where a band has no width, a vertical bar. ``look``: color, alpha."""
    ax.fill_between(x, low, high, linewidth=0, **look)
    if len(x) == 1:
        ax.vlines(x, low, high, linewidth=5.0, **look)


def legend_above(ax: Axes, columns: int = 2) -> None:
    """Put a legend above ``ax``, where it covers no data, for a figure that has no space beside it."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=columns)


def legend_beside(ax: Axes, title: str | None = None) -> None:
    """Put a legend to the right of ``ax``, where it covers no data."""
    ax.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, alignment="left")
