"""What a run on the laboratory was trained on is counted against every set, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import __main__ as command
from dynamics.train import contamination
from dynamics.train.contamination.__main__ import cli


def run(tmp_path: Path, rows: list[list[object]], **config: object) -> Path:
    directory = RunDirectory(tmp_path)
    directory.write_run({"schema": "dynamics.run/2", "method": "selfplay", "config": {"task": "lab"} | config, "status": "finished"})
    for number, lines in enumerate(rows, start=9):  # step 10 comes after step 9
        directory.write_rows(f"rollouts/step_{number}.jsonl", lines)
    return tmp_path


def answer(program: str, value: str, problem: str = "p") -> dict[str, object]:
    return {"role": "solver", "task": "deduction", "problem": problem, "program": program, "input": value, "completion": "<ans>1"}


def proposal(completion: str, reason: str = "", task: str = "deduction") -> dict[str, object]:
    return {"role": "proposer", "task": task, "completion": completion, "valid": not reason, "reason": reason}


def row(report: dict, what: str, name: str) -> tuple[int, int, int]:
    sets = next(kind for kind in report["trained"] if kind["what"] == what)["sets"]
    found = next(entry for entry in sets if entry["name"] == name)
    return found["exact"], found["same_program"], found["trained"]


def test_matches_are_counted_by_kind_and_proposals_by_split(tmp_path: Path) -> None:
    rows = [
        [
            proposal("x*2;x+1<in>5"),
            proposal("x+20<in>1", "held out: test"),
            proposal("x+11;x+9<in>2", "held out: test"),
            proposal("x+20<in>99", "undefined"),
            proposal("nonsense", "form"),
            proposal("1<in>2<in>3<in>4<in>5<in>6", task="induction"),
            answer("int: x*2;x+1", "5"),
            answer("int: x*2;x+1", "5"),
        ],
        [proposal("x*2<in>7"), answer("int: x*2", "7"), answer("int: x*2", "7", "q"), answer("int: x+11;x+9", "1", "r")],
    ]
    report = contamination.of_run(run(tmp_path, rows))
    assert [(kind["what"], kind["items"], kind["programs"], kind["without_program"]) for kind in report["trained"]] == [
        ("problems", 4, 3, 0),
        ("valid proposals", 2, 2, 1),
        ("held-out proposals", 2, 1, 0),
        ("other refused proposals", 1, 1, 1),
    ]
    assert row(report, "problems", "test") == (0, 1, 1)  # in other words
    assert row(report, "held-out proposals", "test")[1:] == (1, 2)
    assert row(report, "valid proposals", "test") == (0, 0, 0)
    proposed = report["proposed"]
    assert (proposed["proposals"], proposed["without_program"], proposed["for_induction"]) == (6, 1, 1)
    assert proposed["held_out"] == {"test": 2}
    by_split = {entry["split"]: entry for entry in proposed["splits"]}
    assert by_split["test"] == {"split": "test", "proposals": 3, "valid": 0, "held_out": 2, "programs": 1}
    assert sum(entry["proposals"] for entry in proposed["splits"]) == 5
    assert all(kind["gradient"] for kind in report["trained"])


def test_proposals_without_gradient_are_named(tmp_path: Path) -> None:
    report = contamination.of_run(run(tmp_path, [[proposal("x*2<in>7"), answer("int: x*2", "7")]], proposer="snapshot"))
    assert [(kind["what"], kind["gradient"]) for kind in report["trained"]] == [("problems", True), ("valid proposals", False)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rollouts"),
        ([[answer("", "")]], "is no run on the laboratory"),
        ([[answer("int: x**9", "1")]], r"step_9\.jsonl, line 1: 'int: x\*\*9' is no program"),
        ([[answer("\x1b[2J" * 1000, "1")]], r"line 1: '\\\\x1b\[2J"),
        ([[answer("int: x*2", "nine")]], "line 1: 'nine' is no input"),
        ([[answer("int: x*2", "1"), [1]]], r"line 2.*expected an object"),
        ([[answer("int: x*2", "1") | {"program": 5}]], r"line 1.*'program'"),
    ],
)
def test_what_cannot_be_told_is_refused(rows: list[list[object]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        contamination.of_run(run(tmp_path, rows))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def train(base: Path, out: Path, method: str, *more: str) -> None:
    few = ["--steps", "3", "--threads", "1", "--eval-problems", "0", "--probe-every", "0", "--max-new-tokens", "6", "--save-every", "1"]
    command.main([method, "--model", str(base), "--preset", "lab", "--out", str(out), *few, *more])


def test_a_run_has_its_report_which_can_be_made_again(lab_base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "rlvr"
    train(lab_base, out, "rlvr", "--prompts-per-step", "3", "--group-size", "2")
    written = json.loads((out / "contamination.json").read_text())
    assert json.loads((out / "run.json").read_text())["contamination"] == "contamination.json"
    assert written == contamination.of_run(out)
    assert row(written, "problems", "training") == (9, 9, 9)
    assert all(row(written, "problems", name) == (0, 0, 0) for name in ("test", "deeper", "transfer", "validation", "transfer validation"))
    capsys.readouterr()
    assert cli([str(out)]) == 0
    assert "transfer validation" in capsys.readouterr().out
    assert cli([str(tmp_path)]) == 2


def test_problems_of_sft_are_those_of_its_batches(lab_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft"
    train(lab_base, out, "sft", "--batch-size", "4", "--num-problems", "8")
    report = json.loads((out / "contamination.json").read_text())
    assert row(report, "problems", "training") == (8, 8, 12)
    document = json.loads((out / "run.json").read_text())
    document["checksums"]["problems"] = "0" * 64
    (out / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="its problems are not those that this version has"):
        contamination.of_run(out)


def test_a_run_that_cannot_tell_is_finished_with_a_note(lab_base: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(_: Path) -> None:
        raise InputError("its rollouts were removed")

    monkeypatch.setattr(contamination, "write", refuse)
    train(lab_base, tmp_path / "run", "sft", "--batch-size", "2", "--num-problems", "4")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["status"] == "finished"
    assert document["notes"] == ["no report on what was trained on: its rollouts were removed"]
    assert "contamination" not in document
