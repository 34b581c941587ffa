"""The claims about the laboratory, from folders of runs as training writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import laboratory, runs, studies
from analyses.claims import NOT_MEASURED, judge, table
from analyses.laboratory import CLAIMS
from analyses.verdicts import HOLDS, OPEN
from dynamics import InputError

#: sets and numbers of programs, fewer than there are
PROGRAMS = {"test": 30, "deeper": 20, "transfer": 30}


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(rng: np.random.Generator, model: str, level: float, samples: int, sets: dict[str, int], temperature: float) -> list[dict]:
    return [
        {"model": model, "problem": f"{name} {number}", "sample": sample, "correct": bool(rng.random() < level), "temperature": temperature}
        | {"task": "deduction", "split": name, "program": f"{name} program {number}", "completion_ids": [1] * 9}
        for name, count in sets.items()
        for number in range(count)
        for sample in range(samples)
    ]


def make_run(folder: Path, method: str, seed: int, gain: float, longer: float = 0.0) -> None:
    """Write a run that gains on pass@1, and of which validation answers grow longer and truer."""
    folder.mkdir(parents=True)
    run = {"schema": "dynamics.run/2", "method": method, "seed": seed, "config": {"seed": seed, "learning_rate": 3e-4}}
    (folder / "run.json").write_text(json.dumps(run))
    base = np.random.default_rng([seed, 0])
    for name, temperature, samples in (("greedy", 0.0, 1), ("T1", 1.0, 4)):
        model = "base, greedy" if temperature == 0 else "base, T=1"
        write_lines(folder / "evals" / f"base_{name}.jsonl", answers(base, model, 0.35, samples, PROGRAMS, temperature))
    rng = np.random.default_rng([seed, 1, len(method)])
    for name, temperature, samples in (("greedy", 0.0, 1), ("T=1", 1.0, 8)):
        rows = answers(rng, f"{method}, 8 steps, {name}", 0.35 + gain, samples, PROGRAMS, temperature)
        write_lines(folder / "evals" / f"trained_{name}.jsonl", rows)
    for step in (0, 4, 8):
        rows = answers(rng, f"{method}, step {step}, T=1", 0.3, 2, {"validation": 30, "transfer validation": 10}, 1.0)
        for row in rows:
            del row["completion_ids"]
            written = int(rng.integers(1, 4))
            true = int(rng.binomial(written, 0.5 + 0.05 * step))
            row |= {"step": step, "length": 10 + longer * step + int(rng.integers(3)), "steps": {"written": written, "true": true}}
        write_lines(folder / "validation" / f"step_{step}.jsonl", rows)
    if method == "selfplay":
        rows = [
            {
                "phase": phase,
                "step": phase,
                "program": "x+1",
                "solve_rate": 0.8 - 0.15 * phase + rng.normal(0, 0.05),
                "length": 5.0,
                "characters": 3,
            }
            for phase in range(4)
            for _ in range(20)
        ]
        write_lines(folder / "curriculum.jsonl", rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        make_run(tmp_path / f"rlvr-{seed}", "rlvr", seed, 0.6, longer=1.0)
        make_run(tmp_path / f"selfplay-{seed}", "selfplay", seed, 0.0)
    return tmp_path


def judged(folder: Path) -> pd.DataFrame:
    return table(judge(CLAIMS, studies.read(runs.find([folder])))).set_index("claim")


def test_claims_are_judged_from_a_folder_of_runs(folder: Path) -> None:
    rows = judged(folder)
    assert set(rows["seeds"]) == {3}
    assert rows.loc["RLVR beats its greedy base on unseen programs", ["verdict", "programs"]].tolist() == [HOLDS, 30]
    assert rows.loc["self-play beats its greedy base on unseen programs", "verdict"] == OPEN
    longer = rows.loc["RLVR's answers grow longer"]
    assert (longer["verdict"], longer["programs"]) == (HOLDS, 30)  # of the set validation alone
    assert longer["effect"] == pytest.approx(8, abs=0.3)
    assert rows.loc["RLVR's steps become truer", "effect"] == pytest.approx(0.4, abs=0.08)
    harder = rows.loc["self-play's proposals grow harder"]
    assert (harder["verdict"], harder["programs"]) == (HOLDS, 20)
    assert harder["effect"] == pytest.approx(-0.45, abs=0.05)


def test_the_share_of_true_steps_is_a_ratio_over_all_answers(folder: Path) -> None:
    pilots = studies.read(runs.find([folder]))
    scores = pilots.scores("true/written", "rlvr, last step, T=1", "validation")
    for number, seed in enumerate(scores.seeds):
        rows = [json.loads(line) for line in (folder / f"rlvr-{seed}" / "validation" / "step_8.jsonl").read_text().splitlines()]
        own = [row["steps"] for row in rows if row["split"] == "validation"]
        assert scores.values[number].mean() == pytest.approx(sum(row["true"] for row in own) / sum(row["written"] for row in own))
    assert not scores.proportions


def test_the_command_writes_tables_and_figure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert laboratory.STUDY.main([str(folder), "--out", str(out)]) == 0
    assert "were not fixed before the runs" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {f"laboratory{end}" for end in (".png", ".svg", ".csv", "-curves.csv", ".md")}
    curves = pd.read_csv(out / "laboratory-curves.csv")
    assert set(curves["panel"]) == {"test", "deeper", "transfer", "length", "true/written", "proposals"}
    gain = curves[(curves["panel"] == "test") & (curves["label"] == "rlvr")]
    assert sorted(gain["at"]) == [0, 1]
    length = curves[(curves["panel"] == "length") & (curves["label"] == "rlvr")]
    assert length["at"].tolist() == [0, 4, 8]
    assert ((curves["low"] <= curves["value"]) & (curves["value"] <= curves["high"])).all()
    assert "3 seeds" in laboratory.caption(curves)


def test_claims_are_fixed_before_the_runs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert laboratory.STUDY.main([str(folder), "--fix"]) == 0
    assert laboratory.STUDY.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "were not fixed" not in capsys.readouterr().out
    file = folder / "claims.json"
    file.write_text(file.read_text().replace(CLAIMS.digest, "0" * 12))
    assert laboratory.STUDY.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "they were changed after they were fixed" in capsys.readouterr().err


def test_runs_without_validation_or_proposals_leave_rows_unmeasured(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"rlvr-{seed}", "rlvr", seed, 0.2)
        for path in (tmp_path / f"rlvr-{seed}" / "validation").iterdir():
            path.unlink()
    rows = judged(tmp_path)
    assert (rows["verdict"] == NOT_MEASURED).sum() == 6
    assert "self-play needs --curriculum" in rows.loc["self-play's proposals grow harder", "reason"]
    assert rows.loc["RLVR's answers grow longer", "reason"] == "no samples of rlvr, last step, T=1 on validation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"correct": true', '"correct": false'), "gave other answers than in"),
        (lambda text: text.replace('"program"', '"other"'), "names no program"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(folder: Path, change: Callable[[str], str], message: str) -> None:
    file = folder / "selfplay-1" / "evals" / "base_T1.jsonl"
    file.write_text(change(file.read_text()))
    if "program" in message:
        file.with_name("base_greedy.jsonl").unlink()
        for other in folder.glob("rlvr-*/evals/base_T1.jsonl"):
            other.unlink()
    with pytest.raises(InputError, match=message):
        studies.read(runs.find([folder]))


def test_a_run_that_was_stopped_is_not_taken_for_a_seed(folder: Path) -> None:
    (folder / "rlvr-1" / "validation" / "step_8.jsonl").unlink()
    with pytest.raises(InputError, match=r"rlvr-1: was validated up to step 4, and .*rlvr-0 up to 8; finish the shorter one"):
        studies.read(runs.find([folder]))
