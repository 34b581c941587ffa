"""Proposer rewards by hand-computed cases and known curves; the game's bookkeeping."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from dynamics.errors import InputError
from dynamics.train import opponent_rewards
from dynamics.train import proposer_rewards as rewards
from dynamics.train.proposer_rewards import SolveRates, combine, expected, find

P = np.array([0.0, 0.25, 0.5, 1.0])


def rates(rate=P, repetition=0.0, diversity=1.0) -> SolveRates:
    return SolveRates(rate, 8, np.full(len(rate), repetition), np.full(len(rate), diversity))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("one_minus", [0, 0.75, 0.5, 0]),
        ("azr_code", [-0.5, 0.75, 0.5, -0.5]),
        ("inverse", [1, 0.75, 0.5, 0]),
        ("triangular", [0, 0.5, 1, 0]),
        ("r_zero", [0, 0.25, 0.5, 0]),
        ("variance", [0, 0.75, 1, 0]),
        ("goldilocks", [0, 1, 1, 0]),
        ("spice", [np.exp(-(0.25**2) / 0.02), np.exp(-(0.0625**2) / 0.02), 1, np.exp(-(0.25**2) / 0.02)]),
        ("pasodoble", [0, 1.05, 0.8, 0.3]),
        ("lsp", [0.4375, 0.1875, -0.0625, -0.5625]),
        ("swe_rl", [-0.8, 0.55, 0.1, -0.8]),
    ],
)
def test_rewards(name: str, values: list[float]) -> None:
    np.testing.assert_allclose(find(name)(rates()), values, atol=1e-12)


def test_every_entry_is_tested() -> None:
    tested = {case[0] for mark in test_rewards.pytestmark for case in mark.args[1]}
    assert tested == set(rewards.REWARDS)


def test_repetition_and_diversity() -> None:
    np.testing.assert_allclose(find("r_zero")(rates(repetition=0.2)), [-0.2, 0.05, 0.3, -0.2])
    np.testing.assert_allclose(find("pasodoble")(rates(diversity=0.3)), 0)


def test_the_estimate_bends_the_curve() -> None:
    p = np.linspace(0, 1, 1001)
    curve = expected("one_minus", p, 8)
    np.testing.assert_allclose(curve, (1 - p) - (1 - p) ** 8, atol=1e-12)
    assert p[curve.argmax()] == pytest.approx(0.257, abs=1e-3)
    code = expected("azr_code", p, 8)
    np.testing.assert_allclose(code, (1 - p) - 1.5 * (1 - p) ** 8 - 0.5 * p**8, atol=1e-12)
    assert p[code.argmax()] == pytest.approx(0.299, abs=1e-3)


@pytest.mark.parametrize("name", sorted(set(rewards.REWARDS) - {"lsp"}))
def test_expected_is_the_mean_of_draws(name: str) -> None:
    rng = np.random.default_rng(0)
    rate = rng.binomial(8, 0.3, 200_000) / 8
    drawn = find(name)(rates(rate))
    assert expected(name, 0.3, 8) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / len(drawn) ** 0.5 + 1e-9)


@pytest.mark.parametrize(("how", "value"), [("sum", 1.2), ("multiply", 0.05), ("sum_multiply", 0.6), ("multiply_sum", 0.35)])
def test_four_ways_to_combine(how: str, value: float) -> None:
    made = combine(np.array([0.5, -1.0, 0.0]), np.array([[0.2, 0.5]] * 3), how)
    np.testing.assert_allclose(made, [value, -1, 0])
    np.testing.assert_allclose(combine(np.array([0.5]), np.zeros((1, 0)), how), [0.5])


def test_terms_of_programs() -> None:
    assert rewards.complexity("x+1") == 0
    nested = "def f(x):\n    for a in x:\n        if a and x:\n            return a"
    assert rewards.complexity(nested) == pytest.approx((1 + 2 + 1) / 15)
    assert rewards.edit_distance("x+1", ["x+1"]) == 0
    assert 0 < rewards.edit_distance("x+1", ["sorted(x)[::-1]"]) < 1
    assert rewards.halstead("x") < rewards.halstead("x*3+x//2") < 1
    assert rewards.surprise(3, Counter()) == 1
    assert rewards.surprise(3, Counter({"int 3": 1, "int 4": 1, "str 'a'": 2})) == pytest.approx(1 - 0.5 * (0.25 + 0.5))
    assert rewards.complexity("((((") == 0


def test_a_reward_of_ones_own(monkeypatch, tmp_path) -> None:
    (tmp_path / "myreward.py").write_text("def half(e):\n    return e.rate * 0 + 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    np.testing.assert_allclose(find("myreward:half")(rates()), 0.5)
    for name in ("one_minsu", "nomodule:f", "math:nofunction"):
        with pytest.raises(InputError, match="reward"):
            find(name)


def test_the_figure(tmp_path) -> None:
    from dynamics.train.games.plot_rewards import write

    paths = write(tmp_path / "new" / "f.png")
    assert [path.name for path in paths] == ["f.png", "f.csv"]
    assert paths[0].stat().st_size > 10_000
    table = pd.read_csv(paths[1])
    assert set(table["reward"]) == {*rewards.REWARDS, *opponent_rewards.REWARDS}
    end = table[(table["reward"] == "one_minus") & (table["p"] == 1)]
    np.testing.assert_allclose(end["expected"], 0)


@pytest.mark.parametrize(
    "program", ["def f(x):\n    return 0x" + "f" * 20000, "x" + "+1" * 2000, "(" * 5000, "'\ud800'", "x + '\\d'", "\0"]
)
def test_terms_of_hostile_programs(program: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for term in (rewards.complexity(program), rewards.edit_distance(program, [program, "x"]), rewards.halstead(program)):
            assert 0 <= term <= 1
