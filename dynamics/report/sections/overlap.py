"""Whether several runs of one base moved the same weights: overlap against chance by tensor, and cosine of the updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from dynamics.errors import InputError
from dynamics.presentation import style
from dynamics.presentation.text import percent
from dynamics.report import pairs
from dynamics.report.section import Doubt, Finding, Options, Picture, Section, Table
from dynamics.report.updates import command
from dynamics.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: column -> heading
COLUMNS = {
    "first_share": "1st changed, %",
    "second_share": "2nd changed, %",
    "o1": "o1",
    "o2": "o2",
    "jaccard": "Jaccard",
    "jaccard_chance_by_tensor": "by chance",
    "same_sign": "same sign",
    "cosine_all": "cosine",
}
NOTE = (
    "o1: share of the weights changed by the first run that the second changed too; o2 the reverse. By chance: Jaccard index of "
    "independent masks with the same density in every tensor. Same sign: over the weights that both changed as stored. Cosine: of the two "
    "updates, over all weights."
)


def make(runs: Sequence[Run], options: Options) -> Section:
    """Compare the last checkpoints of all runs of one base."""
    section = Section("overlap", "Did the runs move the same weights?")
    if len(runs) < 2:
        section.lacks = "needs several runs"
        section.missing = "one run only; name several runs of one base: python -m dynamics.report RUN RUN ..."
        return section
    chosen = pairs.of_one_base(runs, options)
    if isinstance(chosen, str):
        section.missing = chosen
        return section
    section.incomplete += chosen.left_out
    base, labels, last = chosen.base, chosen.labels, chosen.last
    try:
        measured = pairs.measured(chosen, options)
    except InputError as error:
        section.missing = f"the updates could not be compared: {error}"
        section.incomplete.append(str(error))
        return section
    section.incomplete += [measured.incomplete] if measured.incomplete else []
    table = _named(pd.DataFrame(measured.rows), labels)
    section.findings = _findings(table)
    section.doubts = [
        Doubt(
            "Overlap: layers and modules that move in any training make masks overlap more than chance, also where the methods have "
            "nothing else in common. A second seed of the same method is the control: compare the overlap of two methods with that of two "
            "seeds.",
            4.0,
        )
    ]
    section.tables = _tables(table)
    section.pictures = [_picture(table, labels)]
    section.commands = [
        command("overlap", base.name, *(str(saved.path) for saved in last), "--html", "overlap.html", "--csv", "overlap.csv")
    ]
    return section


def _named(table: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    first, second = ([labels[index] for index in table[side]] for side in ("a", "b"))
    table.insert(2, "first_run", first)
    table.insert(3, "second_run", second)
    return table.assign(first_share=table["first"] / table["numel"], second_share=table["second"] / table["numel"])


def _findings(table: pd.DataFrame) -> list[Finding]:
    """Describe each pair; of many, the pair that is most alike and the one that is least."""
    total = table[(table["level"] == "total") & (table["rule"] == "bf16")]
    ordered = total.assign(ratio=total["jaccard"] / total["jaccard_chance_by_tensor"]).sort_values("ratio", ascending=False, kind="stable")
    rows = ordered.to_dict("records")
    shown = rows if len(rows) <= 3 else [rows[0], rows[-1]]
    findings = []
    for position, row in enumerate(shown):
        if math.isnan(row["jaccard"]):
            continue
        pair = f"{row['first_run']} and {row['second_run']}"
        which = f"The pair that is {('most', 'least')[position]} alike: " if len(rows) > len(shown) else ""
        shares = [percent(row[name]) for name in ("first_share", "second_share", "jaccard", "jaccard_chance_by_tensor")]
        times = f" ({row['ratio']:.2f} times)" if row["ratio"] == row["ratio"] and math.isfinite(row["ratio"]) else ""
        cosine = "" if math.isnan(row["cosine_all"]) else f" The cosine of the two updates is {row['cosine_all']:.3f}."
        findings.append(
            Finding(
                f"{which}{pair} changed {shares[0]} and {shares[1]} of the weights in bf16; of those that either changed, both changed "
                f"{shares[2]}, against {shares[3]} for independent masks with the same density in each tensor{times}. All weights were "
                f"counted, so there is no interval.{cosine}",
                f"{row['first_run']}, {row['second_run']}.jaccard",
                row["jaccard"],
                weight=3.0 if position else 7.0,
            )
        )
    return findings


def _tables(table: pd.DataFrame) -> list[Table]:
    runs = {"first_run": "1st", "second_run": "2nd"}
    parts = {level: table[table["level"] == level].reset_index(drop=True) for level in ("total", "module", "layer", "tensor")}
    bf16 = {level: part[part["rule"] == "bf16"].reset_index(drop=True) for level, part in parts.items()}
    return [
        Table("overlap", "All weights, by rule", parts["total"], runs | {"rule": "rule"} | COLUMNS, note=NOTE),
        Table("overlap_by_module", "By kind of module, bf16", bf16["module"], runs | {"name": "module"} | COLUMNS),
        Table("overlap_by_layer", "By layer, bf16", bf16["layer"], runs | {"name": "layer"} | COLUMNS, 12),
        Table("overlap_by_tensor", "By tensor, bf16", bf16["tensor"]),
    ]


def _picture(table: pd.DataFrame, labels: Sequence[str]) -> Picture:
    rows = table[(table["level"] == "total") & (table["rule"] == "bf16")].to_dict("records")
    words = "; ".join(
        f"{row['first_run']} and {row['second_run']}: {percent(row['jaccard'])}, by chance {percent(row['jaccard_chance_by_tensor'])}"
        for row in rows[:10]
    )
    title = "Jaccard index of the weights changed in bf16, " + (
        "beside chance by kind of module" if len(labels) == 2 else "by chance in brackets"
    )
    of = "overlap_by_module" if len(labels) == 2 else "overlap"
    return Picture("overlap", title, partial(_draw, table, labels), of, words)


def _draw(table: pd.DataFrame, labels: Sequence[str], *, width: float = style.TWO_COLUMN) -> Figure:
    from dynamics.overlap.plot import bars, matrix
    from dynamics.report.labels import legend_label

    bf16 = table[table["rule"] == "bf16"]
    if len(labels) == 2:
        modules = bf16[bf16["level"] == "module"]
        drawing = style.new_figure(min(5.5, width), 1.2 + 0.28 * len(modules))
        bars(modules, drawing.subplots())
    else:
        drawing = style.new_figure(min(2.6 + 0.8 * len(labels), max(width, 2.6 + 0.4 * len(labels))), 2.0 + 0.7 * len(labels))
        matrix(bf16[bf16["level"] == "total"], [legend_label(label) for label in labels], drawing.subplots())
    return drawing
