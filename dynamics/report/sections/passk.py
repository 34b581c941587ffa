"""pass@k of the evaluations of a run, and of files that were given: base against tuned, and where the curves cross."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics import samples
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.passk.comparison import Comparison, Curve, Report, crossing_text, report
from dynamics.passk.plot import figure
from dynamics.presentation import style
from dynamics.report.labels import run_labels
from dynamics.report.section import FEW_PROBLEMS, PASS_AT_1, Change, Doubt, Finding, Options, Picture, Section, Table
from dynamics.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: names of models that stand for the base
_BASE = re.compile(r"(?i)(?<![a-z])(base|initial|init|pretrained|untrained|before)(?![a-z])|(?:step|checkpoint|iteration|epoch) 0$")
#: how a model was asked, at the end of its name
_MANNER = re.compile(r", (greedy|T=[\d.e+-]{1,20})$")
_STEP = re.compile(r"(?:step|checkpoint|iteration|epoch) (\d{1,15})$")
#: models whose curves are drawn and compared; of more, the base, the last, and others evenly between
MOST = 8
#: samples per problem below which the curve says little beyond pass@1
FEW_SAMPLES = 8


def make(runs: Sequence[Run], options: Options) -> Section:
    """Estimate pass@k of all files of graded samples."""
    section = Section("passk", "How many problems can it solve?")
    named = sources(runs, options)
    if not named:
        section.missing = (
            "no pass@k: no files of graded samples were found; give them with --evals NAME=FILE for the base and the tuned model, from any "
            "evaluation harness that python -m dynamics.passk reads"
        )
        return section
    graded = read(named)
    section.incomplete += graded.lost
    if graded.samples is None:
        section.missing = "no pass@k: none of the files of graded samples could be read; give others with --evals NAME=FILE"
        return section
    table = graded.samples.table
    models = list(map(str, dict.fromkeys(table["model"])))
    base, why = choose_base(models)
    kept = choose_models(models, base)
    if len(kept) < len(models):
        names = ", ".join(printable(name, 40) for name in kept)
        section.doubts.append(Doubt(f"pass@k: of {len(models)} models, {len(kept)} are compared: {names}."))
    if why and len(models) > 1 and len(set(bases_of(kept, run_labels(runs), base).values())) == 1:
        section.doubts.append(Doubt(f"pass@k: {why}.", 5.0, PASS_AT_1))
    labels = run_labels(runs)
    bases = bases_of(kept, labels, base)
    whole = _by_base(graded.samples, kept, bases, True, options.seed)
    result = whole if isinstance(whole, Report) else _without_strangers(graded.samples, kept, bases, options.seed, section)
    if result is None:
        section.missing = "no pass@k: no model has samples with a verdict; give others with --evals NAME=FILE"
        return section
    _tell(result, labels, section)
    section.doubts += [
        Doubt(f"pass@k: {printable(Path(file.path).name, 80)}: {note}.", 5.0)
        for file in graded.samples.files
        for note in file.notes
        if " is not read" in note
    ]
    section.commands = _commands(graded.sources, labels, bases, options.seed)
    return section


def sources(runs: Sequence[Run], options: Options) -> list[str]:
    """List the files of graded samples of all runs and of the options, each as ``dynamics.samples.read`` takes it."""
    found: list[str] = []
    for label, run in zip(run_labels(runs), runs, strict=True):
        folder = run.path / "evals"
        if run.evals and (run.path / "run.json").is_file() and all(folder in path.parents for path in run.evals):
            found.append(str(run.path) if len(runs) == 1 else f"{label}={run.path}")  # the samples name model and temperature
            continue
        for path in run.evals:
            step = samples.training_step(path)
            name = label if step else f"{label} {path.name.partition('.')[0]}"
            found.append(f"{name}={path}" if step or len(runs) > 1 else str(path))
    return [*found, *options.evals]


@dataclass(frozen=True)
class Graded:
    """What could be read of the files of graded samples.

    Attributes
    ----------
    sources : those that could be read.
    samples : None if none could be.
    lost : what was left out and why, a line each.
    """

    sources: list[str]
    samples: samples.Samples | None
    lost: list[str]


def read(named: Sequence[str]) -> Graded:
    """Read all files at once; if that fails, those that can be read alone."""
    graded = _read(named)
    if isinstance(graded, samples.Samples):
        return Graded(list(named), graded, graded.left_out)
    alone = {source: _read([source]) for source in named}
    lost = [error for error in alone.values() if isinstance(error, str)]
    whole = [source for source, part in alone.items() if isinstance(part, samples.Samples)]
    again = _read(whole) if whole and lost else graded
    if isinstance(again, samples.Samples):
        return Graded(whole, again, lost + again.left_out)
    return Graded([], None, list(dict.fromkeys([*lost, again])))


def _read(named: Sequence[str]) -> samples.Samples | str:
    """Read files; return what is wrong if that fails."""
    try:
        return samples.read(named)
    except InputError as error:
        return str(error)


def choose_base(models: Sequence[str]) -> tuple[str, str]:
    """Choose the model that the others are compared with; return also what makes the choice doubtful, or nothing."""
    for name in models:
        if _BASE.search(name):
            return name, ""
    steps = [_STEP.search(name) for name in models]
    if all(steps):
        first = min(range(len(models)), key=lambda index: int(steps[index][1]))  # type: ignore[index]
        return models[first], f"no file is named as the base; the earliest step, {printable(models[first], 60)}, stands for it"
    return models[
        0
    ], f"no file is named as the base or as step 0; the first, {printable(models[0], 60)}, stands for it (--evals base=FILE names one)"


def bases_of(models: Sequence[str], labels: Sequence[str], base: str) -> dict[str, str]:
    """Return the model that each is compared with: the base of its own run if several runs evaluated theirs, else ``base``.

    A tuned model is compared with the base that was asked in the same manner, if there is one.

    >>> bases_of(["a base", "a step 9", "b base", "b step 9"], ["a", "b"], "a base")
    {'a base': 'a base', 'a step 9': 'a base', 'b base': 'b base', 'b step 9': 'b base'}
    >>> bases_of(["base, T=1", "base, greedy", "rlvr, greedy"], [], "base, T=1")
    {'base, T=1': 'base, T=1', 'base, greedy': 'base, T=1', 'rlvr, greedy': 'base, greedy'}
    """
    own: dict[str, str] = {}
    asked: dict[tuple[str, str], str] = {}
    for name in models:
        run = run_of(name, labels)
        if _BASE.search(name.removeprefix(run)):
            asked.setdefault((run, manner_of(name)), name)
            if run:
                own.setdefault(run, name)
    found = {name: own.get(run_of(name, labels), base) for name in models}
    tuned = [name for name in models if not _BASE.search(name.removeprefix(run_of(name, labels)))]
    return found | {name: asked.get((run_of(found[name], labels), manner_of(name)), found[name]) for name in tuned}


def manner_of(name: str) -> str:
    """Return how a model was asked, ``greedy`` or ``T=...``, by the end of its name; empty if that does not say."""
    found = _MANNER.search(name)
    return found[1] if found else ""


def run_of(name: str, labels: Sequence[str]) -> str:
    """Return the label of the run that a model is of, by the start of its name; empty if it is of none, or if there is one run."""
    return next((label for label in labels if len(labels) > 1 and (name == label or name.startswith(f"{label} "))), "")


def choose_models(models: Sequence[str], base: str, most: int = MOST) -> list[str]:
    """Choose at most ``most`` models: the base, tuned ones evenly with the last, and if there is space further ones of the base."""
    tuned = [name for name in models if not _BASE.search(name) and name != base]
    others = [name for name in models if _BASE.search(name) and name != base]
    if len(tuned) >= most:
        tuned = [tuned[int(index)] for index in np.linspace(0, len(tuned) - 1, most - 1).round()]
    chosen = {base, *tuned, *others[: most - 1 - len(tuned)]}
    return [name for name in models if name in chosen]


def command(named: Sequence[str], base: str | None, seed: int) -> str:
    """Spell the command that makes the numbers of this section."""
    against = ["--against", base] if base is not None else []
    return shlex.join(["python", "-m", "dynamics.passk", *named, *against, *(["--seed", str(seed)] if seed else [])])


def _report(graded: samples.Samples, models: Sequence[str], against: str | None, seed: int) -> Report | str:
    """Report on models, in their order; return what is wrong if one of them cannot be estimated or compared with ``against``."""
    table = pd.concat([graded.table[graded.table["model"] == name] for name in models], ignore_index=True)
    try:
        return report(table, against=against, files=graded.files, notes=graded.notes, seed=seed)
    except InputError as error:
        return str(error)


def _by_base(graded: samples.Samples, models: Sequence[str], bases: Mapping[str, str], strict: bool, seed: int) -> Report | str:
    """Report on models, each compared with its base. If one cannot be, return what is wrong if ``strict``, else name it in the notes."""
    parts = []
    for base in dict.fromkeys(bases[name] for name in models):
        members = [base, *(name for name in models if bases[name] == base and name != base)]
        part = _report(graded, members, base if strict and len(members) > 1 else None, seed)
        if isinstance(part, str):
            return part
        parts.append(part)
    first = parts[0]
    if len(parts) == 1:
        return first
    curves = {curve.name: curve for part in parts for curve in part.curves}
    comparisons = {comparison.b: comparison for part in parts for comparison in part.comparisons}
    return replace(
        first,
        curves=[curves[name] for name in models],
        comparisons=[comparisons[name] for name in models if name in comparisons],
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _commands(named: Sequence[str], labels: Sequence[str], bases: Mapping[str, str], seed: int) -> list[str]:
    """Spell the commands that make the numbers: one for each base, with the files of the runs that are compared with it."""
    commands = []
    for base in dict.fromkeys(bases.values()):
        of = {run_of(name, labels) for name in bases if bases[name] == base}
        files = [source for source in named if len(set(bases.values())) == 1 or run_of(source.partition("=")[0], labels) in of]
        commands.append(command(files, base if len(bases) > 1 else None, seed))
    return commands


def _without_strangers(
    graded: samples.Samples, kept: Sequence[str], bases: Mapping[str, str], seed: int, section: Section
) -> Report | None:
    """Report on the models that can be estimated; those that cannot be compared with their base have a curve only, and are named."""
    alone = {name: _report(graded, [name], None, seed) for name in dict.fromkeys([*bases.values(), *kept])}
    section.incomplete += [error for error in alone.values() if isinstance(error, str)]
    good = [name for name, result in alone.items() if isinstance(result, Report)]
    usable = {name: bases[name] if bases[name] in good else good[0] for name in good} if good else {}
    result = _by_base(graded, good, usable, False, seed) if good else ""
    if isinstance(result, str):
        return None
    section.incomplete += [note for note in result.notes if note.startswith("not compared")]
    return result


def _tell(result: Report, labels: Sequence[str], section: Section) -> None:
    """Fill the section from a report."""
    curves = {curve.name: curve for curve in result.curves}
    last: dict[str, Comparison] = {}
    for comparison in result.comparisons:
        if not _BASE.search(comparison.b):
            last[_STEP.sub("", comparison.b)] = comparison  # of several steps, the last
    tuned = list(last.values()) or list(result.comparisons)
    other = [comparison for comparison in tuned if manner_of(comparison.a) != manner_of(comparison.b) and manner_of(comparison.b)]
    if other and len(other) < len(tuned):
        tuned = [comparison for comparison in tuned if comparison not in other]
        names = ", ".join(f"{printable(comparison.b, 60)} with {printable(comparison.a, 60)}" for comparison in other)
        section.doubts.append(Doubt(f"pass@k: the manner of asking differs, and is part of the difference: {names}.", 5.0, PASS_AT_1))
    together = len(tuned) > 1 and len(labels) > 1
    section.findings += _side_by_side(tuned, curves, labels) if together else []
    for comparison in tuned[::-1]:
        findings = _compared(comparison, curves, comparison is tuned[-1], result.level)
        run = run_of(comparison.b, labels)
        section.findings += [replace(finding, weight=0.0, run=run) for finding in findings] if together else findings
        section.changes += _behaviour(comparison, curves, run or (labels[0] if len(labels) == 1 else printable(comparison.b, 60)))
    if not tuned:
        section.findings += [_alone(curve, 10.0 if len(result.curves) == 1 else 1.0) for curve in result.curves]
    section.doubts += _warnings(result.curves)
    section.doubts += [Doubt(f"pass@k: {note}.") for note in result.notes if not note.startswith(("not compared", "left"))]
    section.tables += [_points(result), Table("passk", "pass@k, all numbers", result.table())]
    told = [f"{printable(curve.name, 60)}: pass@1 {curve.mean[0]:.3f}{_last(curve)}" for curve in result.curves]
    told += [crossing_text(comparison, result.level) for comparison in result.comparisons]
    section.pictures.append(
        Picture("passk", "pass@k over k; bands: 95 % over problems", partial(_draw, result), "passk", "; ".join(told) + ".")
    )
    section.document = result.to_dict()


def _draw(result: Report, *, width: float = style.TWO_COLUMN) -> Figure:
    return figure(result, width=width + 1.2 * (width > style.NARROW))  # a legend stands beside a wide figure


def _warnings(curves: Sequence[Curve]) -> list[Doubt]:
    """Say each warning once, with the models that it concerns."""
    concerned: dict[str, list[str]] = {}
    for curve in curves:
        few = [f"only {plural(curve.samples['min'], 'sample')} of some problems"] if curve.samples["min"] < FEW_SAMPLES else []
        for warning in [*curve.warnings, *few]:
            concerned.setdefault(warning, []).append(printable(curve.name, 60))
    return [
        Doubt(
            f"pass@k of {'; '.join(names) if len(names) < len(curves) else 'all models'}: {text}.",
            5.0 if any(len(curve.counts) < FEW_PROBLEMS for curve in curves) else 1.0,
            PASS_AT_1,
        )
        for text, names in concerned.items()
    ]


def _last(curve: Curve) -> str:
    """Say pass@k at the largest k with an estimate, if that is not 1."""
    points = curve.points.dropna(subset=["pass_at_k"])
    return f", pass@{int(points['k'].iloc[-1])} {points['pass_at_k'].iloc[-1]:.3f}" if len(points) > 1 else ""


def _alone(curve: Curve, weight: float) -> Finding:
    mean, low, high = curve.mean
    name = printable(curve.name, 60)
    text = (
        f"{name} solves {mean:.3f} [{low:.3f}, {high:.3f}] of {plural(len(curve.counts), 'problem')} at the first sample (pass@1, interval "
        f"over problems){_last(curve)}. Nothing to compare it with: --evals base=FILE gives the base."
    )
    return Finding(text, f"pass_at_1/{name}", mean, low, high, weight)


def _side_by_side(tuned: Sequence[Comparison], curves: Mapping[str, Curve], labels: Sequence[str]) -> list[Finding]:
    """Put the differences of all runs at the smallest k into a sentence."""
    parts = []
    manners = {manner_of(comparison.b) for comparison in tuned}
    for comparison in tuned:
        points = comparison.points.dropna(subset=["difference"])
        if len(points):
            point = points.iloc[0]
            start, end = (_at(curves[name], point["k"]) for name in (comparison.a, comparison.b))
            run = run_of(comparison.b, labels)
            of, base = (run, "its base") if run and run_of(comparison.a, labels) == run else (comparison.b, comparison.a)
            of += f", {manner_of(comparison.b)}" if of == run and len(manners) > 1 else ""
            parts.append(
                f"{printable(of, 60)} {end:.3f}, {point['difference']:+.3f} [{point['low']:+.3f}, {point['high']:+.3f}] from "
                f"{printable(base, 60)} ({start:.3f}, {plural(int(point['problems']), 'problem')})"
            )
    text = (
        f"pass@1 and its difference from the base: {'; '.join(parts)}. The intervals are over problems; one run each, so nothing on seeds."
    )
    return [Finding(text, weight=10.0)] if parts else []


def _at(curve: Curve, k: float) -> float:
    """Return pass@k of a curve; NaN if it has no estimate."""
    return float(curve.points.set_index("k")["pass_at_k"].get(k, np.nan))


def _ends(points: pd.DataFrame) -> list[pd.Series[float]]:
    """Return the rows of the smallest and of the largest k, one if they are the same."""
    return [points.iloc[index] for index in dict.fromkeys((0, len(points) - 1))] if len(points) else []


def _behaviour(comparison: Comparison, curves: Mapping[str, Curve], run: str) -> list[Change]:
    """Return the changes of pass@k from the base at the smallest and at the largest k."""
    changes = []
    for point in _ends(comparison.points.dropna(subset=["difference"])):
        k, how = int(point["k"]), f"{plural(int(point['problems']), 'problem')}, graded samples; interval over problems"
        start = _at(curves[comparison.a], k)
        if not np.isnan(start):
            end, low, high = start + float(point["difference"]), float(point["low"]), float(point["high"])
            since = "" if _BASE.search(comparison.a) else f" since {printable(comparison.a.removeprefix(f'{run} '), 40)}"
            changes.append(Change(run, f"pass@{k:,}{since}", start, end, low, high, how, units=int(point["problems"])))
    return changes


def _compared(comparison: Comparison, curves: dict[str, Curve], main: bool, level: float) -> list[Finding]:
    """Say how a model differs from the base at k = 1 and at the largest k, and where the curves cross."""
    points = comparison.points.dropna(subset=["difference"])
    a, b = printable(comparison.a, 60), printable(comparison.b, 60)
    if points.empty:
        return [
            Finding(f"{b} and {a} share no k with an estimate on their {plural(comparison.paired, 'common problem')}.", f"difference/{b}")
        ]
    findings: list[Finding] = []
    for point in _ends(points):
        k = int(point["k"])
        unsure = "" if point["low"] > 0 or point["high"] < 0 else " No clear difference: the interval contains 0."
        values = [_at(curves[name], k) for name in (comparison.b, comparison.a)]
        text = (
            f"pass@{k:,} of {b} is {values[0]:.3f}, of {a} {values[1]:.3f}: a difference of {point['difference']:+.3f} "
            f"[{point['low']:+.3f}, {point['high']:+.3f}] on {plural(int(point['problems']), 'common problem')}.{unsure} The interval is "
            "over problems; one run each."
        )
        short = (
            f"pass@{k:,} is {values[0]:.3f} for {b} and {values[1]:.3f} for {a}: {point['difference']:+.3f} [{point['low']:+.3f}, "
            f"{point['high']:+.3f}].{unsure} Intervals are over {plural(int(point['problems']), 'problem')}; one run."
        )
        weight = 10.0 if main and not findings else 5.0 if findings and point["high"] < 0 else 1.0
        weight = weight if point["problems"] >= FEW_PROBLEMS else 1.0
        difference, low, high = (float(point[name]) for name in ("difference", "low", "high"))
        findings.append(Finding(text, f"pass_at_{k}_difference/{b}", difference, low, high, weight, short=short))
    crossed = comparison.crossing
    found = (crossed.k, crossed.low, crossed.high) if crossed is not None else (None, None, None)
    ends = [None if number is None else float(number) for number in found]
    text = f"Crossing of the curves: {crossing_text(comparison, level)}. Problems differ in difficulty: a crossing is one of averages."
    findings.append(Finding(text, f"crossing/{b}", ends[0], ends[1], ends[2], 5.0 if main and found[0] is not None else 1.0))
    return findings


def _points(result: Report) -> Table:
    """Return pass@k with intervals, a row a model and k."""
    parts = [curve.points[["k", "pass_at_k", "low", "high", "problems"]].assign(model=printable(curve.name, 60)) for curve in result.curves]
    show = {"model": "model", "k": "k", "pass_at_k": "pass@k", "low": "from", "high": "to", "problems": "problems"}
    note = "Unbiased for k up to the number of samples; 95 % intervals by a bootstrap over problems, pointwise in k."
    return Table("passk_by_model", "pass@k", pd.concat(parts, ignore_index=True).dropna(subset=["pass_at_k"]), show, note=note)
