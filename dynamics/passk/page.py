"""The pass@k report as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dynamics.passk.comparison import BESIDE
from dynamics.passk.plot import COLORS, crossing_text, figure
from dynamics.passk.terminal import interval, value
from dynamics.presentation import html, style

if TYPE_CHECKING:
    from dynamics.passk.comparison import Comparison, Curve, Report

GLOSSARY = {
    "pass@k": "The chance that at least one of k samples of a problem is correct, 1 - C(n - c, k) / C(n, k) for c correct of n samples, "
    "averaged over the problems with n >= k. Unbiased; not defined beyond n.",
    "k > n / 2": "There the estimate is little more than whether any sample was correct: its interval holds, but one lucky sample decides "
    "a problem.",
    "interval": "Bootstrap over problems, each with all of its samples: covers both which problems were asked and which samples were "
    "drawn. For each k alone, not for the whole curve at once.",
    "difference": "Paired: on the same problems, by id. Whether the intervals of two curves overlap says little; whether the interval of "
    "the difference leaves out 0 does.",
    "crossing k*": "The smallest k at which the curve that is behind at k = 1 is ahead, with the percentiles of the same over replicates.",
    "pass^k": "The chance that all k samples are correct, C(c, k) / C(n, k).",
    "mG-Pass@k": "Twice the area under the chance that at least a share t of k samples is correct, over t from 1/2 to 1.",
    "maj@k": "The chance that the most frequent answer among k samples is correct; ties are shared evenly. Exact over all subsets.",
    "avg@n": "The mean share of correct samples, every problem weighing the same; it is pass@1.",
    "beta-binomial model": "What lies beyond n if the chances of the problems are spread as a Beta distribution. A model, not an estimate: "
    "it is wrong if some problems cannot be solved at all.",
}


def page(report: Report) -> str:
    """A report as the text of one HTML file."""
    with style.use_style():
        chart = html.image(figure(report), "pass@k over k, with intervals; differences below")
    sections = [
        _head(report),
        chart,
        *(html.section(f"{one.b} against {one.a}", _comparison(one, report.level)) for one in report.comparisons),
        *(html.section(curve.name, _curve(curve, report.level)) for curve in report.curves),
        html.section("What was read", _files(report)),
        html.section("What the numbers are", html.glossary(GLOSSARY)),
    ]
    return html.document("pass@k", sections)


def _head(report: Report) -> str:
    cards = "".join(
        f'<div class=card style="--rule:{COLORS[place % len(COLORS)]}">{html.safe(curve.name, 60)}'
        f"<b>{value(curve.mean[0])}</b><span>pass@1 {interval(*curve.mean[1:])}</span>"
        f"<span class=faint>{len(curve.counts):,} problems, {curve.samples['total']:,} samples</span></div>"
        for place, curve in enumerate(report.curves)
    )
    notes = "".join(f"<p>{html.safe(note, 600)}</p>" for note in report.notes)
    warned = [(curve.name, line) for curve in report.curves for line in curve.warnings]
    beware = "".join(f"<p><b>{html.safe(name, 60)}</b>: {html.safe(line, 600)}</p>" for name, line in warned)
    return f"<h1>How much can it solve</h1><div class=cards>{cards}</div>{notes}{beware}"


def _curve(curve: Curve, level: float) -> str:
    beside = [name for name in BESIDE if name in curve.points]
    heads = [part for name in beside for part in (BESIDE[name], f"{level:.0%}")]
    lines = []
    for row in curve.points.to_dict("records"):
        flag = " *" if 2 * row["over_half"] > row["problems"] else ""
        cells = [f"{row['k']:,}", value(row["pass_at_k"]), interval(row["low"], row["high"]) + flag]
        for name in beside:
            cells += [value(row[name]), interval(row[f"{name}_low"], row[f"{name}_high"])]
        lines.append([escape(cell) for cell in [*cells, f"{row['problems']:,}"]])
    made = html.table(["k", "pass@k", f"{level:.0%}", *heads, "problems"], lines)
    return made + "<p class=faint>* k &gt; n / 2 for most problems</p>" * any(" *" in line[2] for line in lines)


def _comparison(comparison: Comparison, level: float) -> str:
    solved = comparison.solved
    facts = (
        f"{comparison.paired:,} problems paired by id; {comparison.only_a + comparison.only_b:,} in only one. Solved at least once: "
        f"{solved['both']:,} by both, {solved['only_b']:,} only by {html.safe(comparison.b, 60)}, {solved['only_a']:,} only by "
        f"{html.safe(comparison.a, 60)}, {solved['neither']:,} by neither."
    )
    lines = (
        [f"{row['k']:,}", escape(value(row["difference"], sign=True)), interval(row["low"], row["high"], sign=True), f"{row['problems']:,}"]
        for row in comparison.points.to_dict("records")
    )
    table = html.table(["k", "difference", f"{level:.0%}", "problems"], lines)
    return f"<p>{escape(crossing_text(comparison, level))}</p><p>{facts}</p>{table}"


def _files(report: Report) -> str:
    lines = (
        [
            html.safe(file.path),
            html.safe(file.format),
            html.safe(", ".join(f"{name} = {field}" for name, field in file.fields.items())),
            f"{file.samples:,}",
            html.safe("; ".join(file.notes), 600),
        ]
        for file in report.files
    )
    return html.wrapped(html.table(["<file", "<taken for", "<fields", "samples", "<remarks"], lines))
