"""Present a pass@k report as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamics.descriptions import plural
from dynamics.passk.comparison import BESIDE, crossing_text
from dynamics.passk.plot import COLORS, figure
from dynamics.passk.terminal import interval, value
from dynamics.presentation import html, style

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from dynamics.passk.comparison import Comparison, Curve, Report
    from dynamics.samples import File

GLOSSARY = {
    "pass@k": "Probability that at least one of k samples of a problem is correct: 1 - C(n - c, k) / C(n, k) for c correct of n samples, "
    "averaged over the problems with n >= k. The estimate is unbiased, and not defined for k > n.",
    "k > n / 2": "Here the estimate depends on little more than whether any sample was correct. The interval is valid, but a single lucky "
    "sample decides a problem.",
    "interval": "Bootstrap over problems, each with all of its samples. It covers the choice of problems and the sampling of answers. It "
    "is pointwise in k, not simultaneous for the whole curve.",
    "difference": "Paired by problem id. Check whether the interval of the difference contains 0; whether the intervals of two curves "
    "overlap is not a test of the difference.",
    "crossing k*": "The smallest k at which the curve that is behind at k = 1 is ahead, with percentiles over the bootstrap replicates.",
    "pass^k": "Probability that all k samples are correct: C(c, k) / C(n, k).",
    "mG-Pass@k": "Twice the integral, over t from 1/2 to 1, of the probability that at least a share t of k samples is correct.",
    "maj@k": "Probability that the most frequent answer among k samples is correct, with ties shared evenly. Exact over all subsets.",
    "avg@n": "Mean share of correct samples, with equal weight for every problem; it equals pass@1.",
    "beta-binomial model": "Extrapolation beyond n under the assumption that the success probabilities of the problems follow a Beta "
    "distribution. It is a model and not an estimate: it is wrong if some problems cannot be solved at all.",
}


@dataclass(frozen=True)
class Model:
    """The formatted results of one model.

    Attributes
    ----------
    title
        Title of the section with its table.
    name, color
        Name and colour in the figure.
    mean, interval
        pass@1 and its interval.
    size
        Numbers of problems and samples.
    headers
        Headers of the columns for estimates other than pass@k.
    rows
        The cells, with one row per k.
    flagged
        Whether the interval of any k has a mark, which a footnote explains.
    """

    title: str
    name: str
    color: str
    mean: str
    interval: str
    size: str
    headers: list[str]
    rows: list[list[str]]
    flagged: bool


def page(report: Report) -> str:
    """Render a report as the text of one HTML file."""
    with style.use_style():
        curves = html.figure_uri(figure(report))
    context = {
        "models": [_model(curve, COLORS[index % len(COLORS)], report.level) for index, curve in enumerate(report.curves)],
        "level": f"{report.level:.0%}",
        "notes": [html.one_line(note, 600) for note in report.notes],
        "warnings": [(html.one_line(curve.name, 60), html.one_line(text, 600)) for curve in report.curves for text in curve.warnings],
        "curves": curves,
        "comparisons": [_comparison(comparison, report.level) for comparison in report.comparisons],
        "files": [_file(file) for file in report.files],
        "meanings": GLOSSARY,
    }
    return html.render("passk.html", context)


def _model(curve: Curve, color: str, level: float) -> Model:
    extra = [name for name in BESIDE if name in curve.points]
    rows = []
    for point in curve.points.to_dict("records"):
        flag = " *" if _mostly_beyond_half(point) else ""
        cells = [f"{point['k']:,}", value(point["pass_at_k"]), interval(point["low"], point["high"]) + flag]
        for name in extra:
            cells += [value(point[name]), interval(point[f"{name}_low"], point[f"{name}_high"])]
        rows.append([*cells, f"{point['problems']:,}"])
    return Model(
        html.one_line(curve.name),
        html.one_line(curve.name, 60),
        color,
        value(curve.mean[0]),
        interval(*curve.mean[1:]),
        f"{plural(len(curve.counts), 'problem')}, {plural(curve.samples['total'], 'sample')}",
        [header for name in extra for header in (BESIDE[name], f"{level:.0%}")],
        rows,
        any(_mostly_beyond_half(point) for point in curve.points.to_dict("records")),
    )


def _mostly_beyond_half(point: Mapping[Hashable, Any]) -> bool:
    """Tell whether most problems of a point have fewer than 2 k samples."""
    return bool(2 * point["over_half"] > point["problems"])


def _comparison(comparison: Comparison, level: float) -> dict[str, Any]:
    """Format a comparison: names, counts of problems, a sentence about the crossing, and one row per k."""
    return {
        "title": f"{html.one_line(comparison.b)} against {html.one_line(comparison.a)}",
        "a": html.one_line(comparison.a, 60),
        "b": html.one_line(comparison.b, 60),
        "crossing": crossing_text(comparison, level),
        "paired": plural(comparison.paired, "problem"),
        "unpaired": f"{comparison.only_a + comparison.only_b:,}",
        "solved": {outcome: f"{count:,}" for outcome, count in comparison.solved.items()},
        "rows": [
            [
                f"{point['k']:,}",
                value(point["difference"], sign=True),
                interval(point["low"], point["high"], sign=True),
                f"{point['problems']:,}",
            ]
            for point in comparison.points.to_dict("records")
        ],
    }


def _file(file: File) -> list[str]:
    return [
        html.one_line(file.path),
        html.one_line(file.format),
        html.one_line(", ".join(f"{name} = {field}" for name, field in file.fields.items())),
        f"{file.samples:,}",
        html.one_line("; ".join(file.notes), 600),
    ]
