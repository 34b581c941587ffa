"""Overlaps on a screen, each beside its chance values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.errors import printable
from dynamics.presentation import tables, text
from dynamics.presentation.tables import Section
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.overlap.comparison import Comparison


def show(found: Comparison, series: bool = False, console: Console | None = None) -> None:
    """Print it to standard output, or to ``console``."""

    def sections(width: int, fancy: bool) -> list[Section]:
        return [_header(found), _total(found), _parts(found), _consensus(found), _series(found) if series else [], _end(found)]

    tables.show(sections, console)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _header(found: Comparison) -> Section:
    lines: Section = [Text(f"base   {printable(found.base.path, 300)}", "bold")]
    lines += [Text(f"{number + 1:<6} {printable(one.path, 300)}") for number, one in enumerate(found.tuned)]
    return [*lines, Text(f"{found.numel:,} weights compared" + (f"; {len(found.skipped):,} tensors left out" if found.skipped else ""))]


def _total(found: Comparison) -> Section:
    heads = (">1st", ">2nd", ">o1", ">o2", ">Jaccard", ">chance", ">by tensor", ">same sign", ">cosine")
    made = tables.table("|pair", "|rule", *heads)
    for row in found.total:
        for rule in RULES:
            one = row.rules[rule]
            first = rule == RULES[0]
            densities = (percent(one.first / one.numel), percent(one.second / one.numel))
            shares = (one.o1, one.o2, one.jaccard, one.jaccard_chance, one.jaccard_chance_by_tensor)
            more = (_share(row.same_sign), _share(row.cosine)) if first else ("", "")
            tables.add(made, f"{row.a + 1}, {row.b + 1}" if first else "", rule, *densities, *map(_share, shares), *more)
    note = "1st, 2nd: weights changed; chance: Jaccard index of independent masks as dense as these; by tensor: as dense in every tensor"
    return [made, Text(note, "dim"), Text("same sign, cosine: of the two updates over the weights that both changed as stored", "dim")]


def _parts(found: Comparison) -> Section:
    """By kind of module, under the rule bf16; of more than two checkpoints the first pair is shown."""
    made = tables.table("|bf16, by module", ">weights", ">o1", ">o2", ">Jaccard", ">by tensor", ">cosine")
    for row in found.modules:
        if (row.a, row.b) == (0, 1):
            one = row.rules["bf16"]
            shares = (one.o1, one.o2, one.jaccard, one.jaccard_chance_by_tensor, row.cosine)
            tables.add(made, row.name, text.human(one.numel), *map(_share, shares))
    return [made]


def _consensus(found: Comparison) -> Section:
    if len(found.tuned) < 3:
        return []
    made = tables.table("|moved by", *(f">{count} of {len(found.tuned)}" for count in range(len(found.tuned) + 1)))
    for rule, counts in found.consensus.items():
        tables.add(made, rule, *(percent(count / found.numel) for count in counts))
    return [made]


def _series(found: Comparison) -> Section:
    made = tables.table("|first changed at", *(f">{number + 1}" for number in range(len(found.tuned))), ">never", ">came back")
    for rule, counts in found.first.items():
        tables.add(made, rule, *(percent(count / found.numel) for count in counts), percent(found.came_back[rule] / found.numel))
    return [made]


def _end(found: Comparison) -> Section:
    lines: Section = [Text(f"note  {note}") for note in found.notes]
    for where, reason, names in text.skipped_groups(found.skipped):
        lines.append(Text(f"left out of {where}: {', '.join(map(printable, names[:3]))}{' ...' if len(names) > 3 else ''}: {reason}"))
    return lines
