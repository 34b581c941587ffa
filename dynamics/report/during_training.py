"""What a run recorded on the way beside its usual curves: held-out problems, steps of answers, entropy by kind of token, and coverage.

Answers to validation problems are resampled, or their spread taken, by program where they name one, and else by problem: answers to one
problem are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.bootstrap import difference_interval, mean_interval, t_interval
from dynamics.errors import printable
from dynamics.presentation.text import number
from dynamics.report import plot_curves
from dynamics.report.collapse import finite
from dynamics.report.section import Change, Finding, Options, Picture, Section, Table
from dynamics.runs import Run
from dynamics.runs.readers.logs import records

#: manners of answering
MANNERS = ("greedy", "T=1")
#: measure -> numerator and denominator in an answer; a denominator of None counts answers
MEASURES: dict[str, tuple[str, str | None]] = {
    "pass@1": ("correct", None),
    "length": ("length", None),
    "scratchpad": ("scratchpad", None),
    "with_steps": ("with_steps", None),
    "true_steps": ("true", "written"),
    "on_path": ("on_path", "written"),
}
#: panels of the figure of validation: measure and manner -> title
PANELS = {
    ("pass@1", "greedy"): "pass@1, greedy",
    ("pass@1", "T=1"): "pass@1, T=1",
    ("scratchpad", "T=1"): "scratchpad, tokens",
    ("length", "T=1"): "answer, tokens",
    ("with_steps", "T=1"): "answers with steps",
    ("true_steps", "T=1"): "steps that are true",
    ("on_path", "T=1"): "steps on the path",
}
#: measures in tokens; all others are shares
IN_TOKENS = ("length", "scratchpad")
#: answers that are read of a run
MOST = 400_000
#: panels of kinds of tokens beside that of first tokens
KINDS = 5
#: beginnings of the names of entropies by kind, those that compare methods first -> what they were measured on
PREFIXES = {"probe/solver": " on fixed prompts", "solver": " in what the solver trains on"}
COVERAGE = {
    "coverage/programs": "different programs so far",
    "coverage/new": "new programs in the step",
    "coverage/pool": "met of the pool",
}
NOTE = (
    "Answers to the same validation problems at every step, at temperature 1 or greedy; the end minus the start is paired by problem. 95 % "
    "intervals are over programs where answers name them, else over problems (bootstrap for pass@1, else t), not over seeds. They are for "
    "one step and one row each: of many, some exclude 0 by chance, and the best step is best by chance as well."
)


@dataclass(frozen=True)
class Estimate:
    """A ratio of sums over units, with a 95 % interval.

    Attributes
    ----------
    value, low, high : NaN where it is not defined.
    units : programs or problems.
    """

    value: float
    low: float
    high: float
    units: int


def add(section: Section, runs: Sequence[Run], labels: Sequence[str], options: Options) -> None:
    """Add figures, tables and findings to the section on training curves, of the runs that recorded such things."""
    answers = {index: table for index, run in enumerate(runs) if len(table := read(run, section.incomplete))}
    if answers:
        _add_validation(section, answers, labels, options.seed)
    prefix = next((one for one in PREFIXES if any(len(run.series(f"{one}/entropy/part=first")) for run in runs)), None)
    if prefix is not None:
        title = f"Entropy by kind of token{PREFIXES[prefix]}, nats"
        _add_panels(section, runs, labels, "entropy_by_kind", title, _kinds(runs, prefix))
    known = {name: title for name, title in COVERAGE.items() if any(len(finite(run.series(name))) for run in runs)}
    if known:
        _add_panels(section, runs, labels, "coverage", "Coverage of programs", known)


def read(run: Run, incomplete: list[str]) -> pd.DataFrame:
    """Read the answers to validation problems, a row each; what is no answer is counted in ``incomplete``.

    Returns
    -------
    Columns step, unit, problem, manner, group (a tuple of groups), and the fields of ``MEASURES``; NaN for what an answer does not have.
    """
    rows: list[dict[str, Any]] = []
    odd = 0
    for file in run.validation:
        for record in records(file.path, incomplete, MOST - len(rows)):
            row = _answer(record, file.step)
            odd += row is None
            rows += [] if row is None else [row]
    if odd:
        incomplete.append(f"{printable(run.path / 'validation')}: {odd:,} lines are no graded answers and are left out")
    if len(rows) >= MOST:
        incomplete.append(f"{printable(run.path / 'validation')}: only the first {MOST:,} answers are read")
    return pd.DataFrame(rows)


def _answer(record: Any, step: int | None) -> dict[str, Any] | None:
    """Read an answer; None if it is none."""
    if not isinstance(record, dict) or not isinstance(record.get("problem"), str) or not isinstance(record.get("correct"), bool):
        return None
    written = record.get("steps")
    steps = written if isinstance(written, dict) else {}
    counts = {name: _count(record.get(name)) for name in ("length", "scratchpad")}
    counts |= {name: _count(steps.get(name)) for name in ("written", "true", "on_path")}
    groups = [f"task={record.get('task')}", f"set={record.get('split')}", *([f"depth={record['depth']}"] if record.get("depth") else [])]
    program = record.get("program")
    return counts | {
        "step": step,
        "problem": record["problem"],
        "unit": program if isinstance(program, str) and program else record["problem"],
        "manner": "T=1" if record.get("temperature") else "greedy",
        "groups": tuple(printable(group, 60) for group in groups),
        "correct": float(record["correct"]),
        "with_steps": math.nan if math.isnan(counts["written"]) else float(counts["written"] > 0),
    }


def _count(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9 else math.nan


def _sums(table: pd.DataFrame, measure: str, units: Sequence[str]) -> Float[np.ndarray, "2 units"]:
    """Sum numerator and denominator of a measure over the answers of each unit."""
    top, bottom = MEASURES[measure]
    known = table[table[top].notna()]
    grouped = known.assign(_one=1.0).groupby("unit")[[top, bottom or "_one"]].sum().reindex(units, fill_value=0.0)
    return grouped.to_numpy(float).T


def estimate(table: pd.DataFrame, measure: str, seed: int) -> Estimate:
    """Estimate a measure from the answers of one step."""
    units = sorted(table["unit"].unique())
    top, bottom = _sums(table, measure, units)
    if not bottom.sum():
        return Estimate(math.nan, math.nan, math.nan, len(units))
    value = float(top.sum() / bottom.sum())
    if measure == "pass@1":
        interval = mean_interval((top / bottom)[:, None], seed=seed)
        return Estimate(value, float(interval.low[0]), float(interval.high[0]), len(units))
    low, high = _around(value, (top - value * bottom) / bottom.sum())
    return Estimate(value, low, high, len(units))


def difference(first: pd.DataFrame, last: pd.DataFrame, measure: str, seed: int) -> Estimate:
    """Estimate the change of a measure between two steps, paired by unit; only units of both count."""
    units = sorted(set(first["unit"]) & set(last["unit"]))
    before, after = (_sums(table, measure, units) for table in (first, last))
    if not before[1].sum() or not after[1].sum():
        return Estimate(math.nan, math.nan, math.nan, len(units))
    ratios = [float(top.sum() / bottom.sum()) for top, bottom in (before, after)]
    value = ratios[1] - ratios[0]
    if measure == "pass@1":
        first_shares, last_shares = ((top / bottom)[:, None] for top, bottom in (before, after))
        interval = difference_interval(first_shares, last_shares, seed=seed)
        return Estimate(value, float(interval.low[0]), float(interval.high[0]), len(units))
    residuals = [(top - ratio * bottom) / bottom.sum() for (top, bottom), ratio in zip((before, after), ratios, strict=True)]
    low, high = _around(value, residuals[1] - residuals[0])
    return Estimate(value, low, high, len(units))


def _around(value: float, influence: Float[np.ndarray, " units"]) -> tuple[float, float]:
    """Return a t interval from the influence of each unit on a ratio of sums."""
    count = len(influence)
    error = math.sqrt(float((influence**2).sum()) * count / (count - 1)) if count > 1 else math.nan
    low, high = t_interval(value, error, count - 1)
    return float(low), float(high)


def _add_validation(section: Section, answers: Mapping[int, pd.DataFrame], labels: Sequence[str], seed: int) -> None:
    curves, changes = [], []
    for index, table in answers.items():
        for (manner, step), part in table.groupby(["manner", "step"], sort=True):
            for measure in MEASURES:
                if part[MEASURES[measure][0]].notna().any():
                    found = estimate(part, measure, seed)
                    cells = {"run": labels[index], "measure": measure, "manner": manner, "step": step}
                    curves.append(
                        cells | {"index": index, "value": found.value, "low": found.low, "high": found.high, "units": found.units}
                    )
        changes += _changes(table, labels[index], seed)
    series = pd.DataFrame(curves)
    section.tables.append(Table("validation_curves", "Validation during training", series.drop(columns="index")))
    frame = pd.DataFrame(changes)
    if len(frame):
        show = {"run": "run"} if len(labels) > 1 else {}
        show |= {"measure": "measure", "manner": "answers", "group": "problems", "start": "start", "end": "end", "change": "change"}
        show |= {"low": "from", "high": "to", "units": "n"}
        section.tables.append(Table("validation_changes", "Validation, from the first to the last step", frame, show, most=60, note=NOTE))
        _tell(section, frame, labels)
    section.pictures.append(_validation_picture(series, labels))


def _changes(table: pd.DataFrame, label: str, seed: int) -> list[dict[str, Any]]:
    """Compare the first with the last step, in all and by group."""
    steps = sorted(table["step"].unique())
    if len(steps) < 2:
        return []
    every = sorted({group for groups in table["groups"] for group in groups})
    parts = {"all": table} | {group: table[[group in groups for groups in table["groups"]]] for group in every}
    problems = table["problem"].nunique()
    rows = []
    for measure in MEASURES:
        for manner in MANNERS:
            for group, members in parts.items():
                if group != "all" and (members["problem"].nunique() == problems or measure in ("length", "on_path")):
                    continue
                of_manner = members[members["manner"] == manner]
                before, after = (of_manner[of_manner["step"] == step] for step in (steps[0], steps[-1]))
                if any(not len(part) or not part[MEASURES[measure][0]].notna().any() for part in (before, after)):
                    continue
                start, end = (estimate(of_step, measure, seed).value for of_step in (before, after))
                change = difference(before, after, measure, seed)
                cells = {"run": label, "measure": measure, "manner": manner, "group": group, "first": steps[0], "last": steps[-1]}
                numbers = {"start": start, "end": end, "change": change.value, "low": change.low, "high": change.high}
                rows.append(cells | numbers | {"units": change.units})
    return rows


def _tell(section: Section, frame: pd.DataFrame, labels: Sequence[str]) -> None:
    """Add a finding and a change of pass@1 at temperature 1, and of the share of true steps, of each run."""
    words = {"pass@1": "validation pass@1 at T=1", "true_steps": "share of true steps (validation, T=1)"}
    whole = frame[(frame["group"] == "all") & (frame["manner"] == "T=1") & frame["measure"].isin(list(words)) & frame["change"].notna()]
    for row in whole.itertuples():
        of = f" of {row.run}" if len(labels) > 1 else ""
        start, end = number(row.start), number(row.end)
        text = (
            f"The {words[str(row.measure)]}{of} went from {start} after step {row.first:,} to {end} after step {row.last:,}: "
            f"{row.change:+.3g} [{row.low:+.3g}, {row.high:+.3g}], over {row.units:,} programs or problems."
        )
        key = f"validation_{row.measure}_change" + (f"/{row.run}" if len(labels) > 1 else "")
        weight = 6.0 if row.measure == "pass@1" else 3.0
        section.findings.append(Finding(text, key, row.change, row.low, row.high, weight, str(row.run) if len(labels) > 1 else ""))
        how = "first and last validation, paired by problem; the interval is over programs or problems, not seeds"
        section.changes.append(Change(str(row.run), words[str(row.measure)], row.start, row.end, row.low, row.high, how))


def _validation_picture(series: pd.DataFrame, labels: Sequence[str]) -> Picture:
    panels, told = [], []
    measured = {(str(measure), str(manner)) for measure, manner in zip(series["measure"], series["manner"], strict=True)}
    with_scratchpads = ("scratchpad", "T=1") in measured
    for (measure, manner), title in PANELS.items():
        part = series[(series["measure"] == measure) & (series["manner"] == manner) & series["value"].notna()]
        if not len(part) or (measure == "length" and with_scratchpads):
            continue
        lines, bands = {}, {}
        for index, rows in part.groupby("index"):
            by_step = rows.set_index("step")
            lines[int(index)] = by_step["value"]
            bands[int(index)] = by_step[["low", "high"]]
            first, last = by_step["value"].iloc[[0, -1]]
            name = f" of {labels[int(index)]}" if len(labels) > 1 else ""
            told.append(f"{title}{name} from {number(first)} to {number(last)}")
        panels.append(plot_curves.Panel(title, lines, {}, share=measure not in IN_TOKENS, bands=bands))
    return Picture(
        "validation",
        "Validation problems during training, with 95 % intervals over programs or problems",
        partial(plot_curves.curves, panels, labels),
        "validation_curves",
        f"{len(panels)} panels: {'; '.join(told)}.",
    )


def _kinds(runs: Sequence[Run], prefix: str) -> dict[str, str]:
    """Choose the entropies to draw, and their titles: of first tokens and of the kinds with most tokens."""
    shares: dict[str, float] = {}
    for run in runs:
        beginning = f"{prefix}/tokens/kind="
        of_run = run.metrics[run.metrics["name"].str.startswith(beginning)]
        for name, value in of_run.groupby("name")["value"].mean().items():
            kind = str(name).removeprefix(beginning)
            shares[kind] = shares.get(kind, 0.0) + float(value)
    kinds = sorted(shares, key=lambda kind: -shares[kind])[:KINDS]
    chosen = {f"{prefix}/entropy/part=first": "first token"}
    return chosen | {f"{prefix}/entropy/kind={kind}": printable(kind, 30).replace("_", " ") for kind in kinds}


def _add_panels(section: Section, runs: Sequence[Run], labels: Sequence[str], name: str, title: str, chosen: Mapping[str, str]) -> None:
    """Add a figure of recorded series, a panel each, with its table."""
    panels, parts, told = [], [], []
    for metric, words in chosen.items():
        lines = {index: finite(run.series(metric)) for index, run in enumerate(runs)}
        lines = {index: line for index, line in lines.items() if len(line)}
        for index, line in lines.items():
            parts.append(pd.DataFrame({"run": labels[index], "metric": metric, "step": line.index, "value": line.to_numpy()}))
            of = f" of {labels[index]}" if len(labels) > 1 else ""
            told.append(f"{words}{of} from {number(line.iloc[0])} to {number(line.iloc[-1])}")
        panels.append(plot_curves.Panel(words, lines, {}, share=metric in ("coverage/new", "coverage/pool")))
    section.tables.append(Table(name, title, pd.concat(parts, ignore_index=True)))
    draw = partial(plot_curves.curves, panels, labels)
    section.pictures.append(Picture(name, title, draw, name, f"{len(panels)} panels: {'; '.join(told)}."))
