"""The spectra of an update as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.errors import printable
from dynamics.presentation import tables
from dynamics.presentation.tables import Section
from dynamics.spectra.comparison import frame

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum


HOW = {
    "full": "full decompositions in float64",
    "approx": "first directions by random projection, bounds in --json, --csv and --html",
    "none": "nothing decomposed",
}


def show(base: str, tuned: str, spectra: list[Spectrum], skipped: list[Skip], method: str = "full", console: Console | None = None) -> None:
    """Medians over the matrices of each kind of module."""
    rows = frame(spectra)

    def sections(_width: int, _fancy: bool) -> list[Section]:
        head: Section = [Text(f"base   {printable(base, 300)}", "bold"), Text(f"tuned  {printable(tuned, 300)}", "bold")]
        head.append(Text(f"{len(spectra):,} matrices, {HOW[method]}, k = {spectra[0].k}; medians by kind of module"))
        heads = (">matrices", ">rank", ">stable", ">effective", ">rank 99 %", ">NSS", ">angle", ">inside", ">chance")
        update_table = tables.table("|module", *heads)
        mask_table = tables.table("|module", ">angle right", ">principal", ">low", ">chance", ">intruders", ">Hill, base", ">update")
        for kind, part in rows.groupby("module", sort=False):
            medians = part.median(numeric_only=True)
            ranks = (
                f"{medians['rank']:.0f}",
                f"{medians['stable_rank']:.1f}",
                f"{medians['effective_rank']:.0f}",
                f"{medians['rank_99']:.0f}",
            )
            drift = (
                f"{medians['nss']:.1e}",
                f"{medians['angle_left_max']:.3g}",
                f"{medians['inside']:.4f}",
                f"{medians['inside_chance']:.4f}",
            )
            tables.add(update_table, str(kind), str(len(part)), *ranks, *drift)
            masks = (f"{medians['principal']:.3f}", f"{medians['low']:.3f}", f"{medians['chance']:.3f}")
            counts = (str(int(part["intruders"].sum())), _known(medians["hill_base"]), _known(medians["hill_update"]))
            tables.add(mask_table, str(kind), f"{medians['angle_right_max']:.3g}", *masks, *counts)
        note = "angle: largest of the k principal angles, degrees; inside: energy of the update in the base's first k directions"
        footer: Section = [Text(f"{len(skipped):,} tensors left out: not matrices, or not on both sides")] if skipped else []
        return [
            head,
            [update_table, Text(note, "dim")],
            [mask_table, Text("principal, low: share of the changed weights in that mask", "dim")],
            footer,
        ]

    tables.show(sections, console)


def _known(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"
