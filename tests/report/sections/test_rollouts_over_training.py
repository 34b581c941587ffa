"""The section on completions over training, from tables made by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from helpers import doubt_texts

from dynamics.presentation import style
from dynamics.report.completions import measure, prepare, reward_by_prompt
from dynamics.report.readable import readable
from dynamics.report.section import Options
from dynamics.report.sections import rollouts
from dynamics.runs.rollouts import COLUMNS


def a_table(rng: np.random.Generator, prompts: int = 6, steps: int = 10, group: int = 4, **columns: object) -> pd.DataFrame:
    """Every prompt in every step; the reward of prompt 0 goes from 0 to 1, that of the others stays the same on average."""
    step, prompt = (array.ravel() for array in np.meshgrid(np.arange(steps), np.repeat(np.arange(prompts), group), indexing="ij"))
    reward = (rng.random(len(step)) < 0.5).astype(float)
    reward[prompt == 0] = step[prompt == 0] >= steps // 2
    table = pd.DataFrame({"step": step * 10, "prompt": [f"question {number}" for number in prompt]})
    table = table.assign(completion=[f"answer {number}" for number in rng.integers(0, 3, len(step))], reward=reward)
    table = table.assign(tokens=100.0 + 10 * reward + step, truncated=False, role="", held_out=False, file="f")
    return table.assign(**columns)[list(COLUMNS)]


def test_a_run_without_completions_is_missing() -> None:
    section = rollouts.describe(["a"], [pd.DataFrame(columns=list(COLUMNS))], Options())
    assert "log_completions" in section.missing


def test_completions_without_a_step_are_left_out_and_counted(rng: np.random.Generator) -> None:
    table = a_table(rng)
    table["step"] = table["step"].astype(object)
    table.loc[:1, "step"] = None
    table.loc[2, "step"] = -1
    section = rollouts.describe(["a"], [table], Options())
    assert section.incomplete == ["3 completions of a say no step: they are left out"]
    nothing = rollouts.describe(["a"], [table.assign(step=None)], Options())
    assert "none of them says its step" in nothing.missing


def test_infinite_rewards_are_counted_and_left_out(rng: np.random.Generator) -> None:
    table = a_table(rng)
    whole = rollouts.describe(["a"], [table.drop(index=range(5))], Options())
    table.loc[:2, "reward"] = [math.inf, -math.inf, math.inf]
    table.loc[3:4, "reward"] = math.nan
    section = rollouts.describe(["a"], [table], Options())
    told = [doubt for doubt in doubt_texts(section.doubts) if "reward" in doubt]
    assert told == [
        "2 of 240 completions have no reward: they are left out of all numbers of the reward.",
        "3 of 240 completions have an infinite reward: they are left out of all numbers of the reward.",
    ]
    assert section.document["a"]["infinite_rewards"] == 3
    main, without = (max(each.findings, key=lambda finding: finding.weight) for each in (section, whole))
    assert (main.value, main.low, main.high) == pytest.approx((without.value, without.low, without.high))


def test_the_main_number_is_the_paired_change_of_reward(rng: np.random.Generator) -> None:
    table = a_table(rng)
    section = rollouts.describe(["a"], [table], Options())
    main = max(section.findings, key=lambda finding: finding.weight)
    means = table.assign(late=table["step"] >= 50).groupby(["prompt", "late"])["reward"].mean().unstack()
    assert main.key == "reward_change"
    assert main.value == pytest.approx((means[True] - means[False]).mean())
    assert main.low is not None
    assert main.high is not None
    assert main.low < main.value < main.high


def test_the_prompt_that_changed_leads_table_map_and_samples(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a"], [a_table(rng)], Options())
    changed = next(table for table in section.tables if table.name == "prompts_changed").frame
    assert changed["text"].iloc[0] == "question 0"
    assert changed["low"].iloc[0] > 0
    finding = next(finding for finding in section.findings if finding.key == "prompts_changed")
    assert finding.value == (changed["q"] < 0.05).sum()
    sample = section.samples[0]
    assert sample.prompt == "question 0"
    assert [heading for heading, _ in sample.completions] == ["step 0, reward 0", "step 90, reward 1"]


def test_without_common_prompts_the_change_says_so(rng: np.random.Generator) -> None:
    table = a_table(rng)
    table["prompt"] = table["prompt"] + (table["step"] >= 50).map({True: " late", False: ""})
    section = rollouts.describe(["a"], [table], Options())
    main = max(section.findings, key=lambda finding: finding.weight)
    assert "none of which was sampled in both halves" in main.text
    assert any("No prompt was sampled in both halves" in doubt for doubt in doubt_texts(section.doubts))
    assert len(section.samples) == 1
    assert "sampled over the longest time" in section.samples[0].title


def test_prompts_of_one_step_each_are_shown_from_both_ends(rng: np.random.Generator) -> None:
    table = a_table(rng, steps=3)
    table["prompt"] = table["prompt"] + table["step"].astype(str)
    samples = rollouts.describe(["a"], [table], Options()).samples
    assert [sample.completions[0][0].partition(",")[0] for sample in samples] == ["step 0", "step 20"]
    assert "none was sampled at two" in samples[0].title


def test_many_copies_and_cut_completions_are_flags(rng: np.random.Generator) -> None:
    table = a_table(rng, truncated=True)
    table.loc[table["step"] >= 50, "completion"] = "the same"
    section = rollouts.describe(["a"], [table], Options())
    flags = {finding.key: finding for finding in section.findings if finding.key.startswith("flag/")}
    assert flags["flag/duplicates"].value == 1.0
    assert flags["flag/truncated"].value == 1.0
    assert {finding.weight for finding in flags.values()} == {8.5}
    over = next(table for table in section.tables if table.name == "rollouts_over_training").frame
    assert over.loc[over["measure"] == "duplicates", "high"].max() <= 1.0


def test_the_correlation_with_length_is_within_groups(rng: np.random.Generator) -> None:
    measured = measure(prepare("a", 0, a_table(rng)))
    assert measured.length.value == pytest.approx(1.0)  # ten tokens more if correct
    assert list(measured.by_length["mean"]) == sorted(measured.by_length["mean"])


def test_unknown_lengths_cuts_and_rewards(rng: np.random.Generator) -> None:
    table = a_table(rng, tokens=math.nan, truncated=None, reward=math.nan)
    section = rollouts.describe(["a"], [table], Options())
    assert "cannot be said" in next(finding for finding in section.findings if finding.key == "reward_change").text
    assert section.document["a"]["length_unit"] == "characters"
    over = next(table for table in section.tables if table.name == "rollouts_over_training").frame
    assert set(over["measure"]) == {"length", "duplicates"}
    assert section.doubts[0].text.startswith("240 of 240 completions have no reward")


def test_single_completions_have_no_copies(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a"], [a_table(rng, group=1)], Options())
    assert "cannot be counted" in next(finding for finding in section.findings if finding.key == "duplicates").text


def test_one_step_has_no_change(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a"], [a_table(rng, steps=1)], Options())
    main = section.findings[0]
    assert (main.value, main.weight) == (None, 0.0)


def test_roles_and_held_out_problems_are_apart(rng: np.random.Generator) -> None:
    table = a_table(rng, prompts=2)
    table["role"] = np.where(np.arange(len(table)) % 2, "solver", "proposer")
    table["held_out"] = table["step"] == 90
    section = rollouts.describe(["a"], [table], Options())
    assert set(section.document) == {"a, solver", "a, proposer", "a, solver, held out", "a, proposer, held out"}
    assert section.findings[0].weight > 0
    assert next(table for table in section.tables if table.name == "rollouts_summary").frame["completions"].sum() == len(table)


def test_hostile_text_is_text_and_is_bounded(rng: np.random.Generator) -> None:
    table = a_table(rng, prompt="</pre><script>alert(1)</script> $\\frac{" + "a" * 9000)
    table["completion"] = pd.Series(["x\u202e\x1b[31m\ud800" + "y" * 9000] * len(table), dtype=object)
    section = rollouts.describe(["<b>a"], [table], Options())
    sample = section.samples[0]
    assert len(sample.prompt) < 1600
    text = sample.completions[0][1]
    assert len(text) < 3100
    assert text.startswith("x\\x202e\\x1b[31m\\xd800yyy")
    with style.use_style():
        for picture in section.pictures:
            assert picture.draw().axes


def test_cells_are_means_of_a_prompt_in_a_part_of_training(rng: np.random.Generator) -> None:
    table = a_table(rng, steps=4)
    measured = measure(prepare("a", 0, table))
    cells, parts = reward_by_prompt(measured, 2)
    assert parts == ["0", "10", "20", "30"]
    assert cells[cells["row"] == 0]["reward"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert set(cells["completions"]) == {4}


def test_two_runs_of_which_one_kept_nothing(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a", "b"], [a_table(rng), pd.DataFrame()], Options())
    assert not section.incomplete
    assert any(line.startswith("Completions: none were kept of b;") for line in doubt_texts(section.doubts))
    assert section.missing == ""


def test_readable_keeps_lines_and_both_ends() -> None:
    assert readable("a\r\n\tb\x00", 20) == "a\n\tb\\x00"
    assert readable("a" * 60 + "z" * 60, 30) == "a" * 20 + "\n[… 90 characters …]\n" + "z" * 10
    assert readable(None, 5) == ""
    assert readable(12345, 5) == "12345"


@pytest.mark.slow
def test_a_million_completions_stay_quick(rng: np.random.Generator) -> None:
    table = a_table(rng, prompts=2500, steps=50, group=8)
    assert len(table) == 1_000_000
    began = time.perf_counter()
    rollouts.describe(["a"], [table], Options())
    assert time.perf_counter() - began < 60


def test_the_change_on_the_same_prompts_is_one_of_behaviour(rng: np.random.Generator) -> None:
    section = rollouts.describe(["a"], [a_table(rng)], Options())
    (change,) = section.changes
    assert (change.run, change.what, change.replaces) == ("a", "training reward of the same prompts", "mean training reward")
    assert change.value == pytest.approx(section.findings[0].value)
    # other prompts in each half, held-out problems, and rewards that never change give none
    apart = a_table(rng)
    apart["prompt"] = apart["prompt"] + (apart["step"] >= 50).astype(str)
    for table in (apart, a_table(rng, held_out=True), a_table(rng).assign(reward=1.0)):
        assert not rollouts.describe(["a"], [table], Options()).changes
    constant = rollouts.describe(["a"], [a_table(rng).assign(reward=1.0)], Options()).findings[0]
    assert "changed by +0 (the same for every prompt)." in constant.text
    assert constant.weight == 1.0


def test_few_prompts_of_both_halves_and_signs_of_trouble_are_doubts(rng: np.random.Generator) -> None:
    table = a_table(rng)
    apart = table["prompt"] + np.where((table["step"] >= 50) & (table["prompt"] != "question 1"), " again", "")
    few = doubt_texts(rollouts.describe(["a"], [table.assign(prompt=apart)], Options()).doubts)
    assert any(text.startswith("Only 1 of 11 prompts was sampled in both halves of training") and "--evals" in text for text in few)
    assert not any("both halves" in text for text in doubt_texts(rollouts.describe(["a"], [table], Options()).doubts))
    copied = doubt_texts(rollouts.describe(["a"], [table.assign(completion="same")], Options()).doubts)
    assert any(text.startswith("Training may have gone wrong. 100 % [100 %, 100 %] of pairs") for text in copied)
