"""Spectra of updates: a table by kind of module on a screen, profiles over the layers as a figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import MaxNLocator
from rich.text import Text

from dynamics import names
from dynamics.errors import shown
from dynamics.plots import screen, style
from dynamics.plots.screen import Section
from dynamics.sparsity import module_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

    from dynamics.checkpoints import Skip
    from dynamics.spectra import Spectrum

#: column -> (label of the axis, column of its chance value)
COLUMNS = {
    "stable_rank": ("stable rank of the update", None),
    "effective_rank": ("effective rank of the update", None),
    "nss": ("spectral drift (NSS)", None),
    "angle_left_max": ("largest left angle, degrees", None),
    "inside": ("update energy in the first k directions", "inside_chance"),
    "principal": ("changed weights in the principal mask", "chance"),
}


def frame(found: list[Spectrum]) -> pd.DataFrame:
    """A row a matrix, with its layer and kind of module."""
    made = pd.DataFrame([asdict(one) for one in found])
    made["module"] = [names.kind(name) for name in made["name"]]
    made["layer"] = [names.layer_order(names.layer(name) or "")[1] if names.layer(name) else -1 for name in made["name"]]
    return made.sort_values("module", key=lambda kinds: kinds.map(module_order), kind="stable")


HOW = {
    "full": "full decompositions in float64",
    "approx": "first directions by random projection, bounds in --json, --csv and --html",
    "none": "nothing decomposed",
}


def show(base: str, tuned: str, found: list[Spectrum], skipped: list[Skip], method: str = "full", console: Console | None = None) -> None:
    """Medians over the matrices of each kind of module."""
    rows = frame(found)

    def sections(width: int, fancy: bool) -> list[Section]:
        head: Section = [Text(f"base   {shown(base, 300)}", "bold"), Text(f"tuned  {shown(tuned, 300)}", "bold")]
        head.append(Text(f"{len(found):,} matrices, {HOW[method]}, k = {found[0].k}; medians by kind of module"))
        heads = (">matrices", ">rank", ">stable", ">effective", ">rank 99 %", ">NSS", ">angle", ">inside", ">chance")
        made = screen.table("|module", *heads)
        more = screen.table("|module", ">angle right", ">principal", ">low", ">chance", ">intruders", ">Hill, base", ">update")
        for kind, part in rows.groupby("module", sort=False):
            middle = part.median(numeric_only=True)
            ranks = (f"{middle['rank']:.0f}", f"{middle['stable_rank']:.1f}", f"{middle['effective_rank']:.0f}", f"{middle['rank_99']:.0f}")
            drift = (f"{middle['nss']:.1e}", f"{middle['angle_left_max']:.3g}", f"{middle['inside']:.4f}", f"{middle['inside_chance']:.4f}")
            screen.add(made, str(kind), str(len(part)), *ranks, *drift)
            masks = (f"{middle['principal']:.3f}", f"{middle['low']:.3f}", f"{middle['chance']:.3f}")
            last = (str(int(part["intruders"].sum())), _known(middle["hill_base"]), _known(middle["hill_update"]))
            screen.add(more, str(kind), f"{middle['angle_right_max']:.3g}", *masks, *last)
        note = "angle: largest of the k principal angles, degrees; inside: energy of the update in the base's first k directions"
        left: Section = [Text(f"{len(skipped):,} tensors left out: not matrices, or not on both sides")] if skipped else []
        return [head, [made, Text(note, "dim")], [more, Text("principal, low: share of the changed weights in that mask", "dim")], left]

    screen.show(sections, console)


def _known(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def profile(rows: pd.DataFrame, column: str, ax: Axes) -> Axes:
    """A quantity against the layer, a line for each kind of module. ``rows``: columns layer, module, and the quantity."""
    label, chance = COLUMNS[column]
    inside = rows[rows["layer"] >= 0]
    for kind, part in inside.groupby("module", sort=False):
        ordered = part.sort_values("layer")
        ax.plot(ordered["layer"], ordered[column], marker="o", ms=2.5, lw=1, label=str(kind))
    if chance is not None and len(inside):
        for value in sorted(set(inside[chance].round(6)))[:4]:
            ax.axhline(value, color="black", lw=0.8, ls=":")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel(label, fontsize=7)
    if column == "nss" and (inside[column] > 0).all():
        ax.set_yscale("log")
    return ax


def values(found: list[Spectrum], ax: Axes) -> Axes:
    """Singular values of the matrix that drifted most: before, after, and of its update."""
    one = max(found, key=lambda spectrum: spectrum.nss if spectrum.nss == spectrum.nss else -1.0)
    looks = (("base", one.sigma_base, "-", 2.5), ("tuned", one.sigma_tuned, "--", 1.2), ("update", one.sigma_update, ":", 1.5))
    for label, sigma, dashes, width in looks:
        ax.plot(range(1, len(sigma) + 1), sigma, dashes, lw=width, label=label)
    ax.set_yscale("log" if all(any(value > 0 for value in sigma) for _, sigma, _, _ in looks) else "linear")
    ax.set_xlabel("index")
    ax.set_ylabel("singular value", fontsize=7)
    ax.set_title(shown(one.name, 40), fontsize=7)
    ax.legend(fontsize=6, frameon=False)
    return ax


def turned(found: list[Spectrum], side: str, ax: Axes) -> Axes:
    """Principal angles against their index, a line a matrix, and their median. ``side``: left or right."""
    lines = [getattr(one, f"angles_{side}") for one in found]
    for line in lines:
        ax.plot(range(1, len(line) + 1), line, color=style.FAINT, lw=0.5, alpha=0.5)
    most = max((len(line) for line in lines), default=0)
    whole = [line for line in lines if len(line) == most]
    if most:
        ax.plot(range(1, most + 1), pd.DataFrame(whole).median(), color="black", lw=1.5, label="median")
        ax.legend(fontsize=6, frameon=False)
    ax.set_xlabel("index")
    ax.set_ylabel(f"{side} angle, degrees", fontsize=7)
    return ax


def figure(found: list[Spectrum]) -> Any:
    """Six profiles over the layers, dotted lines being chance values; singular values before and after; angle against index."""
    rows = frame(found)
    with style.use_style():
        made = style.new_figure(9.5, 7.6)
        axes = made.subplots(3, 3)
        for ax, column in zip(axes.flat, COLUMNS, strict=False):
            profile(rows, column, ax)
        values(found, axes[2, 0])
        turned(found, "left", axes[2, 1])
        turned(found, "right", axes[2, 2])
        made.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False, fontsize=7)
    return made
