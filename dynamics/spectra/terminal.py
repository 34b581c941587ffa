"""Print the spectra of an update as tables to the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.checkpoints import parameter_names
from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.presentation import tables
from dynamics.presentation.tables import Section
from dynamics.presentation.text import percent
from dynamics.spectra.comparison import NOT_SELECTED, changed_only, frame
from dynamics.spectra.linalg import TOPS
from dynamics.spectra.notes import headline, notes
from dynamics.spectra.pooled import ENERGIES, by_module, pooled

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum


HOW = {
    "full": "full decompositions in float64",
    "approx": "first directions by random projection, bounds in --json, --csv and --html",
    "none": "nothing decomposed",
}
#: column -> format of its median
UPDATE = {
    "rank": ".0f",
    "stable_rank": ".1f",
    "effective_rank": ".0f",
    "rank_99": ".0f",
    "nss": ".1e",
    "angle_left_max": ".3g",
    "inside": ".4f",
    "inside_chance": ".4f",
}
MASKS = {"angle_right_max": ".3g", "principal": ".3f", "low": ".3f", "chance": ".3f"}


def show(
    base: str,
    tuned: str,
    spectra: list[Spectrum],
    skipped: list[Skip],
    method: str = "full",
    console: Console | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Print medians over the matrices of each kind of module; ``remarks`` are notes on the checkpoints themselves."""

    def sections(_width: int, _fancy: bool) -> list[Section]:
        return [
            _head(base, tuned, spectra, skipped, method),
            *_tables(frame(spectra)),
            _concentration(spectra),
            _end(spectra, skipped, remarks),
        ]

    tables.show(sections, console)


def _head(base: str, tuned: str, spectra: list[Spectrum], skipped: list[Skip], method: str) -> Section:
    first = headline(spectra, skipped)
    lines: Section = [Text(first, "bold")] if first else []
    lines += [Text(f"base   {printable(base, 300)}", "bold"), Text(f"tuned  {printable(tuned, 300)}", "bold")]
    count = plural(len(spectra), "matrix", "matrices")
    k = max(spectrum.k for spectrum in spectra)
    return [*lines, Text(f"{count}, {HOW[method]}, k = {k}; medians by kind of module")]


def _tables(rows: pd.DataFrame) -> list[Section]:
    heads = (">matrices", ">rank", ">stable", ">effective", ">rank 99 %", ">NSS", ">angle", ">inside", ">chance")
    update_table = tables.table("|module", *heads)
    mask_table = tables.table("|module", ">angle right", ">principal", ">low", ">chance", ">intruders", ">Hill, base", ">update")
    for kind, part in rows.groupby("module", sort=False):
        medians = changed_only(part).median(numeric_only=True)
        hill = part["hill_base"].median()  # of the base, so unchanged matrices count
        update = [_written(medians[column], digits) for column, digits in UPDATE.items()]
        masks = [_written(medians[column], digits) for column, digits in MASKS.items()]
        changed = bool(part["update_norm"].any())
        intruders = str(int(part["intruders"].sum())) if changed else "-"
        tables.add(update_table, str(kind), str(len(part)), *update)
        tables.add(mask_table, str(kind), *masks, intruders, _written(hill, ".2f"), _written(medians["hill_update"], ".2f"))
    note = "angle: largest of the k principal angles, degrees; inside: energy of the update in the base's first k directions"
    return [
        [update_table, Text(note, "dim")],
        [mask_table, Text("principal, low: share of the changed weights in that mask", "dim")],
    ]


def _concentration(spectra: Sequence[Spectrum]) -> Section:
    """Tabulate how the energy and the singular values of the updates fall, of all matrices of a kind together."""
    if not any(spectrum.energy_1 == spectrum.energy_1 for spectrum in spectra):
        return []
    table = tables.table("|module", *(f">top {top}" for top in TOPS), ">decay", ">fit", ">decay, base", ">fit, base")
    rows = [
        (kind, found, [spectrum for spectrum in spectra if parameter_names.kind(spectrum.name) == kind])
        for kind, found in by_module(spectra).items()
    ]
    for kind, found, part in [*rows, ("all", pooled(spectra), list(spectra))] if len(rows) > 1 else rows:
        decays = [cell for side in ("update", "base") for cell in (found[f"decay_{side}"], _median(part, f"decay_{side}_fit"))]
        shares = ("-" if math.isnan(found[name]) else percent(found[name]) for name in ENERGIES)
        tables.add(table, kind, *shares, *(_written(cell, ".2f") for cell in decays))
    note = "top: energy of the updates in that many directions of each, pooled; decay: sigma_i ~ i^-decay over the first k, fit: its R^2"
    return [table, Text(note, "dim")]


def _median(spectra: Sequence[Spectrum], name: str) -> float:
    values = [value for spectrum in spectra if spectrum.update_norm and (value := getattr(spectrum, name)) == value]
    return median(values) if values else math.nan


def _end(spectra: list[Spectrum], skipped: list[Skip], remarks: Sequence[str]) -> Section:
    table = tables.table("|", "<")
    for note in (*remarks, *notes(spectra)):
        tables.add(table, "note", note)
    lines: Section = [table] if table.rows else []
    if count := sum(skip.reason != NOT_SELECTED for skip in skipped):
        lines.append(Text(f"{plural(count, 'tensor')} left out: not matrices, or not on both sides"))
    return lines


def _written(value: float, digits: str) -> str:
    return "-" if math.isnan(value) else f"{value:{digits}}"
