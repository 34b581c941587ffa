"""Training curves: what the trainer logged by step, how much it changed, where it jumped, and signs that training goes wrong."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from dynamics.descriptions import plural
from dynamics.presentation.text import number
from dynamics.report import during_training, plot_curves
from dynamics.report.change_points import FALSE_ALARMS, Changes, find_changes
from dynamics.report.collapse import Flag, finite, flags
from dynamics.report.labels import run_labels
from dynamics.report.section import TRAINING_LOSS, TRAINING_REWARD, Change, Doubt, Finding, Options, Picture, Section, Table
from dynamics.report.trends import COVERAGE, Trend, trend
from dynamics.runs import Run

#: metric -> title of its panel; unknown metrics of a trainer are not drawn
PANELS = {
    "reward": "reward",
    "held_out": "held-out reward",
    "loss": "loss",
    "held_out_loss": "held-out loss",
    "entropy": "entropy, nats",
    "kl": "KL from the reference, nats",
    "length": "length, tokens",
    "truncated": "share cut at the limit",
    "zero_variance": "groups without variance",
    "clip_fraction": "clip fraction",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
    "mismatch": "mismatch of the sampler",
}
#: metrics whose range is often several orders of magnitude
LOGARITHMIC = ("grad_norm",)
#: metrics that are fractions
FRACTIONS = ("truncated", "zero_variance", "clip_fraction")
#: metrics that are set and not measured: nothing to find in them
SET = ("learning_rate",)
#: metrics of which the first that a run has is the number to know of it
MAIN = ("held_out", "reward", "held_out_loss", "loss")
#: further metrics whose change is a sentence
TOLD = ("reward", "entropy", "kl", "length", "loss", "zero_variance")
#: metrics whose change is one of behaviour; a KL from the reference begins at 0 by definition, and the loss counts if there is no reward
BEHAVIOUR = ("held_out", "reward", "held_out_loss", "loss", "entropy", "length", "truncated")
ONE_RUN = "the interval covers the noise between the steps of one run, not between seeds"
#: metrics without which a run that has values that are not finite is in doubt
VITAL = ("reward", "loss", "grad_norm")
CHANGES_NOTE = (
    "Abrupt changes of the mean by optimal partitioning with a penalty of 4 log n, after removal of autoregressive noise; a curve "
    f"that a smooth function describes better has none. Of curves of pure noise, at most {FALSE_ALARMS:.0%} show a change (measured). The "
    "interval takes the step as given, so it is too narrow."
)
TRENDS_NOTE = (
    "Mean of the first against the last tenth of the steps (at least 10 each, or half of them). Interval: moving block bootstrap, or "
    "autoregressive noise if wider; it covers the noise between the steps of one run, not between seeds. Measured coverage of 95 % "
    f"intervals: {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%}, the least with few steps and strong correlation of neighbours."
)


@dataclass(frozen=True)
class Curve:
    """A metric of a run.

    Attributes
    ----------
    run : position of the run.
    name : of ``METRICS``.
    series : by step.
    trend : how much it changed.
    changes : where it jumped; None for what is set and not measured.
    gaps : number of values that are NaN or infinite.
    infinite : number of those that are infinite.
    """

    run: int
    name: str
    series: pd.Series[float]
    trend: Trend
    changes: Changes | None
    gaps: int
    infinite: int


def make(runs: Sequence[Run], options: Options) -> Section:
    """Describe the curves that each run logged."""
    section = Section("curves", "How did training go?")
    labels = run_labels(runs)
    curves = [curve for index, run in enumerate(runs) for curve in measure(index, run, options.seed)]
    silent = [label for index, label in enumerate(labels) if not any(curve.run == index for curve in curves)]
    never = [doubt for index, run in enumerate(runs) for doubt in _never_finite(run, _of(labels, index))]
    section.doubts = _unmeasured(runs, labels, curves, options)
    if not curves and never:
        section.missing = f"no curves: {' '.join(doubt.text for doubt in never)}"
        section.incomplete.append(section.missing)
        return section
    if not curves:
        section.missing = (
            "no curves: no metrics by step were found; the trainer's log makes them (metrics.jsonl, trainer_state.json, TensorBoard event "
            "files or an offline W&B run in the directory)"
        )
        return section
    if silent:
        section.incomplete.append(f"no metrics by step were found of {', '.join(silent)}: it has no curves")
    found = {index: flags(run.series, options.seed) for index, run in enumerate(runs)}
    section.findings += _findings(curves, found, labels, [bool(run.evals) for run in runs])
    gaps = never + _not_finite(curves, labels)
    section.incomplete += [doubt.text for doubt in gaps]
    signs = [
        Doubt(f"Training may have gone wrong{_of(labels, index)}. {flag.text}", 7.2) for index, several in found.items() for flag in several
    ]
    estimated = any(not math.isnan(curve.trend.low) for curve in curves)
    section.doubts = [*gaps, *section.doubts, *signs, *([Doubt(f"Training curves: {ONE_RUN}.")] if estimated else [])]
    section.changes += _behaviour(curves, labels)
    section.tables += [
        _trend_table(curves, labels),
        *_flag_table(found, labels),
        *_change_table(curves, labels),
        _series_table(curves, labels),
    ]
    section.pictures.append(_picture(curves, labels))
    during_training.add(section, runs, labels, options)
    section.commands += [command(run) for run in runs]
    section.document = {
        "flags": [{"run": labels[index], **vars(flag)} for index, several in found.items() for flag in several],
        "metric_names": {label: run.metric_names for label, run in zip(labels, runs, strict=True)},
    }
    return section


def command(run: Run) -> str:
    """Spell the command that prints the metrics of a run."""
    code = "import sys, dynamics.runs; dynamics.runs.open_run(sys.argv[1]).metrics.to_csv(sys.stdout, index=False)"
    return shlex.join(["python", "-c", code, str(run.path)])


def measure(index: int, run: Run, seed: int) -> list[Curve]:
    """Measure the metrics of a run that have a panel."""
    curves = []
    for name in PANELS:
        series = run.series(name)
        known = finite(series)
        if not len(known):
            continue
        values = known.to_numpy(float)
        changes = None if name in SET else find_changes(known.index.to_numpy(), values)
        change = Trend(values[0], values[-1], math.nan, math.nan, 1, len(values)) if name in SET else trend(values, seed)
        curves.append(Curve(index, name, series, change, changes, len(series) - len(known), _infinite(series)))
    return curves


def _infinite(series: pd.Series[float]) -> int:
    return len(series.dropna()) - len(finite(series))


def _never_finite(run: Run, of: str) -> list[Doubt]:
    """Name the metrics of a run that were logged, but never with a finite value."""
    doubts = []
    for name in PANELS:
        series = run.series(name)
        if len(series) and not len(finite(series)):
            what = f"{plural(len(series), 'value')}, {_gaps(len(series), _infinite(series))}"
            doubts.append(Doubt(f"The {_words(name)}{of} has no finite value: {what}.", 9.8 if name in VITAL else 5.0))
    return doubts


def _gaps(gaps: int, infinite: int) -> str:
    """Say what values are that are not finite.

    >>> _gaps(3, 0), _gaps(3, 3), _gaps(3, 1)
    ('NaN', 'infinite', 'NaN or infinite (1 infinite)')
    """
    return "NaN" if not infinite else "infinite" if infinite == gaps else f"NaN or infinite ({infinite:,} infinite)"


def _findings(curves: Sequence[Curve], found: dict[int, list[Flag]], labels: Sequence[str], graded: Sequence[bool]) -> list[Finding]:
    """Say how the main metric of each run changed, which signs of trouble there are, and what else changed."""
    by_run = {index: [curve for curve in curves if curve.run == index] for index in found}
    mains = [
        next(curve for name in MAIN for curve in of_run if curve.name == name)
        for of_run in by_run.values()
        if any(curve.name in MAIN for curve in of_run)
    ]
    findings = [_trend_finding(curve, labels, 10.0 if len(labels) == 1 else 0.0, graded[curve.run]) for curve in mains]
    if len(labels) > 1 and mains:
        joined = "; ".join(_short(curve, labels) for curve in mains)
        caveat = "one run each" if all(math.isnan(curve.trend.low) for curve in mains) else ONE_RUN
        findings.insert(0, Finding(f"{joined}. Caveat: {caveat}.", weight=5.0 if caveat == "one run each" else 10.0))
    for index, several in found.items():
        findings += [_flag_finding(flag, labels, index) for flag in several]
    if len(labels) == 1:
        findings += [
            _trend_finding(curve, labels, 9.6 if curve.name == "reward" else 4.1 if curve.name == "entropy" else 1.0)
            for curve in curves
            if curve.name in TOLD and all(curve is not main for main in mains)
        ]
    return findings + _change_findings(curves, labels)


def _of(labels: Sequence[str], index: int) -> str:
    return f" of {labels[index]}" if len(labels) > 1 else ""


def _key(curve: Curve, labels: Sequence[str]) -> str:
    return f"{curve.name}_change" + (f"/{labels[curve.run]}" if len(labels) > 1 else "")


def _words(name: str) -> str:
    """Name a metric within a sentence."""
    return {
        "held_out": "held-out score",
        "held_out_loss": "held-out loss",
        "kl": "KL from the reference",
        "length": "length of completions",
        "truncated": "share of completions cut at the limit",
        "zero_variance": "share of groups whose rewards are all the same",
    }.get(name, PANELS[name].partition(",")[0])


def _subject(name: str) -> str:
    """Name the mean of a metric so that it can be told from those of other sections."""
    return {"reward": TRAINING_REWARD, "entropy": "logged entropy", "loss": TRAINING_LOSS}.get(name, _words(name))


def _short(curve: Curve, labels: Sequence[str]) -> str:
    change = curve.trend
    if change.low == change.high == 0:
        return f"{labels[curve.run]}: {_subject(curve.name)} {number(change.first)} throughout"
    interval = "no interval, too few steps" if math.isnan(change.low) else f"change [{change.low:+.3g}, {change.high:+.3g}]"
    return f"{labels[curve.run]}: {_subject(curve.name)} from {number(change.first)} to {number(change.last)} ({interval})"


def _trend_finding(curve: Curve, labels: Sequence[str], weight: float, graded: bool = False) -> Finding:
    """Say how a metric changed; ``graded``: there are graded samples of the run, which estimate a held-out score better."""
    change, run = curve.trend, labels[curve.run] if len(labels) > 1 else ""
    start = f"The {_subject(curve.name)}{_of(labels, curve.run)}"
    if change.values < 2:
        text = f"{start} was logged once: {number(change.first)}; nothing can be said of its change."
        return Finding(text, _key(curve, labels), None, weight=min(weight, 1.0), run=run)
    what = f"{change.values:,} logged steps" + (f" with a finite value; {curve.gaps:,} have none" if curve.gaps else "")
    span = f"means of the first and of the last {change.window:,} of {what}"
    if change.window == 1:
        span = f"first and last of {what}"
    known = finite(curve.series).index
    lost = f", and is NaN or infinite after step {known[-1]:,}" if known[-1] != curve.series.index[-1] else ""
    moved = f"{start} went from {number(change.first)} to {number(change.last)} ({span}){lost}"
    if math.isnan(change.low):
        text = f"{moved}, a change of {change.change:+.3g}. It has no interval: too few steps, and one run."
        text += " The graded samples give one over problems: see pass@k." if graded and curve.name == "held_out" else ""
        return Finding(text, _key(curve, labels), change.change, weight=min(weight, 2.0), run=run)
    if change.low == change.high == 0:
        text = f"{start} was {number(change.first)} in all of {what}{lost}."
        return Finding(text, _key(curve, labels), 0.0, 0.0, 0.0, min(weight, 5.0), run=run)
    sure = "" if change.rises or change.falls else " No clear change: the interval contains 0."
    by = f"{change.change:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
    text = f"{moved}, a change of {by}.{sure}" + (f" Caveat: {ONE_RUN}." if curve.name in MAIN else "")
    short = (
        f"{start} went from {number(change.first)} to {number(change.last)}, {by}{lost}.{sure} The interval is over the steps of one run."
    )
    return Finding(text, _key(curve, labels), change.change, change.low, change.high, weight, run=run, short=short)


def _behaviour(curves: Sequence[Curve], labels: Sequence[str]) -> list[Change]:
    """List the changes of what the model does, of metrics that have an interval."""
    changes, rewarded = [], {curve.run for curve in curves if curve.name == "reward"}
    for curve in curves:
        if curve.name == "loss" and curve.run in rewarded:
            continue  # the loss of a policy gradient measures nothing
        trend = curve.trend
        if curve.name in BEHAVIOUR and (trend.low or trend.high) and not math.isnan(trend.low):  # two zeros: it is constant
            how = f"first and last {trend.window:,} of {trend.values:,} logged steps"
            changes.append(Change(labels[curve.run], _subject(curve.name), trend.first, trend.last, trend.low, trend.high, how))
    return changes


def _flag_finding(flag: Flag, labels: Sequence[str], index: int) -> Finding:
    run = f"{labels[index]}: " if len(labels) > 1 else ""
    since = f" First at step {flag.step:,}." if flag.step is not None else ""
    interval = "" if flag.low is not None else " One run, so no interval over seeds."
    key = f"flag/{flag.name}" + (f"/{labels[index]}" if len(labels) > 1 else "")
    text, short = f"{run}{flag.text}{since} Rule: {flag.rule}.{interval}", f"{run}{flag.text}{since}"
    return Finding(text, key, flag.value, flag.low, flag.high, 9.5, short=short)


def _change_findings(curves: Sequence[Curve], labels: Sequence[str]) -> list[Finding]:
    """Name the largest jump, relative to the noise, of each run."""
    findings = []
    for index in dict.fromkeys(curve.run for curve in curves):
        jumps = [
            (abs(change.after - change.before) / curve.changes.noise.scale, curve, change)
            for curve in curves
            if curve.run == index and curve.changes is not None
            for change in curve.changes.changes
        ]
        if not jumps:
            continue
        size, curve, change = max(jumps, key=lambda jump: jump[0])
        others = f" {plural(len(jumps) - 1, 'other jump')} stand{'s' * (len(jumps) == 2)} in the table." if len(jumps) > 1 else ""
        text = (
            f"The clearest jump{_of(labels, index)}: at step {change.step:,}, the {_words(curve.name)} went from {number(change.before)} "
            f"to {number(change.after)}, {size:.1f} standard deviations of its noise (change {change.after - change.before:+.3g} "
            f"[{change.low:+.3g}, {change.high:+.3g}], too narrow because the step was chosen by the data).{others}"
        )
        key = "jump" + (f"/{labels[index]}" if len(labels) > 1 else "")
        findings.append(Finding(text, key, change.after - change.before, change.low, change.high, 1.0))
    return findings


def _not_finite(curves: Sequence[Curve], labels: Sequence[str]) -> list[Doubt]:
    """Name the curves that have values without a finite number."""
    doubts = []
    for curve in curves:
        if curve.gaps:
            what = f"{curve.gaps:,} of {len(curve.series):,} values of the {_words(curve.name)}{_of(labels, curve.run)}"
            one = curve.gaps == 1
            is_bad = f"{'is' if one else 'are'} {_gaps(curve.gaps, curve.infinite)}"
            left_out = f"{'it is a gap' if one else 'they are gaps'} in the curve, and left out of its numbers"
            doubts.append(Doubt(f"{what} {is_bad}: {left_out}.", 9.8 if curve.name in VITAL else 5.0))
    return doubts


def _unmeasured(runs: Sequence[Run], labels: Sequence[str], curves: Sequence[Curve], options: Options) -> list[Doubt]:
    """Doubt what a run without any measurement on problems or texts of its own can say of what the model learned."""
    doubts = []
    for index, run in enumerate(runs):
        names = {curve.name for curve in curves if curve.run == index}
        if run.evals or options.evals or names & {"held_out", "held_out_loss"}:
            continue
        of = _of(labels, index)
        if "reward" in names:
            text = f"The reward{of} is that of training problems: nothing was measured on held-out ones, which alone show what was learned."
            doubts.append(Doubt(f"{text} Graded samples of base and tuned model do (--evals).", 7.0, TRAINING_REWARD))
        else:
            loss = next((curve.trend for curve in curves if curve.run == index and curve.name == "loss"), None)
            ends = (
                f", which went from {number(loss.first)} to {number(loss.last)} in {loss.values:,} logged steps" if loss is not None else ""
            )
            logged = f"the training loss only{ends}" if loss is not None else "no measure of it"
            text = (
                f"What the model learned{of} was not measured: the files have {logged}. Graded samples of base and tuned model (--evals), "
            )
            doubts.append(Doubt(f"{text}or a held-out loss in the log, would show it.", 7.0))
    return doubts


def _trend_table(curves: Sequence[Curve], labels: Sequence[str]) -> Table:
    records = [
        {
            "run": labels[curve.run],
            "metric": curve.name,
            "first": curve.trend.first,
            "last": curve.trend.last,
            "change": curve.trend.change,
            "low": curve.trend.low,
            "high": curve.trend.high,
            "values": curve.trend.values,
            "window": curve.trend.window,
            "gaps": curve.gaps,
            "infinite": curve.infinite,
            "spikes": curve.changes.spikes if curve.changes is not None else 0,
            "smooth": curve.changes.smooth if curve.changes is not None else None,
        }
        for curve in curves
    ]
    show = {"run": "run"} if len(labels) > 1 else {}
    show |= {"metric": "metric", "first": "start", "last": "end", "change": "change", "low": "from", "high": "to"}
    show |= {"values": "values", "gaps": "not finite", "spikes": "spikes"}
    return Table("curve_changes", "From the start to the end", pd.DataFrame(records), show, most=60, note=TRENDS_NOTE)


def _flag_table(found: dict[int, list[Flag]], labels: Sequence[str]) -> list[Table]:
    records = [
        {
            "run": labels[index],
            "flag": flag.name,
            "step": flag.step,
            "number": flag.value,
            "low": flag.low,
            "high": flag.high,
            "rule": flag.rule,
        }
        for index, several in found.items()
        for flag in several
    ]
    if not records:
        return []
    show = {"run": "run", "flag": "sign", "step": "first step", "number": "number", "rule": "rule"}
    return [Table("curve_flags", "Signs that training goes wrong", pd.DataFrame(records).astype({"step": "Int64"}), show)]


def _change_table(curves: Sequence[Curve], labels: Sequence[str]) -> list[Table]:
    records = [
        {
            "run": labels[curve.run],
            "metric": curve.name,
            "step": change.step,
            "before": change.before,
            "after": change.after,
            "low": change.low,
            "high": change.high,
            "resolution": curve.changes.resolution,
        }
        for curve in curves
        if curve.changes is not None
        for change in curve.changes.changes
    ]
    if not records:
        return []
    show = {"run": "run", "metric": "metric", "step": "step", "before": "before", "after": "after", "low": "change from", "high": "to"}
    return [Table("curve_jumps", "Jumps", pd.DataFrame(records), show, note=CHANGES_NOTE)]


def _series_table(curves: Sequence[Curve], labels: Sequence[str]) -> Table:
    parts = [
        pd.DataFrame({"run": labels[curve.run], "metric": curve.name, "step": curve.series.index, "value": curve.series.to_numpy()})
        for curve in curves
    ]
    return Table("training_curves", "Training curves", pd.concat(parts, ignore_index=True))


def _picture(curves: Sequence[Curve], labels: Sequence[str]) -> Picture:
    panels = []
    for name, title in PANELS.items():
        of_name = [curve for curve in curves if curve.name == name]
        if of_name:
            series = {curve.run: curve.series for curve in of_name}
            jumps = {curve.run: [c.step for c in curve.changes.changes] for curve in of_name if curve.changes is not None}
            panels.append(plot_curves.Panel(title, series, jumps, name in LOGARITHMIC, name in FRACTIONS))
    shown = [curve for curve in curves if curve.name in (*MAIN, *TOLD)]
    told = [_short(curve, labels) if len(labels) > 1 else _short(curve, labels).partition(": ")[2] for curve in shown]
    jumped = any(steps for panel in panels for steps in panel.changes.values())
    spiked = any(map(plot_curves.has_spikes, panels))
    return Picture(
        "training_curves",
        f"Training curves by step{'; dotted: jumps' * jumped}{'; triangles: values beyond the axis' * spiked}",
        partial(plot_curves.curves, panels, labels),
        "training_curves",
        f"{plural(len(panels), 'panel')} up to step {max(int(curve.series.index.max()) for curve in curves):,}: {'; '.join(told)}.",
    )
