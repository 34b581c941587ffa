"""Statistics over prompts: means with intervals, prompts whose reward changed, and whether reward goes with length.

The completions of a prompt are not independent of each other, so intervals are over prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from dynamics.bootstrap import LEVEL, percentile_interval, resampled_counts, t_interval

#: completions of a prompt on each side that its change needs
LEAST = 4
#: number of clusters of prompts that are resampled; with more prompts, each cluster has several
CLUSTERS = 200
#: fewer clusters give no interval
FEWEST = 5
REPLICATES = 2000


def equal_bins(steps: Int[np.ndarray, " rows"], most: int) -> Int[np.ndarray, " rows"]:
    """Assign steps to at most ``most`` bins of about as many different steps each; return the bin of each row."""
    different, index = np.unique(steps, return_inverse=True)
    return (index * min(most, len(different))) // max(len(different), 1)


def means_over_prompts(
    bins: Int[np.ndarray, " rows"], prompts: Int[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]
) -> pd.DataFrame:
    """Average values by bin, with the same weight for every prompt.

    Parameters
    ----------
    bins, prompts : of each completion.
    values : NaN where there is none; such completions are left out.

    Returns
    -------
    Indexed by bin: mean, low, high (t interval over prompts), prompts, completions.
    """
    known = ~np.isnan(values)
    width = int(prompts.max(initial=0)) + 1
    keys, inverse = np.unique(bins[known].astype(np.int64) * width + prompts[known], return_inverse=True)
    sizes = np.bincount(inverse, minlength=len(keys))
    of_prompt = np.bincount(inverse, values[known], len(keys)) / np.maximum(sizes, 1)
    names, bin_of = np.unique(keys // width, return_inverse=True)
    count = np.bincount(bin_of, minlength=len(names))
    mean = np.bincount(bin_of, of_prompt, len(names)) / np.maximum(count, 1)
    squares = np.bincount(bin_of, (of_prompt - mean[bin_of]) ** 2, len(names))
    low, high = t_interval(mean, np.sqrt(squares / np.maximum(count - 1, 1) / count), count - 1)
    completions = np.bincount(bin_of, sizes, len(names)).astype(np.int64)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "prompts": count, "completions": completions}, index=names)


@dataclass(frozen=True)
class Mean:
    """A mean over prompts.

    Attributes
    ----------
    value, low, high : the mean and its t interval; NaN where there is none.
    prompts : number of prompts.
    start : of a change: the mean before it.
    """

    value: float
    low: float
    high: float
    prompts: int
    start: float = math.nan


def paired_change(prompts: Int[np.ndarray, " rows"], late: Bool[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]) -> Mean:
    """Average the change from early to late completions over the prompts that have both."""
    known = ~np.isnan(values)
    frame = pd.DataFrame({"prompt": prompts[known], "late": late[known], "value": values[known]})
    means = frame.groupby(["prompt", "late"])["value"].mean().unstack()
    if means.shape[1] < 2:
        return Mean(math.nan, math.nan, math.nan, 0)
    both = means.dropna()
    return replace(mean_over((both[True] - both[False]).to_numpy()), start=float(both[False].mean()) if len(both) else math.nan)


def mean_over(values: Float[np.ndarray, " prompts"]) -> Mean:
    """Average a value per prompt."""
    if not len(values):
        return Mean(math.nan, math.nan, math.nan, 0)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    low, high = t_interval(values.mean(), error, len(values) - 1)
    return Mean(float(values.mean()), float(low), float(high), len(values))


def prompt_changes(
    prompts: Int[np.ndarray, " rows"],
    late: Bool[np.ndarray, " rows"],
    rewards: Float[np.ndarray, " rows"],
    least: int = LEAST,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Estimate how much the reward of each prompt changed from early to late completions.

    Parameters
    ----------
    prompts : of each completion.
    late : whether a completion counts as late.
    rewards : finite.
    least : completions of a prompt that each side needs; other prompts are left out.
    level : of the intervals, for all prompts together.

    Returns
    -------
    A row per prompt, those of the largest statistic first: prompt, early, late (mean rewards), n_early, n_late, change, low, high
    (simultaneous over all rows, Bonferroni), p (of no change), q (Benjamini-Hochberg: the false discovery rate if this row and all above
    are called changed).

    Notes
    -----
    Rewards are often 0 or 1, so that a few equal ones have no variance. As Agresti and Caffo do for a difference of proportions, each side
    is given one more completion of the lowest and one of the highest reward of the run for the interval and p; ``early``, ``late`` and
    ``change`` are without them.
    """
    from scipy.special import stdtr

    frame = pd.DataFrame({"prompt": prompts, "late": late, "value": rewards, "square": rewards**2})
    sums = frame.groupby(["prompt", "late"]).agg(n=("value", "size"), value=("value", "sum"), square=("square", "sum")).unstack()
    columns = ["prompt", "early", "late", "n_early", "n_late", "change", "low", "high", "p", "q"]
    if not len(frame) or rewards.min() == rewards.max() or sums["n"].shape[1] < 2:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in columns})
    sums = sums[(sums["n"] >= least).all(axis=1)]
    n, total, square = (np.stack([sums[name][side].to_numpy(float) for side in (False, True)]) for name in ("n", "value", "square"))
    ends = np.array([rewards.min(), rewards.max()])
    padded = n + 2
    mean = (total + ends.sum()) / padded
    error = ((square + (ends**2).sum()) - padded * mean**2) / (padded - 1) / padded  # squared standard errors
    freedom = error.sum(axis=0) ** 2 / (error**2 / (padded - 1)).sum(axis=0)
    scale = np.sqrt(error.sum(axis=0))
    statistic = (mean[1] - mean[0]) / scale
    p = 2 * stdtr(freedom, -np.abs(statistic))
    change = total[1] / n[1] - total[0] / n[0]
    table = pd.DataFrame({"prompt": sums.index.to_numpy(), "early": total[0] / n[0], "late": total[1] / n[1]})
    table = table.assign(n_early=n[0].astype(int), n_late=n[1].astype(int), change=change)
    low, high = t_interval(mean[1] - mean[0], scale, freedom, level, max(len(p), 1))
    table = table.assign(low=np.minimum(low, change), high=np.maximum(high, change), p=p, q=false_discovery_rates(p))
    return table.iloc[np.argsort(-np.abs(statistic), kind="stable")].reset_index(drop=True)[columns]


def false_discovery_rates(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjust p by Benjamini and Hochberg."""
    if not len(p):
        return p
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


@dataclass(frozen=True)
class Correlation:
    """A correlation within groups.

    Attributes
    ----------
    value, low, high : of -1 to 1; NaN where there is none.
    groups : number of groups in which both quantities vary.
    completions : number of completions in them.
    """

    value: float
    low: float
    high: float
    groups: int
    completions: int


def within_groups(groups: Int[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Subtract the mean of its group from each value."""
    count = np.bincount(groups)
    means = np.bincount(groups, values) / np.maximum(count, 1)
    difference: np.ndarray = values - means[groups]
    return difference


def correlation_within(
    groups: Int[np.ndarray, " rows"],
    prompts: Int[np.ndarray, " rows"],
    first: Float[np.ndarray, " rows"],
    second: Float[np.ndarray, " rows"],
    seed: int = 0,
) -> Correlation:
    """Correlate two quantities within groups, such as length and reward of the completions of one prompt in one step.

    Between prompts they also go together because hard prompts have long answers and low rewards; within a group this cannot be.

    Parameters
    ----------
    groups, prompts : of each completion.
    first, second : finite.
    seed : of the bootstrap over prompts.
    """
    if not len(groups):
        return Correlation(math.nan, math.nan, math.nan, 0, 0)
    x, y = within_groups(groups, first), within_groups(groups, second)
    count = int(groups.max()) + 1
    varies = (np.bincount(groups, x**2, count) > 1e-12 * (1 + np.abs(first).max() ** 2)) & (np.bincount(groups, np.abs(y), count) > 1e-9)
    used = varies[groups]
    if not used.any():
        return Correlation(math.nan, math.nan, math.nan, 0, 0)
    _, clusters = np.unique(prompts[used], return_inverse=True)
    rng = np.random.default_rng(seed)
    if (number := int(clusters.max()) + 1) > CLUSTERS:
        clusters, number = rng.permutation(number)[clusters] % CLUSTERS, CLUSTERS
    sums = np.stack([np.bincount(clusters, part[used], number) for part in (x * y, x**2, y**2)], axis=1)
    value = float(_correlation(sums.sum(axis=0, keepdims=True))[0])
    low = high = math.nan
    if number >= FEWEST:
        drawn = resampled_counts(np.ones(number, np.int64), REPLICATES, rng)
        low, high = (float(end) for end in percentile_interval(_correlation(drawn @ sums), (1 - LEVEL) / 2))
    return Correlation(value, low, high, int(varies.sum()), int(used.sum()))


def _correlation(sums: Float[np.ndarray, "replicates three"]) -> Float[np.ndarray, " replicates"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        value: np.ndarray = sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])
    return value
