"""Print overlaps and their chance values to the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.presentation import tables, text
from dynamics.presentation.tables import Section
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.overlap.comparison import Comparison


def show(comparison: Comparison, series: bool = False, console: Console | None = None) -> None:
    """Print a comparison to standard output (or to ``console``)."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        return [
            _header(comparison),
            _total(comparison),
            _parts(comparison),
            _consensus(comparison),
            _series(comparison) if series else [],
            _end(comparison),
        ]

    tables.show(sections, console)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _header(comparison: Comparison) -> Section:
    lines: Section = [Text(comparison.headline, "bold")] if comparison.headline else []
    lines.append(Text(f"base   {printable(comparison.base.path, 300)}", "bold"))
    lines += [Text(f"{number + 1:<6} {printable(checkpoint.path, 300)}") for number, checkpoint in enumerate(comparison.tuned)]
    lines += [Text(f"{number or 'base':<6} {digest}", "dim") for number, digest in enumerate(comparison.digests)]
    skipped = f"; {plural(len(comparison.skipped), 'tensor')} left out, see the end" if comparison.skipped else ""
    return [*lines, Text(f"{plural(comparison.numel, 'weight')} compared{skipped}")]


def _total(comparison: Comparison) -> Section:
    heads = (">1st", ">2nd", ">o1", ">o2", ">Jaccard", ">chance", ">by tensor", ">same sign", ">cosine")
    table = tables.table("|pair", "|rule", *heads, keys=2)
    for row in comparison.total:
        for rule in RULES:
            overlaps = row.rules[rule]
            first = rule == RULES[0]
            densities = (percent(overlaps.first / overlaps.numel), percent(overlaps.second / overlaps.numel))
            shares = (overlaps.o1, overlaps.o2, overlaps.jaccard, overlaps.jaccard_chance, overlaps.jaccard_chance_by_tensor)
            of_pair = (_share(row.same_sign), _share(row.cosine)) if first else ("", "")
            tables.add(table, f"{row.a + 1}, {row.b + 1}" if first else "", rule, *densities, *map(_share, shares), *of_pair)
    note = (
        "1st, 2nd: weights changed; chance: Jaccard index of independent masks of the same density; by tensor: of the same density in "
        "every tensor"
    )
    return [table, Text(note, "dim"), Text("same sign, cosine: of the two updates over the weights that both changed as stored", "dim")]


def _parts(comparison: Comparison) -> Section:
    """Tabulate the overlap of the first pair by kind of module, under rule bf16."""
    table = tables.table("|bf16, by module", ">weights", ">o1", ">o2", ">Jaccard", ">by tensor", ">cosine")
    for row in comparison.modules:
        if (row.a, row.b) == (0, 1):
            overlaps = row.rules["bf16"]
            shares = (overlaps.o1, overlaps.o2, overlaps.jaccard, overlaps.jaccard_chance_by_tensor, row.cosine)
            tables.add(table, row.name, text.human(overlaps.numel), *map(_share, shares))
    return [table]


def _consensus(comparison: Comparison) -> Section:
    if len(comparison.tuned) < 3:
        return []
    table = tables.table("|changed by", *(f">{count} of {len(comparison.tuned)}" for count in range(len(comparison.tuned) + 1)))
    for rule, counts in comparison.consensus.items():
        tables.add(table, rule, *(percent(count / comparison.numel) for count in counts))
    return [table]


def _series(comparison: Comparison) -> Section:
    table = tables.table("|first changed at", *(f">{number + 1}" for number in range(len(comparison.tuned))), ">never", ">reverted")
    for rule, counts in comparison.first.items():
        tables.add(
            table, rule, *(percent(count / comparison.numel) for count in counts), percent(comparison.came_back[rule] / comparison.numel)
        )
    return [table]


def _end(comparison: Comparison) -> Section:
    lines: Section = [Text(f"note  {note}") for note in comparison.notes]
    for where, reason, names in text.skipped_groups(comparison.skipped):
        lines.append(Text(f"left out of {where}: {', '.join(map(printable, names[:3]))}{' ...' if len(names) > 3 else ''}: {reason}"))
    return lines
