"""Ends, ticks and labels of axes: round steps, enough digits and no more, percentages for shares, and no offset above an axis.

ticks.whole(ax.xaxis)  # steps of training, layers: 0, 10, 20
ticks.plain(ax.yaxis, share=True)  # 0 %, 20 %, 40 %
ticks.logarithmic(ax.yaxis)  # 0.1, 1, 10; within a decade 0.5, 1, 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullFormatter, NullLocator

from dynamics.presentation import style

#: ticks lie at multiples of 1, 2 or 5 times a power of ten
ROUND = (1, 2, 5, 10)
#: ticks that an axis has at least, if its ends allow
LEAST = 3
#: numbers below and from here on have an exponent
SMALL, LARGE = 1e-3, 1e7
#: part of the range of the values beyond them on each side of an axis
PAD = 0.05
#: values closer to each other than this part of their size differ by rounding only
EQUAL = 1e-9
#: a band is shown up to this number of times the range of the line beyond the line, and at least this part of the line's size
REACH, REACH_OF_SIZE = 2.0, 0.5


class Numbers(Formatter):
    """Labels with as many decimals as the ticks of the axis differ in.

    Parameters
    ----------
    share : whether the values are fractions, to be labelled as percentages; ticks outside [0, 1] then have no label.
    alone : whether each label has its own number of decimals if the ticks span a decade, as on a logarithmic axis.
    signed : whether numbers above 0 have a plus sign, as differences do.
    """

    def __init__(self, *, share: bool = False, alone: bool = False, signed: bool = False) -> None:
        self.share, self.alone, self.signed = share, alone, signed

    def __call__(self, x: float, pos: int | None = None) -> str:  # noqa: ARG002
        """Label a value alone."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Any) -> list[str]:
        """Label the ticks of an axis."""
        known = [float(value) for value in values]
        positive = [value for value in known if value > 0]
        if self.alone and positive and max(positive) >= (1 - EQUAL) * 10 * min(positive):
            texts = [labels([value], share=self.share)[0] for value in known]
        else:
            texts = labels(known, share=self.share)
        return [f"{self._sign(value, label)}{label}" for value, label in zip(known, texts, strict=True)]

    def _sign(self, value: float, label: str) -> str:
        return "+" if self.signed and value > 0 and set(label) & set("123456789") else ""


def labels(values: Sequence[float], *, share: bool = False) -> list[str]:
    """Write numbers with the same number of decimals, as few as they need.

    >>> labels([0.0, 0.5, 1.0]), labels([0.97, 0.98, 1.0], share=True), labels([-2000.0, 0.0])
    (['0.0', '0.5', '1.0'], ['97 %', '98 %', '100 %'], ['−2,000', '0'])
    >>> labels([0.0, 1e-4, 2e-4]), labels([0.99995, 1.0, 1.00005], share=True)
    (['0', '1e-4', '2e-4'], ['99.995 %', '100.000 %', ''])
    """
    known = np.array([value for value in values if math.isfinite(value)])
    factor = 100.0 if share else 1.0
    largest = float(np.abs(known).max(initial=0.0)) * factor
    if largest >= LARGE or 0 < largest < SMALL * (not share):
        return [_minus(style.exponent(_rounded(value, largest))) for value in values]
    gaps = np.diff(np.unique(known)) if len(known) > 1 else np.abs(known)
    smallest = factor * float(min((gap for gap in gaps if gap > EQUAL * largest / factor), default=largest / factor or 1.0))
    digits = next((d for d in range(12) if all(abs(round(v * factor, d) - v * factor) < 1e-4 * smallest for v in known)), 12)
    texts = [_minus(f"{round(value * factor, digits) + 0.0:,.{digits}f}") + " %" * share for value in values]
    return [text if not share or -EQUAL < value < 1 + EQUAL else "" for text, value in zip(texts, values, strict=True)]


def _rounded(value: float, largest: float) -> float:
    """Return 0 for what is 0 but for rounding."""
    return 0.0 if abs(value) < EQUAL * largest else value


def _minus(text: str) -> str:
    """Write the minus sign as the font does; that of an exponent stays."""
    return f"−{text[1:]}" if text.startswith("-") else text


class _InView(Locator):
    """Ticks between the ends of an axis, ``most`` intervals unless that gives fewer than three ticks."""

    def __init__(self, most: int = 6) -> None:
        self.most = most

    def __call__(self) -> Any:
        """Return the ticks of the axis."""
        return self.tick_values(*self.axis.get_view_interval())  # type: ignore[union-attr]


class Logarithmic(_InView):
    """Ticks of a logarithmic axis: decades; fewer than three: also 2 and 5 times each; fewer than three of those: round steps."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the ticks between two values above 0."""
        low, high = sorted((vmin, vmax))
        if low <= 0 or not math.isfinite(high):
            return np.zeros(0)
        powers = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1.0,), (1.0, 2.0, 5.0), (1.0, 3.0)):
            inside = _within(np.sort(np.outer(powers, factors).ravel()), low, high)
            if len(factors) == 1 and len(inside) >= LEAST:
                return inside[:: math.ceil(len(inside) / self.most)]
            if LEAST <= len(inside) <= self.most + 1:
                return inside
        return _within(MaxNLocator(self.most, steps=ROUND, min_n_ticks=LEAST).tick_values(low, high), low, high)


class Whole(_InView):
    """Ticks at whole numbers, three at least if there are as many."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the ticks between two values."""
        low, high = sorted((vmin, vmax))
        least = min(LEAST, math.floor(high) - math.ceil(low) + 1)  # with more than there are, matplotlib would divide steps
        return MaxNLocator(self.most, steps=ROUND, integer=True, min_n_ticks=max(least, 1)).tick_values(low, high)


def _within(values: Any, low: float, high: float) -> Any:
    values = np.asarray(values, float)
    rounding = EQUAL * np.abs(values)
    return values[(values >= low - rounding) & (values <= high + rounding)]


def whole(axis: Axis, most: int = 6) -> None:
    """Put ticks at whole numbers, such as steps of training: 1, 2, 5, 10, 20 ... apart; see ``Whole``."""
    axis.set_major_locator(Whole(most))
    axis.set_major_formatter(Numbers())


def plain(axis: Axis, most: int = 5, *, least: int = LEAST, share: bool = False, signed: bool = False) -> None:
    """Put ticks at round numbers of a linear axis, ``least`` at least and ``most`` intervals unless that gives fewer."""
    axis.set_major_locator(MaxNLocator(most, steps=ROUND, min_n_ticks=least))
    axis.set_major_formatter(Numbers(share=share, signed=signed))


def logarithmic(axis: Axis, most: int = 6, *, share: bool = False) -> None:
    """Put three ticks at least at round numbers of a logarithmic axis, each with a label that is no power."""
    axis.set_major_locator(Logarithmic(most))
    axis.set_major_formatter(Numbers(share=share, alone=True))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from ``low`` to ``high``, three at least, such as for a colour bar."""
    if high <= low:
        return [low]
    return [float(tick) for tick in _within(MaxNLocator(most, steps=ROUND, min_n_ticks=LEAST).tick_values(low, high), low, high)]


def color_bar(
    picture: ScalarMappable, ax: Axes, label: str, at: Sequence[float], *, share: bool = False, beside: bool = True, **options: Any
) -> Colorbar:
    """Add a colour bar to the right of ``ax`` or below it, with space between its label, its ticks and the labels of ``ax``.

    Parameters
    ----------
    picture : what is coloured.
    ax : the axes that give space to the bar.
    label : along the bar.
    at : values with a label.
    share : whether they are fractions, to be labelled as percentages.
    beside : whether the bar is to the right, and not below.
    options : of ``Figure.colorbar``.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("axes without a figure")
    place: dict[str, Any] = {"location": "right", "pad": 0.02} if beside else {"location": "bottom", "pad": 0.06, "aspect": 30}
    bar = figure.colorbar(picture, ax=ax, **place | options)
    bar.set_ticks(list(at), labels=labels(list(at), share=share))
    bar.set_label(label, labelpad=7.0)
    bar.outline.set_visible(False)
    return bar


def span(values: Float[np.ndarray, " values"], natural: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """Return the ends of an axis for values, without space beyond them: equal values lie in the middle between 0 and twice them.

    Parameters
    ----------
    values : NaN and infinite ones do not count.
    natural : the least and the largest value that there can be; equal values do not stretch the axis beyond them.

    >>> span(np.array([0.25, 1.0])), span(np.array([2.0, 2.0])), span(np.zeros(3)), span(np.full(2, 0.75), (0, 1)), span(np.array([-3.0]))
    ((0.25, 1.0), (0.0, 4.0), (0.0, 1.0), (0.0, 1.0), (-6.0, 0.0))
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if high - low > EQUAL * max(abs(low), abs(high)):
        return low, high
    if high > 0:
        return 0.0, max(min(2 * high, float(natural[1])), high)
    return (min(max(2 * low, natural[0]), low), 0.0) if low < 0 else (0.0, 1.0)


def band_span(
    means: Float[np.ndarray, " points"],
    low: Float[np.ndarray, " points"],
    high: Float[np.ndarray, " points"],
    natural: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Return the ends of an axis for lines with bands: the lines decide, and a band that reaches far beyond them is cut.

    Parameters
    ----------
    means : values of the lines.
    low, high : ends of their bands.
    natural : the least and the largest value that there can be.

    >>> band_span(np.array([0.5, 1.0]), np.array([0.5, -6.0]), np.array([0.5, 7.0]))
    (-0.5, 2.0)
    >>> band_span(np.array([0.5, 1.0]), np.array([0.5, -6.0]), np.array([0.5, 7.0]), (0.0, 1.0))
    (0.0, 1.0)
    """
    first, last = span(means, natural)
    known = np.abs(means[np.isfinite(means)])
    reach = max(REACH * (last - first), REACH_OF_SIZE * float(known.max(initial=0.0)))
    below, above = (float(end) for end in (np.nanmin(low, initial=first), np.nanmax(high, initial=last)))
    least, most = max(below, first - reach, natural[0]), min(above, last + reach, natural[1])
    return min(first, least), max(last, most)


def cuts(ends: tuple[float, float], low: Float[np.ndarray, " points"], high: Float[np.ndarray, " points"]) -> bool:
    """Tell whether bands reach beyond the ends of an axis, with the space at its ends."""
    first, last = padded(ends)
    return bool(np.nanmin(low, initial=first) < first or np.nanmax(high, initial=last) > last)


def padded(ends: tuple[float, float]) -> tuple[float, float]:
    """Add the space at the ends of an axis, so that no line lies on its frame."""
    pad = PAD * (ends[1] - ends[0])
    return ends[0] - pad, ends[1] + pad
