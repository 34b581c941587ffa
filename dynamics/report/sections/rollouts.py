"""Completions over training: reward by prompt, copies, length, cut ones, the prompts that changed most, and samples to read."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from dynamics.descriptions import plural
from dynamics.errors import InputError
from dynamics.presentation.text import number, percent
from dynamics.report import plot_rollouts
from dynamics.report.completions import Measured, Series, copies_by_prompt, measure, prepare, reward_by_prompt, strings
from dynamics.report.duplicates import FORMULA
from dynamics.report.labels import run_labels
from dynamics.report.prompts import LEAST
from dynamics.report.readable import readable
from dynamics.report.section import TRAINING_REWARD, Change, Doubt, Finding, Options, Picture, Sample, Section, Table
from dynamics.runs import Run, read_rollouts

#: prompts in a heat map and in the table, by size of their change
PROMPTS = 16
#: shares in the last part of training that are flagged
COPIED, CUT = 0.5, 0.2
#: characters of a prompt and of a completion that are shown
PROMPT_CHARACTERS, COMPLETION_CHARACTERS = 1500, 3000
#: heat maps of so many runs
MAPS = 3
REMEDY = "A fixed set of problems, asked before and after (--evals), or the same prompts again late in training, would tell."
#: prompts tested below which they are only counted
FEW_TESTED = 5
#: number of series: of a game's roles and held-out problems, the largest
SERIES = 6
MEASURES = {
    "reward": "mean reward over prompts",
    "duplicates": "pairs of completions that are copies",
    "length": "mean length, {unit}",
    "truncated": "share of completions that are cut",
}
#: measures that are fractions
SHARES = ("duplicates", "truncated")
OVER_PROMPTS = "95 % t interval over prompts, each with all of its completions"


def make(runs: Sequence[Run], options: Options) -> Section:
    """Describe the completions that each run kept."""
    labels = run_labels(runs)
    tables: list[pd.DataFrame] = []
    lost: list[str] = []
    for label, run in zip(labels, runs, strict=True):
        try:
            table, notes = read_rollouts(run)
        except InputError as error:
            table, notes = pd.DataFrame(), [str(error)]
        tables.append(table)
        lost += [f"{label}: {note}" if len(runs) > 1 else note for note in notes]
    section = describe(labels, tables, options)
    section.incomplete = lost + section.incomplete
    section.commands = [command(run) for run, table in zip(runs, tables, strict=True) if len(table)]
    return section


def command(run: Run) -> str:
    """Spell the command that prints the completions of a run as a table."""
    code = "import sys, dynamics.runs as r; r.read_rollouts(r.open_run(sys.argv[1]))[0].to_csv(sys.stdout, index=False)"
    return shlex.join(["python", "-c", code, str(run.path)])


def describe(labels: Sequence[str], tables: Sequence[pd.DataFrame], options: Options) -> Section:
    """Make the section from a table of completions of each run."""
    section = Section("rollouts", "What did the model write during training?")
    silent = [label for label, table in zip(labels, tables, strict=True) if not len(table)]
    if len(silent) == len(labels):
        section.missing = (
            "no completions: none were kept; TRL keeps them with log_completions=True, verl with trainer.rollout_data_dir, and a run of "
            "this project in rollouts/"
        )
        return section
    if silent:
        text = f"Completions: none were kept of {', '.join(silent)}; what is said of completions is not about them."
        section.doubts.append(Doubt(text, 2.0))
    series: list[Series] = []
    for index, (label, table) in enumerate(zip(labels, tables, strict=True)):
        if len(table):
            series += _split(index, label, table, len(labels) > 1, section)
    if not series:
        section.missing = "no completions over training: none of them says its step"
        return section
    measured = [measure(each, options.seed) for each in series]
    for each in measured:
        _tell(each, len(measured) == 1, section)
        section.changes += _behaviour(each, labels[each.series.run])
    if len(measured) > 1:
        _tell_together(measured, section)
    section.tables += _tables(measured)
    section.pictures += _pictures(measured)
    for each in measured[:MAPS]:
        section.samples += _samples(each)
    return section


def _split(run: int, label: str, table: pd.DataFrame, several: bool, section: Section) -> list[Series]:
    """Split the completions of a run by role, and by training and held-out problems."""
    steps = pd.to_numeric(table["step"], errors="coerce").to_numpy(float)
    known = np.isfinite(steps) & (steps >= 0)
    if not known.all():
        section.incomplete.append(f"{int((~known).sum()):,} completions of {label} say no step: they are left out")
    table = table[known].reset_index(drop=True)
    roles, held_outs = pd.Series(strings(table["role"]), dtype=object), table["held_out"].astype(object).eq(True)
    kinds = table.groupby([roles, held_outs], sort=False)
    parts = sorted(kinds, key=lambda part: -len(part[1]))
    if len(parts) > SERIES:
        section.incomplete.append(f"{plural(len(parts) - SERIES, 'role')} of {label} with the fewest completions are left out")
    split = []
    for (role, held_out), rows in parts[:SERIES]:
        details = [part for part in (readable(role, 40).replace("\n", " "), "held out" if held_out else "") if part]
        name = ", ".join([label, *details]) if several or len(parts) > 1 else label
        split.append(prepare(name, run, rows.reset_index(drop=True)))
    return split


def _tell(measured: Measured, alone: bool, section: Section) -> None:
    """Add the findings and doubts of a series."""
    series = measured.series
    key, of = ("", "") if alone else (f"/{series.name}", f" of {series.name}")
    flagged = _flagged(measured, key, "" if alone else f"{series.name}: ")
    if alone:
        section.findings += [_reward(measured, 4.2), *flagged, *_copies(measured), *_length(measured), *_prompts(measured)]
    else:
        section.findings += flagged
    infinite = series.infinite_rewards
    for count, what in ((int(np.isnan(series.rewards).sum()) - infinite, "no reward"), (infinite, "an infinite reward")):
        if count:
            text = f"{count:,} of {len(series.rewards):,} completions{of} have {what}: they are left out of all numbers of the reward."
            section.doubts.append(Doubt(text, 5.0, TRAINING_REWARD))
    if measured.unpaired and not series.held_out:
        text = f"No prompt{of} was sampled in both halves of training: a change of the reward may be one of the prompts, not of the model. "
        section.doubts.append(Doubt(text + REMEDY, 8.0, TRAINING_REWARD))
    elif not series.held_out and 2 * measured.change.prompts < _prompt_count(series) and measured.change.prompts < FEW_TESTED:
        verb = "was" if measured.change.prompts == 1 else "were"
        text = (
            f"Only {measured.change.prompts:,} of {_prompt_count(series):,} prompts{of} {verb} sampled in both halves of training: a "
            "change of the reward may be one of the prompts, not of the model. "
        )
        section.doubts.append(Doubt(text + REMEDY, 8.0, TRAINING_REWARD))
    for finding in flagged:
        end = " Short answers are copies also without a collapse." if finding.key.startswith("flag/duplicates") else ""
        section.doubts.append(Doubt(f"Training may have gone wrong. {finding.short}{end}", 7.2))
    section.document[series.name] = {
        "completions": len(series.steps),
        "infinite_rewards": infinite,
        "prompts": _prompt_count(series),
        "reward_change": vars(measured.change) | {"paired": not measured.unpaired},
        "length_and_reward": vars(measured.length),
        "prompts_tested": len(measured.by_prompt),
        "prompts_changed": int((measured.by_prompt["q"] < 0.05).sum()),
        "length_unit": series.unit,
    }


def _prompt_count(series: Series) -> int:
    return int(series.prompts.max(initial=-1)) + 1


def _behaviour(measured: Measured, run: str) -> list[Change]:
    """Return the change of the training reward of prompts of both halves, which is free of that of the prompts."""
    change, series = measured.change, measured.series
    if series.held_out or measured.unpaired or math.isnan(change.low) or change.low == change.high == 0:
        return []
    how = f"{plural(change.prompts, 'prompt')}, each in both halves of training; interval over prompts"
    what = "training reward of the same prompts" if not series.role else f"reward of the {readable(series.role, 40)} on the same prompts"
    replaces = "" if series.role else TRAINING_REWARD
    return [Change(run, what, change.start, change.start + change.value, change.low, change.high, how, replaces)]


def _interval(low: float, high: float) -> str:
    if low == high == 0:
        return "(the same for every prompt)"
    return "(no interval: too few prompts)" if math.isnan(low) else f"[{low:+.3g}, {high:+.3g}]"


def _percent(share: float) -> str:
    return percent(share, short=True)


def _end(value: float) -> float | None:
    return None if math.isnan(value) else value


def _reward(measured: Measured, weight: float) -> Finding:
    change = measured.change
    if math.isnan(change.value):
        text = "How the reward changed over training cannot be said: the completions have no rewards, or are all of one step."
        return Finding(text, "reward_change")
    if measured.unpaired:
        which = f"{change.prompts:,} prompts, none of which was sampled in both halves,"
        caveat = "Caveat: the prompts of the halves differ, and so may their difficulty"
    else:
        which = plural(change.prompts, "prompt that was", "prompts that were") + " sampled in both halves of training"
        caveat = "The unit is the prompt, and that of the curve the step: the two intervals answer different questions"
        caveat += f" ({OVER_PROMPTS}); one run, so nothing on seeds"
    same = math.isnan(change.low) or change.low == change.high == 0
    sure = "" if same or change.low > 0 or change.high < 0 else " No clear change: the interval contains 0."
    text = f"From the first to the second half of training, the mean reward of {which} changed by {change.value:+.3g} "
    text += f"{_interval(change.low, change.high)}.{sure}" + ("" if math.isnan(change.low) else f" {caveat}.")
    weight = 1.0 if same else 10.5 if not measured.unpaired and (change.low > 0 or change.high < 0) else weight
    short = ""
    if not measured.unpaired and not same:
        short = f"On {plural(change.prompts, 'prompt')} sampled in both halves of training, the reward changed by {change.value:+.3g} "
        short += f"{_interval(change.low, change.high)}, from {number(change.start)}.{sure} The interval is over prompts; one run."
    return Finding(text, "reward_change", change.value, _end(change.low), _end(change.high), weight, short=short)


def _ends(measured: Measured, name: str) -> tuple[pd.Series[float], pd.Series[float]] | None:
    """Return the rows of the first and the last part of training."""
    part = measured.over_training[measured.over_training["measure"] == name]
    return None if part.empty else (part.iloc[0], part.iloc[-1])


def _flagged(measured: Measured, key: str, start: str) -> list[Finding]:
    """Flag many copies, and many cut completions, at the end."""
    findings = []
    for name, limit, what in (
        ("duplicates", COPIED, "of pairs of completions of a prompt are exact copies"),
        ("truncated", CUT, "of completions are cut at the limit of tokens"),
    ):
        ends = _ends(measured, name)
        if ends is None or not ends[1]["mean"] >= limit:
            continue
        first, last = ends
        steps = f"step {last['last_step']:,.0f}"
        if last["first_step"] < last["last_step"]:
            steps = f"steps {last['first_step']:,.0f} to {last['last_step']:,.0f}"
        text = f"{start}At the end of training ({steps}), {_percent(last['mean'])} {what}, "
        text += f"at the start {_percent(first['mean'])}. Rule: at least {limit:.0%}. Interval over {last['prompts']:.0f} prompts: "
        text += "none, too few." if math.isnan(last["low"]) else f"{_percent(last['low'])} to {_percent(last['high'])}."
        interval = "" if math.isnan(last["low"]) else f" [{_percent(last['low'])}, {_percent(last['high'])}]"
        short = (
            f"{start}{_percent(last['mean'])}{interval} {what} at the end of training ({steps}), {_percent(first['mean'])} at the start."
        )
        findings.append(Finding(text, f"flag/{name}{key}", float(last["mean"]), _end(last["low"]), _end(last["high"]), 8.5, short=short))
    return findings


def _copies(measured: Measured) -> list[Finding]:
    mean = copies_by_prompt(measured.series)
    if not mean.prompts:
        text = "Copies among the completions cannot be counted: no prompt has two completions in one step."
        return [Finding(text, "duplicates")]
    ends = _ends(measured, "duplicates")
    course = f"; {_percent(ends[0]['mean'])} at the start, {_percent(ends[1]['mean'])} at the end" if ends else ""
    low, high = max(mean.low, 0.0), min(mean.high, 1.0)
    interval = "no interval" if math.isnan(mean.low) else f"[{_percent(low)}, {_percent(high)}]"
    text = f"{_percent(mean.value)} {interval} of pairs of completions of a prompt in a step are exact copies{course}. "
    text += f"Share: {FORMULA}; unbiased for every n. Short answers are copies without any collapse."
    return [Finding(text, "duplicates", mean.value, _end(low), _end(high), 1.0)]


def _length(measured: Measured) -> list[Finding]:
    found = measured.length
    if not found.groups:
        text = "Whether reward goes with length cannot be said: in no prompt and step do both vary."
        return [Finding(text, "length_and_reward")]
    words = "longer completions get more reward" if found.value > 0 else "longer completions get less reward"
    sure = found.low > 0 or found.high < 0
    verdict = words if sure else "it cannot be said whether reward goes with length" if math.isnan(found.low) else "no clear relation"
    text = (
        f"Within the completions of a prompt in a step, length ({measured.series.unit}) and reward have a correlation of "
        f"{found.value:+.3f} {_interval(found.low, found.high)} (bootstrap over prompts; {found.groups:,} groups): {verdict}. A "
        "correlation is no cause."
    )
    return [Finding(text, "length_and_reward", found.value, _end(found.low), _end(found.high), 1.0)]


def _prompts(measured: Measured) -> list[Finding]:
    tested = measured.by_prompt
    if tested.empty:
        text = f"Which prompts changed most cannot be said: none has {LEAST} graded completions in each half, with rewards that vary."
        return [Finding(text, "prompts_changed")]
    changed = tested[tested["q"] < 0.05]
    if len(tested) < FEW_TESTED:
        text = f"Only {plural(len(tested), 'prompt has', 'prompts have')} {LEAST} graded completions or more in each half of training; the "
        text += f"reward changed on {len(changed):,} (false discovery rate of 5 % by Benjamini and Hochberg)."
        return [Finding(text, "prompts_changed", float(len(changed)), weight=1.0)]
    rose = int((changed["change"] > 0).sum())
    text = (
        f"The reward of {len(changed):,} of {plural(len(tested), 'prompt')} changed between the halves of training: it rose on {rose:,} "
        f"and fell on {len(changed) - rose:,} (false discovery rate of 5 % by Benjamini and Hochberg; a count, so no interval). Prompts "
        f"with fewer than {LEAST} completions in a half are not tested, and few completions show large changes only."
    )
    return [Finding(text, "prompts_changed", float(len(changed)), weight=1.0)]


def _tell_together(measured: Sequence[Measured], section: Section) -> None:
    """Put the changes of reward of all series into one sentence."""
    known = [each for each in measured if not math.isnan(each.change.value)]
    if not known:
        return
    several = "; ".join(f"{each.series.name} {each.change.value:+.3g} {_interval(each.change.low, each.change.high)}" for each in known)
    caveat = (
        "where no prompt is in both halves, the prompts differ" if any(each.unpaired for each in known) else "on prompts of both halves"
    )
    text = f"Change of the mean reward from the first to the second half of training: {several} ({caveat}; intervals over prompts)."
    section.findings.insert(0, Finding(text, weight=4.2))


def _summary(measured: Sequence[Measured]) -> Table:
    """Return the numbers of all series, a row each."""
    records = []
    for each in measured:
        copies = copies_by_prompt(each.series)
        record: dict[str, float | int | str] = {"series": each.series.name, "completions": len(each.series.steps)}
        record |= {"reward_change": each.change.value, "reward_low": each.change.low, "reward_high": each.change.high}
        record |= {"duplicates": copies.value, "duplicates_low": copies.low, "duplicates_high": copies.high}
        record |= {"length_and_reward": each.length.value, "length_low": each.length.low, "length_high": each.length.high}
        records.append(record | {"prompts_tested": len(each.by_prompt), "prompts_changed": int((each.by_prompt["q"] < 0.05).sum())})
    show = {
        "series": "completions of",
        "completions": "number",
        "reward_change": "change of reward",
        "reward_low": "from",
        "reward_high": "to",
    }
    show |= {"duplicates": "copies, %", "length_and_reward": "length and reward", "length_low": "from ", "length_high": "to "}
    show |= {"prompts_tested": "prompts tested", "prompts_changed": "changed"}
    note = (
        f"Change of the mean reward from the first to the second half of training. Copies: {FORMULA}. Length and reward: correlation "
        f"within the completions of a prompt in a step. Changed: false discovery rate of 5 %. Intervals are over prompts."
    )
    return Table("rollouts_summary", "Completions, in numbers", pd.DataFrame(records), show, note=note)


def _tables(measured: Sequence[Measured]) -> list[Table]:
    over = pd.concat([each.over_training for each in measured], ignore_index=True)
    columns = ["series", "measure", "bin", "first_step", "last_step", "step", "mean", "low", "high", "prompts", "completions"]
    tables = [_summary(measured)] if len(measured) > 1 else []
    tables += [Table("rollouts_over_training", "Completions over training", over[columns], note=f"Intervals: {OVER_PROMPTS}.")]
    lengths = [
        each.by_length.assign(series=each.series.name, run=each.series.run, measure="reward") for each in measured if len(each.by_length)
    ]
    if lengths:
        tables.append(
            Table("reward_by_length", "Reward by length within the completions of a prompt", pd.concat(lengths, ignore_index=True))
        )
    cells = [_cells(each) for each in measured[:MAPS] if len(each.by_prompt)]
    if cells:
        tables.append(Table("reward_by_prompt", "Reward by prompt over training", pd.concat(cells, ignore_index=True)))
    changed = [rows[rows["change"] != 0] for rows in (_named(each) for each in measured if len(each.by_prompt))]
    if any(len(rows) for rows in changed):
        show = {"series": "run"} if len(measured) > 1 else {}
        show |= {"text": "prompt", "early": "first half", "late": "second half", "change": "change", "low": "from", "high": "to", "q": "q"}
        note = (
            "Mean rewards of the halves of training. Intervals hold for all tested prompts together with 95 % (Bonferroni), so the largest "
            "change is covered although it was chosen; q: false discovery rate (Benjamini-Hochberg)."
        )
        tables.append(
            Table(
                "prompts_changed",
                "The reward of prompts in both halves of training, the surest changes first",
                pd.concat(changed, ignore_index=True),
                show,
                PROMPTS,
                note,
            )
        )
    return tables


def _named(measured: Measured) -> pd.DataFrame:
    """Return the changes of prompts with their texts."""
    first = np.unique(measured.series.prompts, return_index=True)[1]
    rows = first[measured.by_prompt["prompt"].to_numpy(int)]
    texts = [readable(text, 200) for text in measured.series.table["prompt"].iloc[rows]]
    return measured.by_prompt.assign(series=measured.series.name, text=texts)


def _cells(measured: Measured) -> pd.DataFrame:
    """Return the reward by prompt and part of training, with names for both."""
    cells, parts = reward_by_prompt(measured, PROMPTS)
    texts = _named(measured)["text"].to_numpy()
    return cells.assign(series=measured.series.name, prompt=texts[cells["row"]], steps=[parts[part] for part in cells["bin"]])


def _natural(measured: Sequence[Measured]) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value that the mean of each measure can have: for the reward, those of single completions."""
    rewards = np.concatenate([each.series.rewards[np.isfinite(each.series.rewards)] for each in measured])
    ends = (float(rewards.min()), float(rewards.max())) if len(rewards) else (-math.inf, math.inf)
    return {"reward": ends, "length": (0.0, math.inf)} | dict.fromkeys(SHARES, (0.0, 1.0))


def _cut(table: pd.DataFrame, panels: Mapping[str, plot_rollouts.Measure], of: str = "") -> str:
    """Say that bands are cut, if they are."""
    return f"{of}, {plot_rollouts.CUT}" if plot_rollouts.is_cut(table, panels) else ""


def _pictures(measured: Sequence[Measured]) -> list[Picture]:
    over = pd.concat([each.over_training for each in measured], ignore_index=True)
    units = "/".join(dict.fromkeys(each.series.unit for each in measured))
    titles = {name: title.format(unit=units) for name, title in MEASURES.items()}
    natural = _natural(measured)
    panels = {name: plot_rollouts.Measure(title, natural[name], name in SHARES) for name, title in titles.items()}
    told = []
    for each in measured:
        for name, title in titles.items():
            if (ends := _ends(each, name)) is not None:
                told.append(f"{each.series.name}, {title}: {number(ends[0]['mean'])} at the start, {number(ends[1]['mean'])} at the end")
    pictures = [
        Picture(
            "rollouts_over_training",
            f"Completions over training; bands: 95 % over prompts{_cut(over, panels)}",
            partial(plot_rollouts.lines, over, panels, "step", "step"),
            "rollouts_over_training",
            "; ".join(told) + ".",
        )
    ]
    lengths = [
        each.by_length.assign(series=each.series.name, run=each.series.run, measure="reward") for each in measured if len(each.by_length)
    ]
    if lengths:
        table, xlabel = pd.concat(lengths, ignore_index=True), f"length minus mean of its group, {units}"
        widest = natural["reward"][1] - natural["reward"][0]
        panel = {"reward": plot_rollouts.Measure("reward minus mean of its group", (-widest, widest))}
        pictures.append(
            Picture(
                "reward_by_length",
                f"Does reward go with length?{_cut(table, panel, ' Bands: 95 %')}",
                partial(plot_rollouts.lines, table, panel, "length", xlabel),
                "reward_by_length",
                "; ".join(f"{each.series.name}: correlation {each.length.value:+.3f}" for each in measured if each.length.groups) + ".",
            )
        )
    for each in measured[:MAPS]:
        if len(each.by_prompt) > 1:
            cells, parts = reward_by_prompt(each, PROMPTS)
            texts = _named(each)["text"].tolist()[:PROMPTS]
            unknown = "; white: not sampled" if cells["reward"].notna().sum() < len(texts) * len(parts) else ""
            pictures.append(
                Picture(
                    "reward_by_prompt" if len(measured) == 1 else f"reward_by_prompt_{measured.index(each) + 1}",
                    f"Reward of the prompts that changed most{'' if len(measured) == 1 else f', {each.series.name}'}{unknown}",
                    partial(plot_rollouts.heat_map, cells, texts, parts),
                    "reward_by_prompt",
                    f"Heat map of {plural(len(texts), 'prompt')} by {plural(len(parts), 'part')} of training.",
                )
            )
    return pictures


def _samples(measured: Measured) -> list[Sample]:
    """Show a completion at the first and at the last step of the prompts with the largest rise, the largest fall and the least change."""
    tested = measured.by_prompt
    chosen: dict[int, str] = {}
    if len(tested):
        rises, falls = tested[tested["low"] > 0], tested[tested["high"] < 0]
        for rows, why in ((rises, "the reward of this prompt rose most"), (falls, "the reward of this prompt fell most")):
            if len(rows):
                chosen.setdefault(int(rows["prompt"].iloc[0]), why)
        least = "the reward of this prompt changed least" if len(tested) > 1 else "the only prompt with enough completions in both halves"
        chosen.setdefault(int(tested["prompt"].iloc[-1]), least)
    else:
        of_prompt = pd.DataFrame({"prompt": measured.series.prompts, "step": measured.series.steps}).groupby("prompt")["step"]
        spans = of_prompt.max() - of_prompt.min()
        if spans.max() > 0:
            chosen[int(spans.idxmax())] = "this prompt was sampled over the longest time"
        else:  # every prompt has one step
            chosen.setdefault(int(measured.series.prompts[0]), "a prompt of the first step; none was sampled at two")
            chosen.setdefault(int(measured.series.prompts[-1]), "a prompt of the last step; none was sampled at two")
    return [_sample(measured.series, prompt, why) for prompt, why in chosen.items()]


def _sample(series: Series, prompt: int, why: str) -> Sample:
    rows = np.flatnonzero(series.prompts == prompt)
    ends = dict.fromkeys((int(series.steps[rows].min()), int(series.steps[rows].max())))
    completions = []
    for step in ends:
        row = rows[series.steps[rows] == step][0]
        reward = "" if math.isnan(series.rewards[row]) else f", reward {series.rewards[row]:.3g}"
        completions.append((f"step {step:,}{reward}", readable(series.table["completion"].iloc[row], COMPLETION_CHARACTERS)))
    which = "the first completion of its first and of its last step" if len(ends) > 1 else "the first completion"
    title = f"{series.name}: {why} ({which})"
    return Sample(title, readable(series.table["prompt"].iloc[rows[0]], PROMPT_CHARACTERS), completions)
