"""Draw a lineage as a tree: a line for the life of each adapter, in the row of its player, and a curve from each parent to its child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamics.presentation import style
from dynamics.train.lineage.tree import Lineage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: markers of births, by operator in order of appearance
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def tree(lineage: Lineage, ax: Axes, columns: int = 4) -> Axes:
    """Draw the tree, with a legend of ``columns`` columns.

    Colours say from which adapter of the start, in the same population, a line descends, through the better parents; markers are operators,
    and dotted lines lead from the second parents.
    """
    players, by_name = lineage.players, {adapter.name: adapter for adapter in lineage.adapters}
    rows = {player: number for number, player in enumerate(players)}
    colors: dict[str, str] = {}
    for population in dict.fromkeys(map(_population, players)):  # no adapter descends from one of another population
        of = [adapter.name for adapter in lineage.adapters if not adapter.parents and _population(adapter.player) == population]
        colors |= {name: style.SERIES_COLORS[number % len(style.SERIES_COLORS)] for number, name in enumerate(of)}
    operators = list(dict.fromkeys(adapter.operator for adapter in lineage.adapters if adapter.operator))
    for adapter in lineage.adapters:
        row, color = rows[adapter.player], colors[lineage.founder(adapter.name)]
        ax.plot([adapter.born, adapter.died], [row, row], color=color, linewidth=3, solid_capstyle="butt")
        for place, parent in enumerate(adapter.parents):
            start = rows[by_name[parent].player]
            ax.plot([adapter.born, adapter.born], [start, row], color=color, linewidth=0.8, linestyle="-" if place == 0 else ":", zorder=1)
        if adapter.operator:
            marker = MARKERS[operators.index(adapter.operator) % len(MARKERS)]
            ax.plot(adapter.born, row, marker=marker, color=color, markersize=5, markeredgecolor="white", linestyle="none", zorder=3)
    for number, operator in enumerate(operators):
        ax.plot([], [], marker=MARKERS[number % len(MARKERS)], color=style.INK, markersize=5, linestyle="none", label=operator)
    ax.set_yticks(range(len(players)), players)
    ax.set_ylim(len(players) - 0.5, -0.5)
    ax.set_xlim(0, lineage.steps)
    ax.set_xlabel("step")
    if operators:
        style.legend_above(ax, columns)
    return ax


def _population(player: str) -> str:
    return player.rstrip("0123456789")


def figure(lineage: Lineage, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the tree of a run, ``width`` inches wide."""
    with style.use_style():
        drawing = style.new_figure(width, 1.1 + 0.28 * len(lineage.players))
        tree(lineage, drawing.subplots(), 2 if width < 5 else 4)
    return drawing
