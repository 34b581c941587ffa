"""In which directions the weights moved: approximate spectra of the update of each matrix, at the last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.checkpoints.parameter_names import module_order
from dynamics.descriptions import plural
from dynamics.errors import InputError
from dynamics.presentation import style
from dynamics.presentation.text import number, percent
from dynamics.report import matrices
from dynamics.report.labels import beside, by_run, legend_label, run_color, run_labels
from dynamics.report.section import Doubt, Finding, Options, Picture, Section, Table
from dynamics.report.updates import Base, base_of, command, compared, step_name
from dynamics.runs import Run, SavedCheckpoint
from dynamics.spectra import Spectrum
from dynamics.spectra.comparison import SEQUENCE_FIELDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: column -> heading
COLUMNS = {
    "stable_rank": "stable rank",
    "rank_1_share": "rank-1 share, %",
    "rank_99": "rank 99 %",
    "nss": "NSS",
    "angle_left_max": "largest angle left",
    "angle_right_max": "largest angle right",
    "inside": "energy inside, %",
    "inside_chance": "by chance, %",
}
NOTE = (
    "Medians over the matrices. Rank-1 share: energy of the update in its strongest direction, 1 / stable rank. NSS: relative change of "
    "the singular values. Angles in degrees between the first k directions before and after. Energy inside: share of the update's energy "
    "in the first k directions of the base; a random update has the share by chance."
)


@dataclass(frozen=True)
class Turned:
    """The spectra of the update of a run.

    Attributes
    ----------
    label, color : of the run.
    base : what the checkpoint is compared with.
    saved : the last checkpoint.
    k : number of principal directions.
    of : number of matrices of the model, of which those of ``rows`` were measured.
    spectra : as measured.
    rows : table with a row per matrix that changed.
    """

    label: str
    color: str
    base: Base
    saved: SavedCheckpoint
    k: int
    of: int
    spectra: list[Spectrum]
    rows: pd.DataFrame


def make(runs: Sequence[Run], options: Options) -> Section:
    """Decompose the update of each run at its last checkpoint."""
    section = Section("directions", "In which directions did they move?")
    turned: list[Turned] = []
    reasons: list[str] = []
    for run, label, color in zip(runs, run_labels(runs), map(run_color, range(len(runs))), strict=True):
        base, problem = base_of(run, options)
        later = compared(run, base) if base is not None else run.checkpoints
        if base is None or not later:
            reasons.append(f"{label}: {problem if later else 'has no complete checkpoint'}")
            continue
        try:
            turned.append(_measure(label, color, base, later[-1], options))
        except InputError as error:
            reasons.append(f"{label}: {error}")
    if not turned:
        section.missing = "no update was decomposed: " + "; ".join(dict.fromkeys(reasons))
        return section
    section.incomplete += reasons
    section.findings += _side_by_side(turned) if len(turned) > 1 else []
    for of in turned:
        findings = _findings(of, f"{of.label}." if len(runs) > 1 else "", f"{of.label}: " if len(runs) > 1 else "")
        section.findings += [replace(finding, weight=0.0, run=of.label) for finding in findings] if len(turned) > 1 else findings
        words = ["spectra", of.base.name, str(of.saved.path), "--method", "approx", "--subspace", str(of.k), "--seed", str(options.seed)]
        section.commands.append(command(*words, "--html", "directions.html", "--csv", "directions.csv"))
    section.doubts = [Doubt(line) for line in by_run([(of.label, line) for of in turned for line in _doubts(of)], len(runs))]
    section.tables += _tables(turned)
    section.pictures += _pictures(turned)
    section.document = {"directions": {of.label: {"k": of.k, "measured": len(of.spectra), "matrices": of.of} for of in turned}}
    return section


def _measure(label: str, color: str, base: Base, saved: SavedCheckpoint, options: Options) -> Turned:
    from dynamics.spectra.comparison import changed_only, frame

    wanted = matrices.wanted(base, saved, options)
    spectra = matrices.measured(base, saved, wanted, label, options).spectra
    rows = changed_only(frame(spectra))
    rows["rank_1_share"] = 1 / rows["stable_rank"]
    return Turned(label, color, base, saved, wanted.k, wanted.of, spectra, rows)


def _findings(turned: Turned, key: str, of: str) -> list[Finding]:
    """Say how concentrated the update is, how far it turned the matrices, and whether it lies in their principal directions."""
    rows = turned.rows[turned.rows["update_norm"] > 0]
    if rows.empty:
        return [Finding(f"{of}None of the {plural(len(turned.spectra), 'matrix', 'matrices')} changed at {step_name(turned.saved)}.")]
    count = plural(len(rows), "matrix", "matrices")
    findings = []
    middle, low, high = _quartiles(rows["rank_1_share"])
    findings.append(
        Finding(
            f"{of}The rank-1 share of the update, the energy (squared norm) in its first singular direction, is {percent(middle)} (median "
            f"of {count} at {step_name(turned.saved)}; half of them lie between {percent(low)} and {percent(high)}; stable rank "
            f"{number(1 / middle)}). The range is that of the matrices, no confidence interval.",
            f"{key}rank_1_share", middle, low, high, 5.5,
            short=f"{of}The rank-1 share of the update, the energy in its first singular direction, is {percent(middle)}. It is the median "
            f"of {count}, half of them between {percent(low)} and {percent(high)}.",
        )
    )  # fmt: skip
    middle, low, high = _quartiles(rows["nss"])
    most = max(len(spectrum.sigma_update) for spectrum in turned.spectra)
    findings.append(
        Finding(
            f"{of}The singular values changed by {number(middle)} of their norm (NSS; median, half of the matrices between {number(low)} "
            f"and {number(high)}; an estimate from the first {most} directions, with bounds in directions_by_matrix.csv).",
            f"{key}nss", middle, low, high, 3.5,
        )
    )  # fmt: skip
    return findings + _inside(rows, turned, key, of) + _angles(rows, turned, key, of)


def _side_by_side(turned: Sequence[Turned]) -> list[Finding]:
    """Compare the runs in a sentence for each number."""
    parts: dict[str, list[str]] = {"rank_1_share": [], "inside": []}
    for of in turned:
        rows = of.rows[of.rows["update_norm"] > 0].assign(inside=lambda rows: rows["inside"] / rows["inside_chance"])
        for name, texts in parts.items():
            middle, low, high = _quartiles(rows[name])
            form = percent if name == "rank_1_share" else number
            texts.append(f"{of.label} {form(middle)} ({form(low)} to {form(high)})")
    end = "median, and the range of the middle half of the matrices"
    return [
        Finding(
            f"Rank-1 share of the update, the energy (squared norm) in its first singular direction ({end}): "
            f"{', '.join(parts['rank_1_share'])}. These are ranges of matrices, no confidence intervals.",
            weight=5.5,
        ),
        Finding(
            f"Energy of the update in the first {turned[0].k} directions of the base, relative to a random update ({end}): "
            f"{', '.join(parts['inside'])}.",
            weight=4,
        ),
    ]


def _quartiles(values: pd.Series[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles."""
    low, middle, high = np.nanquantile(values.to_numpy(float), [0.25, 0.5, 0.75]).tolist() if values.notna().any() else [math.nan] * 3
    return middle, low, high


def _inside(rows: pd.DataFrame, turned: Turned, key: str, of: str) -> list[Finding]:
    ratios = (rows["inside"] / rows["inside_chance"]).replace([np.inf, -np.inf], np.nan)
    middle, low, high = _quartiles(ratios)
    if math.isnan(middle):
        return []
    where = "avoids" if high < 1 else "lies more in" if low > 1 else "lies about as much in"
    end = "" if where == "avoids" else " than by chance" if low > 1 else " as by chance"
    return [
        Finding(
            f"{of}The update {where} the first {turned.k} directions of {turned.base.short}{end}: its energy there is {number(middle)} "
            f"times that of a random update (median; half of the matrices between {number(low)} and {number(high)}).",
            f"{key}inside_over_chance", middle, low, high, 4,
        )
    ]  # fmt: skip


def _angles(rows: pd.DataFrame, turned: Turned, key: str, of: str) -> list[Finding]:
    middle, low, high = _quartiles(rows["angle_left_max"])
    if math.isnan(middle):
        return []
    count = plural(len(rows), "matrix", "matrices")
    return [
        Finding(
            f"{of}Of the first {turned.k} left directions of a matrix, the one that turned most turned by {number(middle)} degrees "
            f"(median of {count}; half of them between {number(low)} and {number(high)}, the largest "
            f"{number(rows['angle_left_max'].max())}). This angle means little where singular value number {turned.k} and the next are "
            "nearly equal.",
            f"{key}angle_left_max", middle, low, high, 1.5,
        )
    ]  # fmt: skip


def _doubts(turned: Turned) -> list[str]:
    lines = ["Directions: they are estimated by random projections, with bounds in directions_by_matrix.csv; --method full is exact."]
    if len(turned.spectra) < turned.of:
        lines.append(
            f"Directions: {len(turned.spectra):,} of {turned.of:,} matrices were decomposed: whole layers, evenly spread, and "
            f"none with over {matrices.LARGEST:,} weights. Other matrices can differ."
        )
    return lines


def _tables(turned: Sequence[Turned]) -> list[Table]:
    run = {"run": "run"} if len(turned) > 1 else {}
    modules: list[pd.DataFrame] = []
    matrices: list[pd.DataFrame] = []
    values: list[pd.DataFrame] = []
    for of in turned:
        medians = of.rows.groupby("module", sort=False)[list(COLUMNS)].median().reset_index()
        medians.insert(1, "matrices", of.rows.groupby("module", sort=False).size().to_numpy())
        medians = medians.sort_values("module", key=lambda kinds: kinds.map(module_order), kind="stable")
        table = of.rows.drop(columns=list(SEQUENCE_FIELDS))
        table["shape"] = ["x".join(map(str, shape)) for shape in table["shape"]]
        ends = [
            {"name": spectrum.name}
            | {
                f"{name}_{end}": float(value)
                for name, pair in spectrum.bounds.items()
                for end, value in zip(("low", "high"), pair, strict=True)
            }
            for spectrum in of.spectra
        ]
        table = table.merge(pd.DataFrame(ends), on="name", how="left")
        singular = [
            {"name": spectrum.name, "index": index, "base": base, "tuned": tuned, "update": update}
            for spectrum in of.spectra
            for index, (base, tuned, update) in enumerate(
                zip(spectrum.sigma_base, spectrum.sigma_tuned, spectrum.sigma_update, strict=True), 1
            )
        ]
        for frames, frame in ((modules, medians), (matrices, table), (values, pd.DataFrame(singular))):
            frame.insert(0, "run", of.label)
            frames.append(frame)
    by_module, by_matrix = (beside(pd.concat(frames, ignore_index=True)) for frames in (modules, matrices))
    of_module, of_matrix = {"module": "module", "matrices": "matrices"}, {"name": "matrix", "shape": "shape"}
    return [
        Table("directions_by_module", "By kind of module", by_module, run | of_module | COLUMNS, note=NOTE),
        Table("directions_by_matrix", "By matrix", by_matrix, run | of_matrix | COLUMNS, 12 * len(turned)),
        Table("directions_singular_values", "Singular values", pd.concat(values, ignore_index=True)),
    ]


def _pictures(turned: Sequence[Turned]) -> list[Picture]:
    names = ("stable rank", "spectral drift (NSS)", "angle", "energy in the principal directions")
    if len(turned) == 1:
        title, words = f"Profile over the layers, {turned[0].label}", f"{', '.join(names)} by layer, a line for each kind of module"
    else:
        title, words = "Profile over the layers, a colour a run", f"{', '.join(names)} by layer, the median of the matrices of each layer"
    chance = "; dotted: the energy of a random update, by chance"
    return [Picture("directions_profile", title, partial(_profiles, turned), "directions_by_matrix", words + chance)]


def _profiles(turned: Sequence[Turned], *, width: float = style.TWO_COLUMN) -> Figure:
    from dynamics.spectra.plot import frame_profile, legend, profile

    wide = width > style.NARROW
    drawing = style.new_figure(width, 4.6 if wide else 7.6)
    axes = drawing.subplots(2 if wide else 4, 2 if wide else 1, sharex=True).ravel()
    for ax, column in zip(axes, ("stable_rank", "nss", "angle_left_max", "inside"), strict=True):
        if len(turned) == 1:
            profile(turned[0].rows[turned[0].rows["update_norm"] > 0], column, ax)
        else:
            medians = []
            for of in turned:
                layers = of.rows[of.rows["layer"] >= 0].groupby("layer")[[column, "inside_chance"]].median()
                ax.plot(layers.index, layers[column], marker="o", ms=3, lw=1.2, color=of.color, label=legend_label(of.label))
                medians.append(layers)
            frame_profile(pd.concat(medians), column, ax)
    for ax in axes[: -2 if wide else -1]:
        ax.set_xlabel("")
    legend(drawing, list(axes), 8 if wide else 4)
    return drawing
