"""Controls that differ in one thing: which pairs are compared, and what is told from 0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analyses import controls, laboratory
from analyses.studies import Numbers
from dynamics import InputError
from dynamics.presentation import style

SEEDS = range(5)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Numbers of RLVR and of its control on other programs: worse by 0.1 in pass@1, and equal on average in pass@16."""
    numbers = Numbers()
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        base = float(rng.normal(0.5, 0.1))  # differs between seeds, and cancels in pairs
        noise = float(rng.normal(0, 0.005))
        numbers.add(("pass@1", "rlvr, T=1", "test"), seed, base, 180)
        numbers.add(("pass@1", "rlvr, on proposed programs, T=1", "test"), seed, base - 0.1 + noise, 180)
        numbers.add(("pass@16", "rlvr, T=1", "test"), seed, base, 180)
        numbers.add(("pass@16", "rlvr, on proposed programs, T=1", "test"), seed, base + (0.02 if seed % 2 else -0.02), 180)
    monkeypatch.setattr(laboratory, "read", lambda _: numbers)
    return numbers


def runs(*labels: str) -> Any:
    return [SimpleNamespace(label=label) for label in labels]


def test_a_change_is_the_run_with_it_minus_the_run_without_it_by_seed(measured: Numbers) -> None:
    table = controls.measure(runs("sft", "rlvr", "rlvr, on proposed programs"))
    assert set(table["change"]) == {"on programs that self-play proposed"}  # of the others, a run is missing
    by_measure = table.set_index("measure")
    assert by_measure.loc["pass@1", "value"] == pytest.approx(-0.1, abs=0.01)
    assert by_measure.loc["pass@1", "high"] < 0
    assert by_measure.loc["pass@16", "low"] < 0 < by_measure.loc["pass@16", "high"]
    assert (table["seeds"] == len(SEEDS)).all()


def test_the_title_names_what_is_told_and_panels_are_of_what_was_measured(measured: Numbers) -> None:
    table = controls.measure(runs("rlvr", "rlvr, on proposed programs"))
    assert controls.headline(table).endswith("on programs that self-play proposed -0.10")
    assert controls.headline(table[table["measure"] != "pass@1"]).startswith("No single change")
    with style.use_style():
        axes = controls.figure(table).get_axes()
    assert [ax.get_title(loc="left") for ax in axes] == ["pass@1", "pass@16"]


def test_runs_without_a_control_are_refused(measured: Numbers) -> None:
    with pytest.raises(InputError, match="no control"):
        controls.measure(runs("sft", "rlvr"))
