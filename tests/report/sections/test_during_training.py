"""Curves of validation, kinds of tokens and coverage in a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dynamics.presentation import style
from dynamics.report import during_training
from dynamics.report.section import Options
from dynamics.report.sections import curves
from dynamics.runs import open_run
from dynamics.runs.schema import SCHEMA


def answer(problem: str, step: int, temperature: float, correct: bool, written: int = 2, true: int = 1, **more) -> dict:
    steps = {"written": written, "true": true, "on_path": 0, "repeated": 0, "needed": 2, "covered": 0}
    row = {"problem": problem, "program": f"int: {problem[0]}", "depth": 1 + len(problem) % 2, "task": "deduction", "split": "validation"}
    return row | {"step": step, "temperature": temperature, "correct": correct, "length": 5, "scratchpad": 4, "steps": steps} | more


def a_run(folder: Path, answers: list[dict], **series: list[float]) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"schema": SCHEMA, "method": "rlvr", "preset": None, "config": {}}))
    lines = [{"step": step + 1} | {name: values[step] for name, values in series.items()} for step in range(12)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "validation").mkdir()
    for step in {row["step"] for row in answers}:
        rows = "".join(json.dumps(row) + "\n" for row in answers if row["step"] == step)
        (folder / f"validation/step_{step}.jsonl").write_text(rows)
    return folder


@pytest.fixture
def answers() -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        answer(f"{letter}{number}", step, temperature, bool(rng.random() < 0.3 + 0.03 * step), true=int(rng.integers(0, 3)))
        for step in (0, 6, 12)
        for letter in "abcdefghijklmnopqrst"
        for number in ("1", "22")
        for temperature in (0.0, 1.0)
    ]


SERIES = {
    "reward": list(np.linspace(0.1, 0.5, 12)),
    "coverage/programs": list(range(5, 17)),
    "probe/solver/entropy/part=first": [0.5] * 12,
} | {f"probe/solver/{name}/kind={kind}": [0.1] * 12 for kind in ("result", "step_mark") for name in ("entropy", "tokens")}


def test_validation_is_estimated_by_program(answers: list[dict], tmp_path: Path) -> None:
    section = curves.make([open_run(a_run(tmp_path / "a", answers, **SERIES))], Options())
    assert section.incomplete == []
    tables = {table.name: table.frame for table in section.tables}
    table = tables["validation_curves"].set_index(["measure", "manner", "step"])
    frame = pd.DataFrame(answers)
    for (temperature, step), part in frame.groupby(["temperature", "step"]):
        row = table.loc[("pass@1", "T=1" if temperature else "greedy", step)]
        assert row["value"] == part["correct"].mean()
        assert row["low"] < row["value"] < row["high"]
        assert row["units"] == 20  # programs, with two problems each
        true = sum(steps["true"] for steps in part["steps"])
        assert table.loc[("true_steps", "T=1" if temperature else "greedy", step)]["value"] == true / (2 * len(part))
    changes = tables["validation_changes"].set_index(["measure", "manner", "group"])
    sampled = frame[frame["temperature"] == 1].groupby("step")["correct"].mean()
    assert changes.loc[("pass@1", "T=1", "all")]["change"] == pytest.approx(sampled[12] - sampled[0])
    assert {group for _, _, group in changes.index} == {"all", "depth=1", "depth=2"}  # all are of one task and set
    (told,) = (finding for finding in section.findings if finding.key == "validation_pass@1_change")
    assert told.value == pytest.approx(sampled[12] - sampled[0])
    assert [picture.name for picture in section.pictures] == ["training_curves", "validation", "entropy_by_kind", "coverage"]
    with style.use_style():
        for picture in section.pictures:
            for width in (style.TWO_COLUMN, style.PHONE):
                assert picture.draw(width=width).axes


def test_what_is_no_answer_is_counted(answers: list[dict], tmp_path: Path) -> None:
    odd = [{"step": 0, "problem": 5, "correct": True}, {"step": 0, "problem": "p", "correct": "yes"}]
    huge = answer("a1", 0, 1.0, True) | {"length": -3, "scratchpad": 1e300, "steps": [1], "depth": "<script>"}
    section = curves.make([open_run(a_run(tmp_path / "a", [*answers, *odd, huge], **SERIES))], Options())
    (line,) = section.incomplete
    assert "2 lines are no graded answers" in line
    table = next(table.frame for table in section.tables if table.name == "validation_curves")
    assert table[table["measure"] == "length"]["value"].eq(5).all()


def test_runs_without_have_no_such_figures(tmp_path: Path) -> None:
    section = curves.make([open_run(a_run(tmp_path / "a", [], reward=SERIES["reward"]))], Options())
    assert [picture.name for picture in section.pictures] == ["training_curves"]


def test_two_runs_stand_beside_each_other(answers: list[dict], tmp_path: Path) -> None:
    first, second = (open_run(a_run(tmp_path / name, answers, **SERIES)) for name in "ab")
    section = curves.make([first, second], Options())
    changes = next(table for table in section.tables if table.name == "validation_changes")
    assert changes.show["run"] == "run"
    assert set(changes.frame["run"]) == {"a", "b"}
    told = [finding for finding in section.findings if finding.key.startswith("validation_pass@1")]
    assert [finding.run for finding in told] == ["a", "b"]
    assert told[0].value == told[1].value


def test_intervals_of_shares_of_steps_cover() -> None:
    """Simulated programs with effects of their own, and answers with one to four steps."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        rows = []
        for unit in range(40):
            chance = rng.uniform(0.5, 0.9)
            for _ in range(2):
                written = int(rng.integers(1, 5))
                rows.append({"unit": str(unit), "written": float(written), "true": float(rng.binomial(written, chance))})
        found = during_training.estimate(pd.DataFrame(rows), "true_steps", 0)
        covered += found.low <= 0.7 <= found.high
    assert 0.91 < covered / 300 < 0.985
