"""The section on training curves."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import doubt_texts

from dynamics.presentation import style
from dynamics.report.plot_curves import averaged, limits
from dynamics.report.section import Options
from dynamics.report.sections import curves
from dynamics.runs.view import Run, metrics_table


def a_run(name: str, **metrics: object) -> Run:
    rows = [(step, key, float(value)) for key, values in metrics.items() for step, value in enumerate(np.asarray(values, float))]
    return Run(Path("/runs") / name, "TRL GRPOTrainer", metrics=metrics_table(rows))


def rising(rng: np.random.Generator, count: int = 60) -> np.ndarray:
    return np.linspace(0.2, 0.8, count) + 0.03 * rng.normal(size=count)


def test_a_run_without_metrics_is_missing_and_says_what_would_make_it() -> None:
    section = curves.make([Run(Path("/runs/a"), "verl")], Options())
    assert "trainer_state.json" in section.missing
    assert not section.tables
    assert not section.pictures


def test_one_of_two_runs_without_metrics_is_incomplete(rng: np.random.Generator) -> None:
    section = curves.make([a_run("a", reward=rising(rng)), Run(Path("/runs/b"), "verl")], Options())
    assert section.missing == ""
    assert section.incomplete == ["no metrics by step were found of b: it has no curves"]


def test_the_main_number_has_interval_and_caveat(rng: np.random.Generator) -> None:
    section = curves.make([a_run("a", reward=rising(rng), loss=rng.normal(size=60), learning_rate=np.full(60, 1e-6))], Options())
    main = max(section.findings, key=lambda finding: finding.weight)
    assert (main.key, main.weight) == ("reward_change", 10.0)
    assert main.low is not None
    assert main.value is not None
    assert main.high is not None
    assert main.low < main.value < main.high
    assert main.value == pytest.approx(0.5, abs=0.06)
    assert "not between seeds" in main.text
    table = section.tables[0].frame.set_index("metric")
    assert math.isnan(table.loc["learning_rate", "low"])  # set, not measured


def test_gaps_are_counted_and_nan_in_the_loss_is_a_flag(rng: np.random.Generator) -> None:
    loss = rng.normal(size=60)
    loss[[5, 6]] = math.nan
    reward = rising(rng)
    reward[9] = math.inf
    section = curves.make([a_run("a", reward=reward, loss=loss)], Options())
    flag = next(finding for finding in section.findings if finding.key == "flag/loss is not a number")
    assert (flag.value, flag.weight) == (2.0, 9.5)
    assert "First at step 5." in flag.text
    assert "Rule:" in flag.text
    assert "1 of 60 values of the reward is infinite: it is a gap in the curve, and left out of its numbers." in doubt_texts(section.doubts)
    assert "2 of 60 values of the loss are NaN: they are gaps in the curve, and left out of its numbers." in doubt_texts(section.doubts)
    assert section.incomplete == doubt_texts(section.doubts[:2])  # so that the command ends with status 3
    assert section.tables[0].frame.set_index("metric")[["gaps", "infinite"]].to_dict("index") == {
        "reward": {"gaps": 1, "infinite": 1}, "loss": {"gaps": 2, "infinite": 0},
    }  # fmt: skip
    frame = next(table for table in section.tables if table.name == "training_curves").frame
    assert frame["value"].isna().sum() == 2  # the file has all that was logged
    assert section.document["flags"][0]["step"] == 5


def test_a_metric_that_is_never_finite_is_no_curve(rng: np.random.Generator) -> None:
    section = curves.make([a_run("a", reward=rising(rng), kl=np.full(60, math.nan))], Options())
    assert "kl" not in set(section.tables[0].frame["metric"])
    assert section.incomplete == ["The KL from the reference has no finite value: 60 values, NaN."] == doubt_texts(section.doubts[:1])
    nothing = curves.make([a_run("a", kl=np.array([math.inf, math.nan, -math.inf])), a_run("b", loss=np.array([math.inf]))], Options())
    assert nothing.missing == (
        "no curves: The KL from the reference of a has no finite value: 3 values, NaN or infinite (2 infinite). "
        "The loss of b has no finite value: 1 value, infinite."
    )
    assert nothing.incomplete == [nothing.missing]


def test_several_runs_share_panels_and_hostile_names_are_text(rng: np.random.Generator) -> None:
    runs = [a_run(name, reward=rising(rng), grad_norm=np.exp(rng.normal(size=60))) for name in ("a", "<b>$x_1$\n", "c")]
    section = curves.make(runs, Options())
    labels = list(dict.fromkeys(section.tables[0].frame["run"]))
    assert labels == ["a", "<b>$x_1$\\x0a", "c"]
    assert section.findings[0].weight == 10.0
    with style.use_style():
        figure = section.pictures[0].draw()
    assert [len(ax.lines) for ax in figure.axes[:2]] == [3, 3]
    styles = {line.get_linestyle() + str(line.get_color()) for line in figure.axes[0].lines}
    assert len(styles) == 3
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) > 1


def test_the_command_is_quoted_for_a_shell() -> None:
    words = shlex.split(curves.command(Run(Path("/runs/a 'b'; rm x"), "verl")))
    assert words[:2] == ["python", "-c"]
    assert words[3:] == ["/runs/a 'b'; rm x"]


def test_a_single_value_and_few_values_have_no_interval() -> None:
    section = curves.make([a_run("a", reward=[0.5], loss=[1.0, 0.5, 0.4])], Options())
    by_key = {finding.key: finding for finding in section.findings}
    assert "logged once" in by_key["reward_change"].text
    assert by_key["reward_change"].low is None
    assert "too few steps" in by_key["loss_change"].text
    assert by_key["loss_change"].low is None


def test_long_curves_are_averaged_and_keep_gaps() -> None:
    values = np.arange(1000.0)
    values[500:600] = math.nan
    x, y = averaged(pd.Series(values, index=np.arange(1000)), 100)
    assert len(x) == len(y) == 100
    assert (x[0], y[0]) == (4.5, 4.5)
    assert np.isnan(y[50:60]).all()
    assert np.isfinite(np.delete(y, np.s_[50:60])).all()


def test_spikes_do_not_stretch_the_axis() -> None:
    values = np.concatenate([np.linspace(0, 1, 200), [500.0]])
    ends = limits(values)
    assert ends is not None
    assert ends[0] == 0
    assert 1 < ends[1] < 2
    assert limits(np.linspace(0, 1, 200)) is None
    assert limits(np.ones(9)) is None


def test_the_title_explains_what_the_figure_has(rng: np.random.Generator) -> None:
    calm = curves.make([a_run("a", reward=rising(rng))], Options()).pictures[0]
    assert calm.title == "Training curves by step"
    spike = np.where(np.arange(200) == 70, 500.0, rising(rng, 200))
    jump = np.repeat([0.2, 0.8], 100) + 0.01 * rng.normal(size=200)
    busy = curves.make([a_run("a", reward=jump, loss=spike)], Options()).pictures[0]
    assert busy.title == "Training curves by step; dotted: jumps; triangles: values beyond the axis"
    with style.use_style():
        markers = {line.get_marker() for ax in busy.draw().axes for line in ax.lines}
        assert "^" in markers
        assert "^" not in {line.get_marker() for ax in calm.draw().axes for line in ax.lines}


def test_a_repeated_step_counts_as_logged_last() -> None:
    run = Run(Path("/runs/a"), "verl", metrics=metrics_table([(1, "loss", 1.0), (2, "loss", 5.0), (1, "loss", math.nan)]))
    assert run.series("loss").index.tolist() == [1, 2]
    assert math.isnan(run.series("loss").loc[1])


def test_a_constant_curve_is_said_to_be_constant(rng: np.random.Generator) -> None:
    """Rounding in a constant series must not become a change with an interval."""
    length = 0.1 + np.tile([0.0, 1e-17], 30)
    section = curves.make([a_run("a", reward=rising(rng), length=length)], Options())
    (finding,) = [finding for finding in section.findings if finding.key == "length_change"]
    assert finding.text == "The length of completions was 0.1 in all of 60 logged steps."
    assert (finding.value, finding.low, finding.high) == (0.0, 0.0, 0.0)
    assert all(change.what != "length of completions" for change in section.changes)


def test_a_run_without_any_measure_of_what_was_learned_is_in_doubt(rng: np.random.Generator) -> None:
    def first(**metrics: np.ndarray) -> str:
        return curves.make([a_run("a", **metrics)], Options()).doubts[0].text

    assert first(loss=rng.normal(size=60)).startswith(
        "What the model learned was not measured: the files have the training loss only, which went from "
    )
    assert first(reward=rising(rng)).startswith("The reward is that of training problems: nothing was measured on held-out ones")
    assert first(reward=rising(rng), held_out=rising(rng)).startswith("Training curves:")
    graded = curves.make([a_run("a", reward=rising(rng))], Options(evals=["base=b.jsonl"]))
    assert graded.doubts[0].text.startswith("Training curves:")


def test_signs_of_trouble_are_doubts_and_curves_without_intervals_have_none(rng: np.random.Generator) -> None:
    collapsing = np.linspace(2.0, 0.01, 60)
    texts = doubt_texts(curves.make([a_run("a", reward=rising(rng), entropy=collapsing)], Options()).doubts)
    assert any(text.startswith("Training may have gone wrong. The entropy fell to") for text in texts)
    short = doubt_texts(curves.make([a_run("a", loss=rng.normal(size=6))], Options()).doubts)
    assert not any(text.startswith("Training curves: ") for text in short)
