"""Simulated studies: they pass through what real samples pass through, and errors are as rare as stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import simulation
from analyses.claims import Graded, judge
from analyses.simulation import FAMILY, MARGIN, TRUTHS, Simulated, World, simulate
from dynamics.train.lab.problems import SETS


def test_simulated_studies_are_judged_as_their_samples_are() -> None:
    """The numbers of correct samples, and the samples written out one by one, give the same rows."""
    source = Simulated(World(3, gains=(0.0, 0.1, 0.2), problems=2), 2, np.random.default_rng(0))
    together = judge(FAMILY, source)
    alone = judge(FAMILY, Graded(source.table(1)))
    assert alone.p == pytest.approx(together.p[1])
    assert (alone.verdicts == together.verdicts[1]).all()
    for one, many in zip(alone.rows, together.rows, strict=True):
        assert (one.problems, one.programs) == (many.problems, many.programs)
        assert one.found.program_error == pytest.approx(many.found.program_error[1])
    assert [row.programs for row in together.rows[:4]] == [sum(SETS[name][1].values()) for name in ("test", "test", "deeper", "transfer")]


def test_null_studies_rarely_give_a_verdict_and_intervals_cover() -> None:
    outcome = simulate(World(3, program_sd=0.2, seed_sd=0.03), 120, compared=120)
    assert np.abs(outcome.truth).max() < 0.002
    assert outcome.false.mean() <= 0.05
    assert outcome.covered.mean(axis=0).min() > 0.9
    covered = {name: results[:, 0].mean() for name, results in outcome.constructions.items()}
    assert covered["quadrature of both (used)"] > max(covered["Student over seeds"], covered["cluster bootstrap over programs"])


def test_programs_alone_say_nothing_of_other_seeds() -> None:
    outcome = simulate(World(3, program_sd=0.0, seed_sd=0.1), 60, compared=60)
    covered = {name: results[:, 0].mean() for name, results in outcome.constructions.items()}
    assert covered["cluster bootstrap over programs"] < 0.75
    assert covered["quadrature of both (used)"] > 0.9


def test_true_effects_are_found() -> None:
    outcome = simulate(World(8, program_sd=0.1, seed_sd=0.01, gains=(0.0, 0.15, 0.25)), 60)
    assert outcome.verdicts[:, :3].mean() > 0.9
    assert outcome.false.mean() <= 0.1
    assert outcome.covered.mean() > 0.93
    equivalence = [number for number, row in enumerate(FAMILY.rows) if not row.direction]
    assert outcome.truth[equivalence[0]] == pytest.approx(0.1, abs=2e-3)
    assert outcome.verdicts[:, equivalence].max() < 1  # they differ by more than the margin


def test_a_verdict_is_false_if_it_says_what_is_not_so() -> None:
    truth = [0.1 if row.direction else 0.5 * row.margin for row in FAMILY.rows]
    directions = np.array([row.direction or 1 for row in FAMILY.rows])
    assert not simulation.is_false(directions, truth, FAMILY).any()
    assert simulation.is_false(-directions, truth, FAMILY).all()
    assert not simulation.is_false(np.zeros(len(truth)), truth, FAMILY).any()
    nothing = [0.0 if row.direction else row.margin for row in FAMILY.rows]
    false = simulation.is_false(np.ones(len(truth)), nothing, FAMILY)
    assert false.all()  # no direction where there is none, and not "the same" at the margin


def test_the_command_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "TRUTHS", {"no effects": TRUTHS["no effects"]})
    monkeypatch.setattr(simulation, "DRAWS", 20_000)
    assert simulation.main(["--studies", "4", "--seeds", "2", "--out", str(tmp_path / "new")]) == 0
    assert "false verdicts in a family: at most" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "new" / "simulation.csv")
    assert len(table) == 9
    assert (table["false_low"] <= table["false"]).all()
    assert (tmp_path / "new" / "constructions.csv").exists()
    assert simulation.main(["--seeds", "1"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("truth", TRUTHS)
def test_a_family_gives_a_false_verdict_in_at_most_five_of_a_hundred_studies(truth: str, seeds: int) -> None:
    for program_sd, seed_sd in ((0.0, 0.0), (0.2, 0.0), (0.2, 0.03), (0.0, 0.03)):
        outcome = simulate(World(seeds, program_sd, seed_sd, gains=TRUTHS[truth]), 2000)
        low, _ = simulation.binomial_interval(int(outcome.false.sum()), 2000)
        assert low <= 0.05
        assert outcome.covered.mean(axis=0).min() > 0.93
    assert MARGIN == 0.05
