"""The spectra of an update as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.errors import printable
from dynamics.presentation import tables
from dynamics.presentation.tables import Section
from dynamics.spectra.plot import frame

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.checkpoints import Skip
    from dynamics.spectra.comparison import Spectrum


HOW = {
    "full": "full decompositions in float64",
    "approx": "first directions by random projection, bounds in --json, --csv and --html",
    "none": "nothing decomposed",
}


def show(base: str, tuned: str, found: list[Spectrum], skipped: list[Skip], method: str = "full", console: Console | None = None) -> None:
    """Medians over the matrices of each kind of module."""
    rows = frame(found)

    def sections(width: int, fancy: bool) -> list[Section]:
        head: Section = [Text(f"base   {printable(base, 300)}", "bold"), Text(f"tuned  {printable(tuned, 300)}", "bold")]
        head.append(Text(f"{len(found):,} matrices, {HOW[method]}, k = {found[0].k}; medians by kind of module"))
        heads = (">matrices", ">rank", ">stable", ">effective", ">rank 99 %", ">NSS", ">angle", ">inside", ">chance")
        made = tables.table("|module", *heads)
        more = tables.table("|module", ">angle right", ">principal", ">low", ">chance", ">intruders", ">Hill, base", ">update")
        for kind, part in rows.groupby("module", sort=False):
            middle = part.median(numeric_only=True)
            ranks = (f"{middle['rank']:.0f}", f"{middle['stable_rank']:.1f}", f"{middle['effective_rank']:.0f}", f"{middle['rank_99']:.0f}")
            drift = (f"{middle['nss']:.1e}", f"{middle['angle_left_max']:.3g}", f"{middle['inside']:.4f}", f"{middle['inside_chance']:.4f}")
            tables.add(made, str(kind), str(len(part)), *ranks, *drift)
            masks = (f"{middle['principal']:.3f}", f"{middle['low']:.3f}", f"{middle['chance']:.3f}")
            last = (str(int(part["intruders"].sum())), _known(middle["hill_base"]), _known(middle["hill_update"]))
            tables.add(more, str(kind), f"{middle['angle_right_max']:.3g}", *masks, *last)
        note = "angle: largest of the k principal angles, degrees; inside: energy of the update in the base's first k directions"
        left: Section = [Text(f"{len(skipped):,} tensors left out: not matrices, or not on both sides")] if skipped else []
        return [head, [made, Text(note, "dim")], [more, Text("principal, low: share of the changed weights in that mask", "dim")], left]

    tables.show(sections, console)


def _known(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"
