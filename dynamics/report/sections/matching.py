"""What a run was made with, and whether several runs differ in nothing but their methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations, islice

import pandas as pd

from dynamics.errors import printable
from dynamics.report.labels import run_labels
from dynamics.report.section import Doubt, Finding, Options, Section, Table
from dynamics.runs import Run
from dynamics.runs.matched_settings import matching_of
from dynamics.runs.matching import DEFINED, DIFFERS, OUTCOMES, SAME, UNKNOWN, Cell, Compared, Matching, compare, contrast

#: pairs of runs that are spoken of in sentences, and in the table
MOST_SENTENCES, MOST_PAIRS = 3, 500


def make(runs: Sequence[Run], options: Options) -> Section:  # noqa: ARG001 - all sections are made alike
    """Show the table of matching of one run, or compare those of several."""
    tables = [matching_of(run) for run in runs]
    if len(runs) == 1:
        return _of_one(tables[0])
    labels = [f"run {label}" if label in ("row", "status", "why") else label for label in run_labels(runs)]
    return _of_several(tables, labels)


def _of_one(table: Matching) -> Section:
    section = Section("matching", "What was the run made with?")
    frame = pd.DataFrame(
        [
            {"row": row.name, "planned": _shown(row.planned, ""), "happened": _shown(row.happened, ""), "by_definition": row.defined}
            for row in table.rows
            if row.value is not None
        ],
        columns=["row", "planned", "happened", "by_definition"],
    )
    shown = {"row": "what", "planned": "planned", "happened": "happened so far", "by_definition": "settled by the method, as"}
    note = "Another run is a control of this one only if it agrees in these rows, but for those that its method settles."
    unknown = table.unknown
    text = f"Of {len(table.rows)} settings and counts in which a control must agree, {len(table.rows) - len(unknown)} are known."
    if unknown:
        text += f" Unknown: {', '.join(unknown)}."
    section.findings = [Finding(text, "known_settings", float(len(table.rows) - len(unknown)))]
    section.tables = [Table("matching", "Settings and counts in which a control must agree", frame, shown, 40, note)]
    section.document = {"kind": table.kind, "rows": [asdict(row) for row in table.rows]}
    return section


def _of_several(tables: Sequence[Matching], labels: Sequence[str]) -> Section:
    section = Section("matching", "Do the runs differ in nothing but their methods?")
    rows = compare(tables)
    columns = ["row", *labels, "status", "why"]
    frame = pd.DataFrame(
        [
            {"row": row.name, **dict(zip(labels, map(_shown, row.values), strict=True)), "status": row.status, "why": row.why}
            for row in rows
        ],
        columns=columns,
    )
    shown = {"row": "what"} | {label: label for label in labels} | {"status": "status", "why": "defined, as"}
    note = "By definition: no two runs of one kind differ, and the method or the control that a run is settles the value."
    contrasts = [((labels[one], labels[other]), contrast(tables[one], tables[other])) for one, other in combinations(range(len(tables)), 2)]
    pairs = pd.DataFrame(
        [
            {
                "a": one,
                "b": other,
                "contrast_of_methods": found.is_of_methods,
                "differs": ", ".join(found.differs),
                "by_definition": ", ".join(found.defined),
                "unknown": ", ".join(found.unknown),
                "text": found.text,
            }
            for (one, other), found in islice(contrasts, MOST_PAIRS)
        ]
    )
    heads = {"a": "run", "b": "and run", "differs": "differ in", "by_definition": "by definition in", "unknown": "not known"}
    section.tables = [
        Table("matching", "Settings and counts in which runs must agree", frame, shown, 40, note),
        Table("matching_pairs", "What each two of the runs differ in", pairs, heads, 40),
    ]
    section.findings = [_counted(rows)]
    section.findings += [Finding(f"{one} and {other}: {found.text}") for (one, other), found in contrasts[:MOST_SENTENCES]]
    section.doubts = _doubts([found.confounders for _, found in contrasts], rows, tables)
    return section


def _counted(rows: Sequence[Compared]) -> Finding:
    """Count the rows by their status, and name those that differ."""
    named = {status: [row.name for row in rows if row.status == status] for status in (SAME, DEFINED, DIFFERS, UNKNOWN)}
    text = f"Of {len(rows)} settings and counts, {len(named[SAME])} are the same in all runs"
    for status, words in ((DEFINED, "differ by definition"), (DIFFERS, "differ otherwise"), (UNKNOWN, "are not known of all")):
        text += f", {len(named[status])} {words}" + (f" ({', '.join(named[status])})" if named[status] else "")
    return Finding(f"{text}.", "differing_settings", float(len(named[DIFFERS])), weight=5.0 if named[DIFFERS] else 2.0)


def _doubts(confounders: Sequence[Sequence[str]], rows: Sequence[Compared], tables: Sequence[Matching]) -> list[Doubt]:
    """Doubt that a difference between runs is one of their methods, if anything else differs or is not known."""
    if not any(confounders):
        return []
    differs = [f"{row.name} ({_values(row)})" for row in rows if row.status == DIFFERS]
    unknown = [row.name for row in rows if row.status == UNKNOWN and row.name not in OUTCOMES]
    what = "their methods" if len({table.kind for table in tables}) > 1 else "one setting"
    if differs:
        also = f" Not known of all: {', '.join(unknown)}." if unknown else ""
        text = f"Differences between the runs: they differ in {', '.join(differs)}.{also}"
        return [Doubt(f"{text} A difference between the results is not a difference between {what}.", 9.0)]
    text = f"Differences between the runs: it is not known whether they agree in {', '.join(unknown)}."
    return [Doubt(f"{text} A difference between the results need not be one between {what}.", 3.5)]


def _values(row: Compared) -> str:
    return ", ".join("unknown" if value is None else printable(_shown(value), 60) for value in row.values)


def _shown(value: Cell, unknown: str = "unknown") -> str:
    return unknown if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
