"""The table on the terminal shows exact numbers at any width and with any names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from dynamics.presentation.text import percent
from dynamics.sparsity import compare, series
from dynamics.sparsity.comparison import last_against_first
from dynamics.sparsity.page import page
from dynamics.sparsity.terminal import show


def printed(comparison, steps=(), width=100, **settings):
    stream = io.StringIO()
    show(comparison, steps, Console(file=stream, width=width, **settings))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_numbers_are_whole_at_any_width(pair, width):
    comparison = compare(*pair)
    text = printed(comparison, width=width)
    assert max(map(len, text.splitlines())) <= width
    for rule, count in comparison.total.changed.items():
        line = next(line for line in text.splitlines() if line.split()[:1] == [rule])
        assert f"{count:,}" in line
        assert percent(comparison.total.sparsity[rule]) in line
    for row in comparison.modules:
        assert row.name in text
    assert len(text.splitlines()) < 60


def test_the_paper_s_number_comes_first(pair):
    comparison = compare(*pair, like="mukherjee")
    text = printed(comparison)
    assert text.index("2505.11711") < text.index("exact")
    assert f"{comparison.like['changed']:,}" in text[: text.index("exact")]


def test_what_is_skipped_is_counted_and_named(pair):
    base, tuned = pair
    extra = {f"extra.{i}.weight": np.ones(2, np.float32) for i in range(30)}
    text = printed(compare(base, tuned | extra))
    assert "30" in text
    assert "extra.0.weight" in text
    assert "only in tuned" in text


def test_strangers_names_cannot_speak_to_the_terminal():
    names = ["[bold red]x[/bold red].weight", "\x1b[2J.weight", "[/nothing].weight"]
    base = {name: np.ones(2, np.float32) for name in names}
    text = printed(compare(base, base | {name + "s": value for name, value in base.items()}), force_terminal=False)
    assert "\x1b" not in text
    assert "[bold red]x[/bold red]" in text


def test_the_headline_of_a_series_says_which_comparison_it_is_about(pair):
    base, tuned = pair
    steps = series([base, tuned, base])
    assert printed(last_against_first(steps), steps).startswith("the last checkpoint of the series against its first: identical: ")
    assert "the last checkpoint of the series against its first: identical: " in page(last_against_first(steps), steps)
    assert printed(compare(base, base)).startswith("identical: ")


def test_a_series_lists_its_steps(pair):
    steps = series([*pair, pair[0]])
    text = printed(steps[1].comparison, steps)
    assert text.count("previous") >= 2
    assert percent(steps[0].comparison.total.sparsity["bf16"]).removesuffix(" %") in text


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_long_layer_names_wrap_beside_whole_numbers(width):
    names = [
        f"{tower}.encoder.transformer_stack.layers.{i}.q_proj.weight" for tower in ("model.vision", "model.language") for i in range(3)
    ]
    base = {name: np.ones(8, np.float32) for name in names}
    comparison = compare(base, base | {names[0]: np.full(8, 2, np.float32)})
    text = printed(comparison, width=width)
    lines = [line.split() for line in text[text.index("by layer") :].splitlines()]
    exact = next(line for line in lines if line[:1] == ["exact"])
    assert exact[1:3] == ["0.00", "%"]
    assert exact.count("100.00") == 2


def test_undefined_numbers_are_dashes():
    text = printed(compare({"w": np.zeros(3, np.float32)}, {"w": np.array([np.nan, 1, 0], np.float32)}))
    assert "nan" not in text.replace("NaN", "")


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (1.0, "100.00 %"),
        (0.0, "0.00 %"),
        (0.5, "50.00 %"),
        (0.999999, "99.9999 %"),
        (1e-6, "0.0001 %"),
        (1 - 1e-10, "> 99.999999 %"),
        (1e-10, "< 0.000001 %"),
        (float("nan"), "-"),
    ],
)
def test_percentages_do_not_round_to_all_or_none(fraction, text):
    assert percent(fraction) == text
