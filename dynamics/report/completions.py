"""The completions of a run as numbers: reward, copies, length and cut ones over training, by prompt and by length."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from dynamics.bootstrap import t_interval
from dynamics.report.duplicates import duplicate_pairs
from dynamics.report.prompts import (
    Correlation,
    Mean,
    correlation_within,
    equal_bins,
    mean_over,
    means_over_prompts,
    paired_change,
    prompt_changes,
    within_groups,
)

#: parts of training in lines and in heat maps; bins of length
BINS, COLUMNS, LENGTHS = 20, 8, 5


@dataclass(frozen=True)
class Series:
    """The completions of one kind of a run: of a role, and of training or held-out problems.

    Attributes
    ----------
    name : of the run and the kind.
    run : position of the run in the report.
    table : rows of ``dynamics.runs.rollouts.COLUMNS``, with a step each.
    steps, prompts, groups, texts : numbers of the step, the prompt, the prompt in its step, and the text of each completion.
    rewards, lengths, cut : NaN where they are not known.
    unit : of the lengths: tokens, or characters if no number of tokens is known.
    """

    name: str
    run: int
    table: pd.DataFrame
    steps: Int[np.ndarray, " rows"]
    prompts: Int[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"]
    texts: Int[np.ndarray, " rows"]
    rewards: Float[np.ndarray, " rows"]
    lengths: Float[np.ndarray, " rows"]
    cut: Float[np.ndarray, " rows"]
    unit: str

    @property
    def role(self) -> str:
        """The role of the completions in a game; empty if they have none."""
        return str(strings(self.table["role"].iloc[:1])[0]) if len(self.table) else ""

    @property
    def held_out(self) -> bool:
        """Whether the completions are of held-out problems."""
        return bool(self.table["held_out"].iloc[:1].astype(object).eq(True).any())

    @property
    def infinite_rewards(self) -> int:
        """Number of rewards that are infinite, or too large to compute with; they are NaN in ``rewards``."""
        return int(np.isinf(pd.to_numeric(self.table["reward"], errors="coerce").to_numpy(float)).sum())

    @property
    def late(self) -> Bool[np.ndarray, " rows"]:
        """Whether each completion is of the later half of the steps."""
        return equal_bins(self.steps, 2) > 0


@dataclass(frozen=True)
class Measured:
    """The numbers of a series.

    Attributes
    ----------
    series : its completions.
    change : of the reward of prompts with early and late completions.
    unpaired : whether no prompt has both, so that ``change`` compares different prompts.
    by_prompt : from ``prompt_changes``.
    length : correlation of length and reward within groups.
    over_training : a row a measure and part of training.
    by_length : a row a bin of length.
    """

    series: Series
    change: Mean
    unpaired: bool
    by_prompt: pd.DataFrame
    length: Correlation
    over_training: pd.DataFrame
    by_length: pd.DataFrame = field(default_factory=pd.DataFrame)


def prepare(name: str, run: int, table: pd.DataFrame) -> Series:
    """Give numbers to the prompts, groups and texts of completions.

    Parameters
    ----------
    name : of the series.
    run : position of the run in the report.
    table : with the columns of ``dynamics.runs.rollouts.COLUMNS``, and a step in each row.
    """
    steps = table["step"].to_numpy(float).astype(np.int64)
    completions = strings(table["completion"])
    prompts, texts = (pd.factorize(column)[0] for column in (strings(table["prompt"]), completions))
    _, step_numbers = np.unique(steps, return_inverse=True)
    _, groups = np.unique(step_numbers.astype(np.int64) * (int(prompts.max(initial=0)) + 1) + prompts, return_inverse=True)
    lengths = pd.to_numeric(table["tokens"], errors="coerce").to_numpy(float)
    unit = "tokens"
    if not np.isfinite(lengths).any():
        lengths, unit = np.fromiter(map(len, completions), float, len(completions)), "characters"
    rewards = pd.to_numeric(table["reward"], errors="coerce").to_numpy(float)
    cut = pd.to_numeric(table["truncated"].astype(object), errors="coerce").to_numpy(float)
    finite = [np.where(np.isfinite(values), values, np.nan) for values in (rewards, lengths, cut)]
    return Series(name, run, table, steps, prompts, groups, texts, finite[0], finite[1], finite[2], unit)


def strings(column: pd.Series[str]) -> Shaped[np.ndarray, " rows"]:
    """Return a column of texts as objects, which hold half of a surrogate pair too; what is no text is empty."""
    values = np.empty(len(column), object)
    values[:] = [text if isinstance(text, str) else "" for text in column]
    return values


def measure(series: Series, seed: int = 0) -> Measured:
    """Compute all numbers of a series."""
    known = np.isfinite(series.rewards)
    late = series.late
    change, unpaired = paired_change(series.prompts, late, series.rewards), False
    if not change.prompts and late.any() and known.any():
        change, unpaired = unpaired_change(series), True
    by_prompt = prompt_changes(series.prompts[known], late[known], series.rewards[known])
    both = known & np.isfinite(series.lengths)
    _, groups = np.unique(series.groups[both], return_inverse=True)
    length = correlation_within(groups, series.prompts[both], series.lengths[both], series.rewards[both], seed)
    lengths = by_length(groups, series.prompts[both], series.lengths[both], series.rewards[both]) if length.groups else pd.DataFrame()
    return Measured(series, change, unpaired, by_prompt, length, over_training(series), lengths)


def unpaired_change(series: Series) -> Mean:
    """Compare the mean reward of the prompts of the later half with that of the others; the interval is that of Welch."""
    frame = pd.DataFrame({"late": series.late, "prompt": series.prompts, "value": series.rewards}).dropna()
    means = frame.groupby(["late", "prompt"])["value"].mean()
    sides = [means.xs(side, level="late").to_numpy() for side in (False, True) if side in means.index.get_level_values("late")]
    if len(sides) < 2:
        return Mean(math.nan, math.nan, math.nan, 0)
    change, prompts = float(sides[1].mean() - sides[0].mean()), len(means)
    if min(map(len, sides)) < 2:
        return Mean(change, math.nan, math.nan, prompts)
    errors = [float(side.var(ddof=1)) / len(side) for side in sides]
    if not sum(errors):
        return Mean(change, change, change, prompts)
    freedom = sum(errors) ** 2 / sum(error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True))
    low, high = t_interval(change, math.sqrt(sum(errors)), freedom)
    return Mean(change, float(low), float(high), prompts)


def over_training(series: Series) -> pd.DataFrame:
    """Average every measure by part of training."""
    bins = equal_bins(series.steps, BINS)
    starts = pd.Series(series.steps).groupby(bins).agg(["min", "max", "mean"])
    copies = duplicate_pairs(series.groups, series.texts)["share"].to_numpy()
    first = np.unique(series.groups, return_index=True)[1]
    parts = []
    for name, values in (("reward", series.rewards), ("length", series.lengths), ("truncated", series.cut)):
        parts.append(means_over_prompts(bins, series.prompts, values).assign(measure=name))
    parts.append(means_over_prompts(bins[first], series.prompts[first], copies).assign(measure="duplicates"))
    table = pd.concat([part for part in parts if len(part)]).rename_axis("bin").reset_index()
    share = table["measure"].isin(["duplicates", "truncated"])
    table.loc[share, "low"] = table.loc[share, "low"].clip(lower=0)
    table.loc[share, "high"] = table.loc[share, "high"].clip(upper=1)
    table = table.join(starts.rename(columns={"min": "first_step", "max": "last_step", "mean": "step"}), on="bin")
    return table.assign(series=series.name, run=series.run)


def by_length(
    groups: Int[np.ndarray, " rows"],
    prompts: Int[np.ndarray, " rows"],
    lengths: Float[np.ndarray, " rows"],
    rewards: Float[np.ndarray, " rows"],
) -> pd.DataFrame:
    """Average the reward, relative to that of its group, by length, relative to that of its group."""
    several = np.bincount(groups)[groups] > 1
    x, y = within_groups(groups, lengths)[several], within_groups(groups, rewards)[several]
    edges = np.unique(np.quantile(x, np.linspace(0, 1, LENGTHS + 1)[1:-1]))
    bins = np.searchsorted(edges, x, side="right")
    table = means_over_prompts(bins, prompts[several], y)
    return table.assign(length=pd.Series(x).groupby(bins).mean()).reset_index(drop=True)


def reward_by_prompt(measured: Measured, most: int) -> tuple[pd.DataFrame, list[str]]:
    """Average the reward by part of training of the ``most`` prompts that changed most.

    Returns
    -------
    cells : row (position in ``measured.by_prompt``), bin (position in ``parts``), reward, completions.
    parts : first and last step of each part.
    """
    series = measured.series
    chosen = measured.by_prompt["prompt"].to_numpy(int)[:most]
    row_of = np.full(int(series.prompts.max()) + 1, -1)
    row_of[chosen] = np.arange(len(chosen))
    bins = equal_bins(series.steps, COLUMNS)
    used = (row_of[series.prompts] >= 0) & np.isfinite(series.rewards)
    frame = pd.DataFrame({"row": row_of[series.prompts[used]], "bin": bins[used], "reward": series.rewards[used]})
    cells = frame.groupby(["row", "bin"])["reward"].agg(reward="mean", completions="size").reset_index()
    spans = pd.Series(series.steps).groupby(bins).agg(["min", "max"])
    parts = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in zip(spans["min"], spans["max"], strict=True)]
    return cells, parts


def copies_by_prompt(series: Series) -> Mean:
    """Average the share of pairs of completions that are copies over prompts that have two completions in a step."""
    pairs = duplicate_pairs(series.groups, series.texts)
    first = np.unique(series.groups, return_index=True)[1]
    share = pd.DataFrame({"prompt": series.prompts[first], "share": pairs["share"].to_numpy()}).dropna()
    return mean_over(share.groupby("prompt")["share"].mean().to_numpy())
