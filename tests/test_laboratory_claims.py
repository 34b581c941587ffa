"""The claims about the laboratory, from folders of runs as training writes them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import laboratory, runs, studies
from analyses.claims import NOT_MEASURED, judge, table
from analyses.laboratory import CLAIMS
from analyses.presets import METHODS, PRESETS
from analyses.studies import PROMPTS
from analyses.verdicts import HOLDS, OPEN
from dynamics import InputError
from dynamics.presentation import style
from dynamics.sparsity.definitions import RULES
from dynamics.train import settings

#: sets and numbers of programs, fewer than there are
PROGRAMS = {"test": 30, "deeper": 5, "transfer": 5}


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


#: entropy of each role before training
ENTROPY = {"solver": 0.4, "proposer": 1.2}


def make_run(
    folder: Path,
    method: str,
    seed: int,
    gain: float,
    longer: float = 0.0,
    sparsity: float = 0.5,
    lost: dict[str, float] | None = None,
    harder: float = 0.15,
    **settings: str,
) -> None:
    """Write a run that gains on pass@1, of which validation answers grow longer and truer, and whose roles lose entropy."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "learning_rate": 3e-4, "model": "lab", **settings}
    run = {"schema": "dynamics.run/2", "method": method, "seed": seed, "preset": "lab", "config": config}
    (folder / "run.json").write_text(json.dumps(run))
    noise = np.random.default_rng([seed, 2, len(str(folder.name))]).normal(0, 0.004, 3)
    fall = {"solver": 0.1} | (lost or {})
    lines = [
        {"step": step, "loss": 0.5}
        | {f"sparsity/{rule}": sparsity + 0.001 * seed + noise[0] for rule in RULES}
        | {
            f"probe/{role}/entropy": ENTROPY[role] + noise[1] - min(step - 1, 7) / 7 * (by + noise[2] * len(role) / 6)
            for role, by in fall.items()
        }
        for step in range(1, 9)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    base = np.random.default_rng([seed, 0])
    for name, temperature, samples in (("greedy", 0.0, 1), ("T1", 1.0, 16)):
        model = "base, greedy" if temperature == 0 else "base, T=1"
        write_lines(folder / "evals" / f"base_{name}.jsonl", answers(base, model, 0.35, samples, PROGRAMS, temperature))
    rng = np.random.default_rng([seed, 1, len(method)])
    for name, temperature, samples in (("greedy", 0.0, 1), ("T=1", 1.0, 16)):
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
                "solve_rate": 0.8 - harder * phase + rng.normal(0, 0.05),
                "length": 5.0,
                "characters": 3,
            }
            for phase in range(4)
            for _ in range(20)
        ]
        write_lines(folder / "curriculum.jsonl", rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in which most of what the paper says is so."""
    tmp_path = tmp_path_factory.mktemp("runs")
    both = {"solver": 0.2, "proposer": 0.1}
    for seed in range(4):
        make_run(tmp_path / f"sft-{seed}", "sft", seed, 0.2, sparsity=0.2)
        make_run(tmp_path / f"rlvr-{seed}", "rlvr", seed, 0.6, longer=1.0, sparsity=0.9)
        make_run(tmp_path / f"selfplay-{seed}", "selfplay", seed, 0.3, lost=both)
        settings = {"proposer": "frozen"}
        make_run(tmp_path / f"frozen-{seed}", "selfplay", seed, 0.1, lost={"solver": 0.05, "proposer": 0.0}, harder=0.0, **settings)
        make_run(tmp_path / f"triangular-{seed}", "selfplay", seed, 0.3, lost=both, proposer_reward="triangular")
    return tmp_path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of these runs, to change."""
    return shutil.copytree(made, tmp_path / "runs")


def judged(folder: Path) -> pd.DataFrame:
    return table(judge(CLAIMS, laboratory.read(runs.find([folder])))).set_index("claim")


def test_the_claims_are_those_that_were_fixed() -> None:
    assert json.loads(laboratory.FIXED.read_text()) == json.loads(json.dumps(CLAIMS.to_dict() | {"digest": CLAIMS.digest}))
    assert (len(CLAIMS.claims), len(CLAIMS.rows)) == (8, 12)


def test_models_that_claims_name_are_those_of_the_preset() -> None:
    labels = {"base"}
    for method, varied in [
        *((method, {}) for method in METHODS),
        ("selfplay", {"proposer": "frozen"}),
        ("selfplay", {"proposer_reward": "triangular"}),
    ]:
        config = asdict(settings.METHODS[method](**settings.preset_values(method, "lab")))
        labels.add(runs.Run(Path("run"), {"method": method, "preset": "lab", "config": config | varied}).label)
    ends = re.compile(r"(, (solver|proposer))?(, (start|end))?(, (T=1|greedy))?$")
    names = {name for row in CLAIMS.rows for name in (row.model, row.control, row.other) if name}
    assert {ends.sub("", name) for name in names} == labels
    assert {"frozen", "triangular"} <= set(PRESETS["full"].selfplay_variants)


def test_claims_are_judged_from_a_folder_of_runs(made: Path) -> None:
    rows = judged(made)
    assert set(rows["seeds"]) == {4}
    assert NOT_MEASURED not in set(rows["verdict"])
    base = rows.loc["self-play beats its base"]
    assert (base["verdict"], base["programs"], base["effect"]) == (HOLDS, 30, pytest.approx(0.3, abs=0.06))
    between = rows.loc["self-play is between SFT and RLVR in sparsity"]
    assert (between["verdict"], between["effect"]) == (HOLDS, pytest.approx(0.3, abs=0.02))
    lose = rows.loc["both roles lose entropy, the proposer less"]
    assert list(lose["verdict"]) == [HOLDS, HOLDS]
    assert list(lose["effect"]) == pytest.approx([-0.1, 0.1], abs=0.03)
    entropy, curriculum, accuracy = rows.loc["a frozen proposer keeps entropy and loses curriculum and accuracy"].to_dict("records")
    assert entropy["effect"] == pytest.approx(0.15, abs=0.02)
    assert (curriculum["programs"], curriculum["effect"]) == (20, pytest.approx(-0.45, abs=0.05))
    assert accuracy["effect"] == pytest.approx(-0.2, abs=0.06)
    cost, left = rows.loc["the reward for p = 1/2 costs accuracy and leaves entropy"].to_dict("records")
    assert (cost["verdict"], left["verdict"]) == (OPEN, HOLDS)
    assert rows.loc["the reward for p = 1/2 costs accuracy and leaves entropy", "claim_verdict"].tolist() == [OPEN, OPEN]


def test_the_end_of_training_is_its_last_fifth_and_its_start_is_before_the_first_update(made: Path) -> None:
    found = laboratory.read(runs.find([made / "selfplay-1"])).numbers.values
    lines = [json.loads(line) for line in (made / "selfplay-1" / "metrics.jsonl").read_text().splitlines()]
    values = [line["probe/solver/entropy"] for line in lines]
    assert found["entropy", "selfplay, solver, start", PROMPTS] == {1: values[0]}
    assert found["entropy", "selfplay, solver, end", PROMPTS] == {1: values[-1]}  # a fifth of eight is one
    assert found["entropy lost", "selfplay, solver", PROMPTS][1] == pytest.approx(values[0] - values[-1])


def test_the_share_of_true_steps_is_a_ratio_over_all_answers(made: Path) -> None:
    pilots = studies.read(runs.find([made]))
    scores = pilots.scores("true/written", "rlvr, last step, T=1", "validation")
    for number, seed in enumerate(scores.seeds):
        rows = [json.loads(line) for line in (made / f"rlvr-{seed}" / "validation" / "step_8.jsonl").read_text().splitlines()]
        own = [row["steps"] for row in rows if row["split"] == "validation"]
        assert scores.values[number].mean() == pytest.approx(sum(row["true"] for row in own) / sum(row["written"] for row in own))
    assert not scores.proportions


def test_the_command_writes_tables_and_figure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert laboratory.STUDY.main([str(folder), "--out", str(out)]) == 0
    assert "The claims are those that were fixed in primary_claims.json" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {f"laboratory{end}" for end in (".png", ".svg", ".csv", "-curves.csv", ".md")}
    curves = pd.read_csv(out / "laboratory-curves.csv")
    assert set(curves["panel"]) == {"claims", "test", "deeper", "transfer", "length", "true/written", "proposals"}
    assert set(curves.loc[curves["panel"] == "test", "label"]) == {"sft", "rlvr", "selfplay"}
    rows = curves[curves["panel"] == "claims"]
    assert len(rows) == 12
    assert rows.loc[rows["verdict"] == HOLDS, "low"].ge(0).sum() >= 3  # as claimed is the right side
    with style.use_style():
        ax = laboratory.forest(curves, style.new_figure(7, 4).subplots())
    filled = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() in "o<>" and len(line.get_xdata())]
    assert [face == "white" for face in filled] == [verdict == OPEN for verdict in rows.dropna(subset="low")["verdict"]]
    without = rows["low"].isna().sum()  # seeds that agree exactly
    assert sum(text.get_text().endswith("no interval") for text in ax.texts) == without
    gain = curves[(curves["panel"] == "test") & (curves["label"] == "rlvr")]
    assert sorted(gain["at"]) == [0, 1]
    length = curves[(curves["panel"] == "length") & (curves["label"] == "rlvr")]
    assert length["at"].tolist() == [0, 4, 8]
    known = curves.dropna(subset="low")
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()
    assert "4 seeds" in laboratory.caption(curves)


def test_claims_are_fixed_before_the_runs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert laboratory.STUDY.main([str(folder), "--fix"]) == 0
    assert laboratory.STUDY.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "those that were fixed in claims.json" in capsys.readouterr().out
    file = folder / "claims.json"
    file.write_text(file.read_text().replace(CLAIMS.digest, "0" * 12))
    assert laboratory.STUDY.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "they were changed after they were fixed" in capsys.readouterr().err


def test_what_runs_do_not_have_leaves_rows_unmeasured(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"selfplay-{seed}", "selfplay", seed, 0.2)
        (tmp_path / f"selfplay-{seed}" / "metrics.jsonl").unlink()
    rows = judged(tmp_path)
    assert (rows["verdict"] == NOT_MEASURED).sum() == 9
    assert rows.loc["self-play is between SFT and RLVR in sparsity", "reason"] == "no sparsity of selfplay on weights"
    assert (
        rows.loc["both roles lose entropy, the proposer less", "reason"].iloc[0] == "no entropy of selfplay, proposer, end on fixed prompts"
    )
    hardening = "no hardening of selfplay, frozen proposer on proposals"
    assert hardening in set(rows.loc["a frozen proposer keeps entropy and loses curriculum and accuracy", "reason"])


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
        for other in folder.glob("*/evals/base_T1.jsonl"):
            if other != file:
                other.unlink()
    with pytest.raises(InputError, match=message):
        studies.read(runs.find([folder]))


def test_a_run_that_was_stopped_is_not_taken_for_a_seed(folder: Path) -> None:
    (folder / "rlvr-1" / "validation" / "step_8.jsonl").unlink()
    with pytest.raises(InputError, match=r"rlvr-1: was validated up to step 4, and .*rlvr-0 up to 8; finish the shorter one"):
        studies.read(runs.find([folder]))
