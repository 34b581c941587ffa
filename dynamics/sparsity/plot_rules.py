"""A plot that compares the four rules for "this weight changed" on the same checkpoints."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes

from dynamics.presentation import style
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES, rule_texts

#: colour of each rule in every figure: the palette of Okabe and Ito (2008), which is safe for common colour deficiencies
RULE_COLORS = {"exact": "#0072B2", "bf16": "#E69F00", "rtol": "#009E73", "atol": "#CC79A7"}

#: legend entry of each rule, with the default thresholds of ``dynamics.sparsity``
RULE_LABELS = {rule: f"{rule}: {text}" for rule, text in rule_texts(1e-3, 1e-5).items()}


def rules(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the update sparsity of each comparison under each rule as grouped bars, labelled with their values.

    Parameters
    ----------
    table : one row per comparison and rule, with columns ``comparison`` (text, may contain line breaks), ``rule`` (one of
        ``RULES``) and ``sparsity`` (fraction of weights unchanged, in [0, 1]). Comparisons are drawn from left to
        right in order of first appearance.
    ax : axes to draw on; they are returned.

    Notes
    -----
    The axis always runs from 0 to 1, because a truncated axis would exaggerate the difference between two dense updates.
    Labels have enough digits that a value below 1 is not printed as 100 %.

    Examples
    --------
    >>> from dynamics.presentation import style
    >>> figure = style.new_figure(6, 3)
    >>> table = pd.DataFrame({"comparison": ["a", "a"], "rule": ["exact", "bf16"], "sparsity": [0.1, 0.9]})
    >>> len(rules(table, figure.subplots()).patches)
    2
    """
    comparisons = list(dict.fromkeys(table["comparison"]))
    present = [rule for rule in RULES if rule in set(table["rule"])]
    values = table.set_index(["comparison", "rule"])["sparsity"].astype(float)
    width = 0.84 / len(present)
    labels: list[str] = []
    for i, rule in enumerate(present):
        offset = (i - (len(present) - 1) / 2) * width
        bars = [(x, values[comparison, rule]) for x, comparison in enumerate(comparisons) if (comparison, rule) in values.index]
        ax.bar(
            [x + offset for x, _ in bars],
            [height for _, height in bars],
            width=0.94 * width,
            color=RULE_COLORS[rule],
            label=fill(RULE_LABELS[rule], 26),  # a narrow legend leaves room for the labels of the bars
        )
        labels += [percent(height, short=True) for _, height in bars]
    style.label_bars(ax, labels)
    ax.set_xticks(range(len(comparisons)), comparisons)
    ax.set_xlim(-0.5, len(comparisons) - 0.5)
    ax.set_ylim(0, 1.08)  # room for the label of a full bar
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.set_ylabel("update sparsity\n(fraction of weights unchanged)")
    style.legend_beside(ax, title="a weight counts as changed when")
    return ax
