"""Signs that training goes wrong, each by a rule on the curves of a run that can be checked by hand.

A rule takes a series by step, as ``Run.series`` returns it, and returns a ``Flag`` or None. "At the start" is the mean of the first tenth
of the steps (``dynamics.report.trends``). Running medians of three are compared with it, so that a single spike raises no flag.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from dynamics.report.change_points import running_median
from dynamics.report.trends import Trend, trend, window_length

#: absolute value from which a logged number counts as infinite
LARGEST = 1e100
#: entropy below this share of its start has collapsed
COLLAPSED = 0.1
#: number of successive steps in which all groups have zero variance
IN_A_ROW = 3
#: length beyond this multiple of its start runs away; with this share of completions cut, already beyond the lower multiple
LONG, LONG_AND_CUT, CUT = 3.0, 2.0, 0.2
#: mismatch beyond this multiple of its start grows
GROWN = 2.0
#: number of values that a curve needs for these rules
FEWEST = 6
#: number of held-out values that are compared with the reward
HELD_OUT = 4


@dataclass(frozen=True)
class Flag:
    """A sign that training went wrong.

    Attributes
    ----------
    name : of the rule.
    step : at which the rule first holds; None if it concerns the whole run.
    value, low, high : the number that the rule is about; its interval, or None.
    text : what happened, with the number.
    rule : in words.
    """

    name: str
    step: int | None
    value: float
    text: str
    rule: str
    low: float | None = None
    high: float | None = None


def finite(series: pd.Series[float]) -> pd.Series[float]:
    """Return the finite values of a series; values of over 1e100, with which one cannot compute, count as infinite."""
    return series[np.abs(series.to_numpy(float)) < LARGEST]


def first_step(series: pd.Series[float], holds: Bool[np.ndarray, " steps"]) -> int | None:
    """Return the first step at which a condition holds; None if it never does."""
    return int(series.index[int(holds.argmax())]) if holds.any() else None


def _start(values: Float[np.ndarray, " steps"]) -> float:
    return float(values[: window_length(len(values))].mean())


def entropy_collapse(entropy: pd.Series[float]) -> Flag | None:
    """Flag entropy below a tenth of its start."""
    known = finite(entropy)
    values = known.to_numpy(float)
    if len(values) < FEWEST or not (start := _start(values)) > 0:
        return None
    smooth = running_median(values, 1)
    step = first_step(known, smooth < COLLAPSED * start)
    if step is None:
        return None
    value = float(smooth[known.index.get_loc(step)])
    return Flag(
        "entropy collapse",
        step,
        value,
        f"The entropy fell to {value:.3g} nats, {value / start:.1%} of the {start:.3g} of the start; at the end it is {values[-1]:.3g}.",
        f"the running median of three steps is below {COLLAPSED:g} of the mean at the start",
    )


def zero_variance(fraction: pd.Series[float], spread: pd.Series[float]) -> Flag | None:
    """Flag steps in which no group teaches anything.

    Parameters
    ----------
    fraction : of groups whose samples all have the same reward.
    spread : standard deviation of the rewards, which is read if there is no fraction: it is 0 only if all groups have no variance.
    """
    if not len(finite(fraction)):
        known = finite(spread)
        empty = known.to_numpy(float) == 0
        source = "the standard deviation of the rewards is 0"
    else:
        known = finite(fraction)
        empty = known.to_numpy(float) >= 1 - 1e-9
        source = "the fraction of groups with zero variance is 1"
    if len(empty) < IN_A_ROW:
        return None
    several = np.logical_and.reduce(np.lib.stride_tricks.sliding_window_view(empty, IN_A_ROW), axis=1)
    step = first_step(known.iloc[: len(several)], several)
    if step is None:
        return None
    share = float(empty.mean())
    return Flag(
        "no variance of rewards",
        step,
        share,
        f"All samples of every group had the same reward in {int(empty.sum()):,} of {len(empty):,} logged steps ({share:.0%}): these steps "
        "have no advantage to learn from.",
        f"{source} in {IN_A_ROW} logged steps in a row",
    )


def length_runaway(length: pd.Series[float], truncated: pd.Series[float]) -> Flag | None:
    """Flag completions that grow beyond three times their start, or beyond twice with a fifth of them cut."""
    known = finite(length)
    values = known.to_numpy(float)
    if len(values) < FEWEST or not (start := _start(values)) > 0:
        return None
    smooth = running_median(values, 1)
    cut = truncated.reindex(known.index).to_numpy(float) if len(truncated) else np.full(len(values), math.nan)
    long = smooth > LONG * start
    also_cut = (smooth > LONG_AND_CUT * start) & (cut >= CUT)  # NaN compares as false
    step = first_step(known, long | also_cut)
    if step is None:
        return None
    index = known.index.get_loc(step)
    value = float(smooth[index])
    share = f", and {cut[index]:.0%} of completions are cut" if cut[index] == cut[index] else ""
    return Flag(
        "length runaway",
        step,
        value,
        f"The completions grew to {value:,.4g} tokens, {value / start:.1f} times the {start:,.4g} of the start{share}.",
        f"the running median of three steps is above {LONG:g} times the mean at the start, or above {LONG_AND_CUT:g} times with at least "
        f"{CUT:.0%} of completions cut",
    )


def mismatch_growth(mismatch: pd.Series[float], seed: int = 0) -> Flag | None:
    """Flag a difference between sampler and trainer that has doubled, by more than the noise."""
    known = finite(mismatch).abs()
    values = known.to_numpy(float)
    if len(values) < FEWEST:
        return None
    change = trend(values, seed)
    if not change.rises or not change.last > GROWN * change.first:
        return None
    smooth = running_median(values, 1)
    step = first_step(known, smooth > GROWN * change.first)
    return Flag(
        "mismatch of sampler and trainer grows",
        step,
        change.last,
        f"The mismatch of the sampler's and the trainer's log-probabilities grew from {change.first:.3g} to {change.last:.3g}: the samples "
        "come less and less from the policy that is trained.",
        f"its absolute value at the end is above {GROWN:g} times that at the start, and the interval of the change is above 0",
        change.first + change.low,
        change.first + change.high,
    )


def not_finite(series: pd.Series[float], name: str) -> Flag | None:
    """Flag a loss, or a norm of the gradient, that is NaN or infinite."""
    bad = ~np.isfinite(series.to_numpy(float))
    step = first_step(series, bad)
    if step is None:
        return None
    count = int(bad.sum())
    return Flag(
        f"{name} is not a number",
        step,
        float(count),
        f"The {name} is NaN or infinite in {count:,} of {len(series):,} logged steps.",
        f"the {name} of a logged step is NaN or infinite",
    )


def held_out_parts(train: pd.Series[float], held_out: pd.Series[float], better: float, seed: int = 0) -> tuple[Trend, Trend, int] | None:
    """Find a part of the run in which a measure gets better in training and not on held-out problems.

    Parameters
    ----------
    train, held_out : by step.
    better : 1 if larger is better, -1 if smaller is.
    seed : of the bootstrap.

    Returns
    -------
    The change in training and on held-out problems, and the first step of the part; None if there is no such part. The whole run is looked
    at first, and then the part after the best held-out value, if it has at least ``HELD_OUT`` held-out values.
    """
    ours, theirs = finite(train), finite(held_out)
    if len(ours) < FEWEST or len(theirs) < HELD_OUT:
        return None
    best = int(theirs.index[int((better * theirs.to_numpy(float)).argmax())])
    for start in dict.fromkeys((int(theirs.index[0]), best)):
        first, second = ours[ours.index >= start], theirs[theirs.index >= start]
        if len(first) < FEWEST or len(second) < HELD_OUT:
            continue
        trained, tested = trend(better * first.to_numpy(float), seed), trend(better * second.to_numpy(float), seed)
        if trained.rises and tested.change <= 0:
            return trained, tested, start
    return None


def reward_without_held_out(reward: pd.Series[float], held_out: pd.Series[float], seed: int = 0) -> Flag | None:
    """Flag a reward that rises while the result on held-out problems does not."""
    parts = held_out_parts(reward, held_out, 1.0, seed)
    if parts is None:
        return None
    trained, tested, start = parts
    return Flag(
        "reward rises, held-out does not",
        start,
        tested.change,
        f"The reward rose by {trained.change:.3g} [{trained.low:.3g}, {trained.high:.3g}], while the held-out "
        f"result went from {tested.first:.3g} to {tested.last:.3g} ({tested.values} evaluations).",
        "the interval of the change of the reward is above 0, and the held-out result does not rise, over the run or after its best value",
        *_ends(tested),
    )


def loss_without_held_out(loss: pd.Series[float], held_out: pd.Series[float], seed: int = 0) -> Flag | None:
    """Flag a loss that falls while that on held-out texts does not."""
    parts = held_out_parts(loss, held_out, -1.0, seed)
    if parts is None:
        return None
    trained, tested, start = parts
    return Flag(
        "loss falls, held-out loss does not",
        start,
        -tested.change,
        f"The training loss fell by {trained.change:.3g} [{trained.low:.3g}, {trained.high:.3g}], while the "
        f"held-out loss went from {-tested.first:.3g} to {-tested.last:.3g} ({tested.values} evaluations): overfitting.",
        "the interval of the change of the loss is below 0, and the held-out loss does not fall, over the run or after its best value",
        *(None if end is None else -end for end in _ends(tested)[::-1]),
    )


def _ends(change: Trend) -> tuple[float | None, float | None]:
    return (None, None) if math.isnan(change.low) else (change.low, change.high)


def flags(series: Callable[[str], pd.Series[float]], seed: int = 0) -> list[Flag]:
    """Apply all rules.

    Parameters
    ----------
    series : returns a metric by its name in ``dynamics.runs.METRICS``, such as ``Run.series``.
    seed : of the bootstrap.
    """
    found = [
        not_finite(series("loss"), "loss"),
        not_finite(series("grad_norm"), "norm of the gradient"),
        entropy_collapse(series("entropy")),
        zero_variance(series("zero_variance"), series("reward_std")),
        reward_without_held_out(series("reward"), series("held_out"), seed),
        loss_without_held_out(series("loss"), series("held_out_loss"), seed),
        length_runaway(series("length"), series("truncated")),
        mismatch_growth(series("mismatch"), seed),
    ]
    return [flag for flag in found if flag is not None]
