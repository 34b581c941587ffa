"""The scripts of the comparison: on two tiny runs made for it, and on hand-made numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import comparison, confound, entropy_dynamics, question, runs
from analyses.question import FAILS, HOLDS, OPEN, Verdict, over_seeds
from dynamics import InputError
from dynamics.train import config, loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short run a method, with everything that the scripts read."""
    target = tmp_path_factory.mktemp("runs")
    shared = {"steps": 3, "eval_problems": 9, "eval_samples": 4, "eval_temperatures": "1,0"}
    loop.run("sft", config.SFT(batch=4, problems=16, **shared), target / "sft-0")  # type: ignore[arg-type]
    loop.run("sft", config.SFT(batch=4, problems=16, learning_rate=3e-5, record_every=1, **shared), target / "sft-slow-0")  # type: ignore[arg-type]
    loop.run("rlvr", config.RLVR(prompts=3, group=4, problems=16, **shared), target / "rlvr-0")  # type: ignore[arg-type]
    game = {"prompts": 4, "group": 4, "seeding": 4, "curriculum": 4}
    loop.run("selfplay", config.SelfPlay(**game, **shared), target / "selfplay-0")  # type: ignore[arg-type]
    return target


def test_everything_is_built_from_run_directories(folder: Path, tmp_path: Path) -> None:
    paths = comparison.build(runs.find([folder]), tmp_path / "figures")
    assert all(path.stat().st_size for path in paths)
    names = {path.stem for path in paths if path.suffix == ".csv"}
    assert names == {module.__name__.rpartition(".")[2] for module in comparison.QUESTIONS} | {"verdicts"}
    verdicts = pd.read_csv(tmp_path / "figures" / "verdicts.csv")
    assert set(verdicts["verdict"]) <= {HOLDS, FAILS, OPEN}
    single = verdicts[verdicts["interval"].str.startswith("Student")]
    assert len(single)
    assert (single["verdict"] == OPEN).all()  # one seed can tell nothing about seeds
    page = (tmp_path / "figures" / "report.html").read_text()
    assert all(module.TITLE in page for module in comparison.QUESTIONS)
    assert not re.search(r"(src|href)=.?https?:", page)  # nothing is fetched


def test_a_script_runs_by_itself(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert question.main(entropy_dynamics, [str(folder), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "entropy_dynamics.svg").exists()
    assert question.main(entropy_dynamics, [str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_sparsity_and_labels_agree_with_the_run(folder: Path) -> None:
    found = {run.path.name: run for run in runs.find([folder])}
    assert [run.label for run in found.values()] == ["sft", "sft, learning rate 3e-05", "rlvr", "selfplay"]
    assert [run.path.name for run in runs.plain(list(found.values()))] == ["sft-0", "rlvr-0", "selfplay-0"]
    table = confound.measure(list(found.values()))
    slow = table[(table["label"] == "sft, learning rate 3e-05") & (table["rule"] == "bf16")]["value"].item()
    assert slow == pytest.approx(found["sft-slow-0"].metrics["sparsity/bf16"].dropna().iloc[-1], abs=1e-6)
    spread = {row["rule"]: row for row in confound.spreads(table)}
    plain = table[(table["label"] == "sft") & (table["rule"] == "bf16")]["value"].item()
    assert spread["bf16"]["settings"] == pytest.approx(slow - plain)


def test_a_verdict_is_its_interval() -> None:
    def verdict(low: float, high: float, expected: int) -> str:
        return Verdict("", "", (low + high) / 2, low, high, 2, "", expected).verdict

    assert [verdict(0.1, 0.2, 1), verdict(0.1, 0.2, -1), verdict(-0.2, -0.1, -1), verdict(-0.1, 0.2, 1)] == [HOLDS, FAILS, HOLDS, OPEN]
    assert verdict(math.nan, math.nan, 1) == OPEN


def test_the_interval_over_seeds_is_students() -> None:
    mean, low, high = over_seeds([1.0, 2.0])
    assert (mean, high - mean) == pytest.approx((1.5, 12.706 * 0.5), rel=1e-3)
    assert low == pytest.approx(2 * mean - high)
    assert over_seeds([3.0])[0] == 3.0
    assert math.isnan(over_seeds([3.0])[1])


def test_the_exponential_fit_finds_its_own_curve() -> None:
    entropy = np.linspace(0.1, 1.0, 20)
    a, b, share = entropy_dynamics.fit(entropy, 0.9 - 0.3 * np.exp(entropy))
    assert (a, b, share) == pytest.approx((0.3, 0.9, 1.0))


def test_presets_name_options_that_exist_and_reuse_what_is_finished(folder: Path, tmp_path: Path) -> None:
    for preset in runs.PRESETS:
        plan = runs.plan(preset)
        assert len({" ".join(options) for options in plan.values()}) == len(plan)
        for name, options in plan.items():
            assert not runs._finished(tmp_path / name, options)  # also parses the options
    options = [
        "sft",
        *["--steps", "3", "--eval-problems", "9", "--eval-samples", "4", "--eval-temperatures", "1,0", "--batch", "4", "--problems", "16"],
    ]
    assert runs._finished(folder / "sft-0", options)
    assert not runs._finished(folder / "sft-0", [*options, "--seed", "1"])
    record = json.loads((folder / "sft-0" / "run.json").read_text())
    assert record["status"] == "finished"
    with pytest.raises(InputError, match="unknown"):
        runs.plan("huge")
