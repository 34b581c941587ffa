"""The command ``python -m dynamics.games``: runs of this project and of others, what is missing, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamics.games.__main__ import cli
from dynamics.games.comparison import phases_of
from dynamics.runs.directory import RunDirectory

RUNS = Path(__file__).parent.parent / "data" / "runs"


def proposal(program: str, valid: bool = True, claim: bool | None = None, **more: Any) -> dict[str, Any]:
    row = {"prompt": "p", "completion": f"{program}<in>1", "role": "proposer", "task": "deduction", "reward": 0.5, "valid": valid} | more
    if valid:
        row["entry"] = {"kind": "deduction", "program": program, "inputs": "((1,),)", "message": "", "outputs": "(1,)", "step": 1}
    return row | ({} if claim is None else {"claim_correct": claim})


def answer(prompt: str, text: str, correct: bool, **more: Any) -> dict[str, Any]:
    row = {"prompt": prompt, "completion": text, "role": "solver", "task": "deduction", "reward": float(correct), "correct": correct}
    return row | more


STEPS = [
    [proposal("x+1", claim=True), proposal("x+2", claim=False), proposal("nonsense", False)]
    + [answer("a", f"<ans>{value}", value == 1) for value in (1, 1, 2)],
    [proposal("x+3", claim=True), proposal("max(x,3)")] + [answer("b", f"<ans>{value}", False) for value in (4, 4, 4)],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", STEPS)


def write(folder: Path, steps: list[list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    directory = RunDirectory(folder)
    directory.write_run(
        {"schema": "dynamics.run/2", "method": "selfplay", "preset": "lab", "config": {"task": "lab"}, "status": "finished"}
    )
    for step, rows in enumerate(steps, 1):
        directory.write_rows(f"rollouts/step_{step}.jsonl", rows)
        metrics = {"step": step, "proposer/entropy": 1.0, "proposer/valid": 0.5, "solver/reward": 0.5}
        directory.append_metrics(metrics)
    directory.close()
    return folder


def measured(run: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "games.json"
    assert cli([str(run), "--phases", "2", "--json", str(out), *options]) == 0
    (found,) = json.loads(out.read_text())["runs"]
    return found


def values(found: dict[str, Any], role: str, measure: str) -> list[tuple[float, int]]:
    rows = [row for row in found["rows"] if (row["role"], row["measure"], row["task"]) == (role, measure, "")]
    return [(round(row["value"], 4), row["count"]) for row in rows]


def test_numbers_are_those_by_hand(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(run, tmp_path)
    assert values(found, "proposer", "valid") == [(0.6667, 3), (1.0, 2)]
    assert values(found, "proposer", "claim_accuracy") == [(0.5, 2), (1.0, 1)]
    assert values(found, "solver", "accuracy") == [(0.6667, 1), (0.0, 1)]
    assert values(found, "solver", "agreement") == [(0.6667, 1), (1.0, 1)]
    assert values(found, "solver", "gap") == [(0.0, 1), (1.0, 1)]
    assert values(found, "solver", "label_accuracy") == [(1.0, 1), (0.0, 1)]
    assert values(found, "proposer", "new_skeletons") == [(0.5, 2)]  # max(x,3), not x+3
    assert values(found, "proposer", "cumulative_skeletons") == [(1.0, 2), (2.0, 4)]
    assert values(found, "proposer", "skeletons") == [(1.0, 2), (2.0, 2)]
    assert values(found, "proposer", "depth") == [(2.0, 2), (2.0, 2)]
    assert "cross-play matrix" in {row["measure"] for row in found["missing"]}
    assert "fewer than a window" in next(row["reason"] for row in found["missing"] if row["measure"] == "death spiral")
    printed = capsys.readouterr().out
    assert "claim accuracy" in printed
    assert "not computed: death spiral" in printed


def test_players_and_tasks_are_apart(tmp_path: Path) -> None:
    rows = [answer("a", "<ans>1", True, player="one"), answer("a", "<ans>1", True, player="two", task="abduction")]
    rows += [answer("b", "<ans>2", False, player="two")]
    found = measured(write(tmp_path / "run", [rows]), tmp_path)
    assert {(row["player"], row["task"]) for row in found["rows"]} == {("one", ""), ("two", ""), ("two", "abduction"), ("two", "deduction")}
    assert all(row["measure"] == "accuracy" for row in found["rows"])  # one answer each: nothing to agree
    reasons = {row["measure"]: row["reason"] for row in found["missing"]}
    assert reasons["agreement, agreement - accuracy, majority label accuracy"] == "every problem has one answer a step"


def test_a_recorded_run_has_a_figure_and_an_indicator(tmp_path: Path) -> None:
    drawn = tmp_path / "games.png"
    found = measured(RUNS / "selfplay-0", tmp_path, "--window", "4", "--figure", str(drawn))
    assert drawn.stat().st_size > 10_000
    assert found["death_spirals"][0]["windows"] == 1
    assert {row["measure"] for row in found["rows"]} >= {"valid", "accuracy", "depth", "new_skeletons"}


def test_a_run_of_another_trainer_has_what_its_columns_allow(tmp_path: Path) -> None:
    found = measured(RUNS / "trl_grpo", tmp_path)
    assert found["trainer"] != "dynamics.train"
    assert found["turns"] > 0
    assert {row["measure"] for row in found["rows"]} >= {"similarity_nearest"}
    reasons = {row["measure"]: row["reason"] for row in found["missing"]}
    assert reasons["claim accuracy"] == "the rollouts have no proposals"


def test_hostile_texts_are_measured_or_left_out(tmp_path: Path) -> None:
    texts = ["(" * 3000, "x" * 3000, "\x1b[31m", "-" * 400 + "x", "x+x;" * 40 + "x", "", "\ud83d\ude00"]
    rows = [proposal(text) for text in texts] + [answer(text, text, True) for text in texts]
    found = measured(write(tmp_path / "run", [rows, rows]), tmp_path)
    assert values(found, "proposer", "valid") == [(1.0, 7), (1.0, 7)]
    assert values(found, "proposer", "depth")[0][1] < 7


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--phases", "0"], "--phases 0"), (["--window", "2"], "--window 2"), (["--level", "95"], "--level 95"), (["--jsn", "x"], "--json")],
)
def test_wrong_options_are_refused_in_one_line(run: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([str(run), *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_runs_without_completions_and_damaged_rows_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([str(RUNS / "sft-0")]) == 2
    assert "has no completions of its training" in capsys.readouterr().err
    (run / "rollouts" / "step_2.jsonl").write_text('{"role": 3}\n')
    assert cli([str(run)]) == 2
    assert "step_2.jsonl, line 1" in capsys.readouterr().err
    assert cli([str(tmp_path / "nothing")]) == 2


def test_phases_have_equally_many_recorded_steps() -> None:
    assert phases_of([1, 2, 2, 5, 9], 2) == [(0, 1, 2), (1, 5, 9)]
    assert phases_of([3], 4) == [(0, 3, 3)]


def test_a_page_is_one_file_and_shows_strangers_texts_as_text(tmp_path: Path) -> None:
    hostile = write(tmp_path / "<img src=x>", [[row | {"role": "<script>alert(1)</script>"} for row in rows] for rows in STEPS])
    out = tmp_path / "games.html"
    assert cli([str(hostile), str(write(tmp_path / "run", STEPS)), "--phases", "2", "--html", str(out)]) == 0
    text = out.read_text()
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/svg+xml") == 2  # wide and narrow
    assert all(part in text for part in ("valid proposals", "claim accuracy", "not computed", "death spiral"))
