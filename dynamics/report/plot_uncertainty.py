"""Plots of entropy by kind of token, and text coloured by entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from dynamics.errors import printable
from dynamics.presentation import style, ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: colours of the base and of the last checkpoint
FIRST, SECOND = "#0072B2", "#D55E00"
#: characters of a line of coloured text, lines, and entropy in nats of the darkest colour
WIDTH, LINES, DARKEST = 84, 12, 3.0
COLORS = "YlOrBr"
#: inches of the figure of coloured text: its width, its margins, a line, the heading of a panel, and the scale below
FIGURE_WIDTH, SIDE, ROW, HEAD, FOOT = 7.0, 0.08, 0.165, 0.32, 0.62
#: width of a character of DejaVu Sans Mono in units of the font size
CHARACTER = 0.602


def kinds(table: pd.DataFrame, title: str = "", *, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the mean entropy of base and last checkpoint by kind of token, with intervals over texts.

    Parameters
    ----------
    table : from ``dynamics.report.token_means.by_kind``.
    title : above the figure.
    width : of the space in inches.
    """
    figure = style.new_figure(width, 1.3 + 0.36 * len(table))
    ax = figure.subplots()
    position = np.arange(len(table))
    for name, color, shift, label, hatch in (("entropy", FIRST, -0.19, "base", ""), ("entropy_b", SECOND, 0.19, "last checkpoint", "////")):
        value = table[name].to_numpy(float)
        low, high = table[f"{name}_low"].to_numpy(float), table[f"{name}_high"].to_numpy(float)
        error = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
        bars: dict[str, Any] = {"height": 0.36, "color": color, "label": label, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        ax.barh(position + shift, value, xerr=error, error_kw={"elinewidth": 0.9, "ecolor": style.INK}, **bars)
    labels = [f"{printable(kind, 24)}  {100 * share:.0f} %" for kind, share in zip(table["kind"], table["share"], strict=True)]
    ax.set_yticks(position, labels, parse_math=False)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ticks.plain(ax.xaxis)
    ax.set_xlabel(
        "mean entropy, nats"
        + (" (beside each kind: its share of the tokens)" if width > style.NARROW else "\n(beside each kind: its share)")
    )
    style.legend_above(ax)
    if title:
        ax.set_title(title, fontsize=8.5, pad=4, parse_math=False)
    return figure


def coloured(tokens: pd.DataFrame, *, width: float = FIGURE_WIDTH) -> Figure:
    """Draw the start of a text twice, coloured by the entropy of the base and by that of the last checkpoint.

    Parameters
    ----------
    tokens : of one text, in order.
    width : of the space in inches; characters have the same size in all.
    """
    shown = tokens.dropna(subset=["entropy", "entropy_b"])
    characters = int(WIDTH * (width - 2 * SIDE) / (FIGURE_WIDTH - 2 * SIDE))
    placed = layout([str(token) for token in shown["token"]], characters, LINES * WIDTH // characters)
    rows = max((line for line, _, _ in placed), default=0) + 1
    figure = style.new_figure(width, 2 * (rows * ROW + HEAD) + FOOT)
    figure.set_layout_engine("none")  # the width of the axes must be that of the characters
    height = figure.get_figheight()
    norm = Normalize(0, DARKEST)
    for number, (name, title) in enumerate((("entropy", "entropy of the base"), ("entropy_b", "entropy of the last checkpoint"))):
        top = height - number * (rows * ROW + HEAD) - HEAD
        ax = figure.add_axes((SIDE / width, (top - rows * ROW) / height, 1 - 2 * SIDE / width, rows * ROW / height))
        _text(placed, shown[name].to_numpy(float)[: len(placed)], (rows, characters), norm, ax)
        ax.set_title(title, fontsize=8.5, pad=3)
    bar = figure.add_axes((0.5 - 1.4 / width, 0.34 / height, 2.8 / width, 0.09 / height))
    scale = figure.colorbar(
        mpl.cm.ScalarMappable(norm, COLORS), cax=bar, orientation="horizontal", extend="max", ticks=range(int(DARKEST) + 1)
    )
    scale.set_label("entropy, nats", labelpad=1)
    return figure


def layout(tokens: Sequence[str], width: int = WIDTH, lines: int = LINES) -> list[tuple[int, int, str]]:
    """Place tokens on lines of equally wide characters; return line, column and shown text of those that fit on ``lines`` lines."""
    placed = []
    line = column = 0
    for token in tokens:
        shown = shown_token(token)
        if column and column + len(shown) > width:
            line, column = line + 1, 0
        if line >= lines:
            break
        placed.append((line, column, shown[:width]))
        column += len(shown)
        if "\n" in token:
            line, column = line + 1, 0
    return placed


def shown_token(token: str) -> str:
    """Make a token one line of characters that the font has."""
    text = printable(token.replace("\n", "⏎").replace("\t", "→"), WIDTH)
    return "".join(c if ord(c) < 0x0530 or 0x2000 <= ord(c) < 0x2600 else "□" for c in text) or " "


def _text(placed: Sequence[tuple[int, int, str]], values: np.ndarray, shape: tuple[int, int], norm: Normalize, ax: Axes) -> None:
    colors = mpl.colormaps[COLORS](norm(values))
    size = (FIGURE_WIDTH - 2 * SIDE) / WIDTH * 72 / CHARACTER
    for (line, column, shown), color in zip(placed, colors, strict=True):
        ax.add_patch(Rectangle((column, line), len(shown), 1, facecolor=color, linewidth=0))
        dark = float(color[:3] @ np.array([0.299, 0.587, 0.114])) < 0.5
        style_of: dict[str, Any] = {"ha": "left", "va": "center", "family": "DejaVu Sans Mono", "parse_math": False, "fontsize": size}
        ax.text(column, line + 0.5, shown, color="white" if dark else style.INK, **style_of)
    ax.set_xlim(0, shape[1])
    ax.set_ylim(shape[0], 0)
    ax.set_axis_off()
