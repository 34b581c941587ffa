"""The scripts of the comparison: on two tiny runs made for it, and on hand-made numbers."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import comparison, confound, entropy_dynamics, forgetting, question, runs, support
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
    table = table[table["rule"] == "bf16"]
    stored = table.pivot_table(index="label", columns="stored", values="value")
    assert (stored["as trained"] == stored["bfloat16"]).all()  # what the rule rounds is what such a file holds
    table = table[table["stored"] == "as trained"]
    slow = table[table["label"] == "sft, learning rate 3e-05"]["value"].item()
    assert slow == pytest.approx(found["sft-slow-0"].metrics["sparsity/bf16"].dropna().iloc[-1], abs=1e-6)
    spread = {row["rule"]: row for row in confound.spreads(table)}
    plain = table[table["label"] == "sft"]["value"].item()
    assert spread["bf16"]["settings"] == pytest.approx(slow - plain)


def test_what_only_one_solved_and_how_unlikely_the_base_found_it(folder: Path) -> None:
    found = runs.find([folder / "rlvr-0"])
    table = support.measure(found)
    shares = table[table["part"] == "share"]
    assert shares["value"].sum() == pytest.approx(1)
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()
    answers = table[table["part"] == "answer"]
    assert (answers["value"] < 0).all()
    rows = [row for file in (folder / "rlvr-0" / "evals").glob("rlvr*") for row in runs.lines(file)]
    assert len(answers) == len({row["problem"] for row in rows if row["correct"]})


def test_the_base_is_at_no_distance_from_itself(folder: Path) -> None:
    places = runs.find([folder / "sft-0"])[0].checkpoints
    still, moved = forgetting.distances(places[0], places[0]), forgetting.distances(places[0], places[-1])
    for kind in ("solving", "proposing"):
        assert (still[kind]["kl"], still[kind]["loss"]) == (0, 0)
        assert moved[kind]["kl"] > 0


def test_the_readme_has_the_verdicts_of_the_figures(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    table = pd.read_csv(root / "figures" / "verdicts.csv")
    copy = tmp_path / "README.md"
    copy.write_text((root / "README.md").read_text())
    comparison.fill(copy, table)
    assert copy.read_text() == (root / "README.md").read_text()


@pytest.mark.parametrize("preset", runs.PRESETS)
def test_every_command_of_a_preset_is_one_that_would_run(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from dynamics import passk, sparsity, spectra

    monkeypatch.chdir(tmp_path)
    for line in runs.commands(preset, Path("runs")):
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "dynamics.train"]:
            parser = argparse.ArgumentParser()
            parser.add_argument("--out", required=True)
            config.add_options(parser, words[3])
            parser.add_argument("--preset")
            options = parser.parse_args(words[4:])
            assert config.resolve(words[3], options).steps > 0
        elif words[0] == "python":
            module = {"dynamics.sparsity": sparsity, "dynamics.spectra": spectra, "dynamics.passk": passk}[words[2]]
            assert module._parser().parse_args(words[3:]).json
        else:
            assert words[0] in ("evalplus.codegen", "lm_eval")


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
