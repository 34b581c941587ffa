"""The readers of what runs record during training, on constructed run directories."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from analyses import runs, training_series
from analyses.training_series import answers, series
from dynamics import InputError
from dynamics.runs.schema import SCHEMA


def made(folder: Path, method: str, seed: int, lines: list[dict], answered: list[dict]) -> None:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"schema": SCHEMA, "method": method, "seed": seed, "config": {}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "validation").mkdir()
    for row in answered:
        with (folder / f"validation/step_{row['step']}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def answer(step: int, temperature: float, **more) -> dict:
    return {"problem": "p", "task": "deduction", "split": "validation", "sample": 0, "correct": True, "length": 3, "truncated": False,
            "step": step, "temperature": temperature, "model": "m"} | more  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> list[runs.Run]:
    start = {"step": 0, "validation/pass@1/T=1": 0.25, "validation/pass@1/T=1/depth=2": 0.5, "time/validation_seconds": 1.0}
    steps = {"written": 2, "true": 1, "on_path": 1, "repeated": 0, "needed": 2, "covered": 1}
    of_lab = answer(0, 1.0, program="int: x+3", input="7", depth=1, scratchpad=4, steps=steps)
    first = {"step": 1, "reward": 0.5, "solver/length": 7.0, "solver/entropy/kind=result": 0.1, "loss": None, "seconds": 2.0}
    made(tmp_path / "a", "selfplay", 1, [start, first], [of_lab, answer(1, 0.0, correct=False)])
    made(tmp_path / "b", "sft", 0, [{"step": 1, "loss": 2.0, "length/mean": 5.0}], [])
    return runs.find([tmp_path / "a", tmp_path / "b"])


def test_series_are_tidy(found: list[runs.Run]) -> None:
    table = series(found)
    assert list(table) == training_series.COLUMNS
    lengths = table[(table["family"] == "answers") & (table["measure"] == "length")]
    assert lengths[["method", "seed", "step", "value"]].to_numpy().tolist() == [["sft", 0, 1, 5.0], ["selfplay", 1, 1, 7.0]]
    kept = series(found, "validation/pass@1")
    assert kept[["step", "measure", "manner", "by", "of", "value"]].to_numpy().tolist() == [
        [0, "pass@1", "T=1", "", "", 0.25],
        [0, "pass@1", "T=1", "depth", "2", 0.5],
    ]
    assert series(found, "answers/length")["metric"].tolist() == ["length/mean", "solver/length"]
    assert not (table["metric"].str.startswith("time/") | (table["metric"] == "step")).any()
    assert "loss" in set(table[table["method"] == "sft"]["metric"])  # of the other run it was null
    assert "loss" not in set(table[table["method"] == "selfplay"]["metric"])


def test_the_validation_before_training_is_no_step(found: list[runs.Run]) -> None:
    (own,) = (run for run in found if run.method == "selfplay")
    assert own.metrics["step"].tolist() == [1]
    assert [line["step"] for line in own.lines] == [0, 1]


def test_answers_have_a_row_each(found: list[runs.Run]) -> None:
    table = answers(found)
    assert table[["method", "seed", "step", "manner", "correct"]].to_numpy().tolist() == [
        ["selfplay", 1, 0, "T=1", True],
        ["selfplay", 1, 1, "greedy", False],
    ]
    assert table["true"].tolist()[0] == 1
    assert table["scratchpad"].isna().tolist() == [False, True]
    assert list(answers(found[:1])) == training_series.ANSWER_COLUMNS  # a run without
    assert not len(answers(found[:1]))


@pytest.mark.parametrize("damage", ['{"problem": 1}\n', '{"problem": "p", "step": 0, "correct": 1, "temperature": 0}\n', "[]\n"])
def test_damaged_answers_are_named(damage: str, found: list[runs.Run]) -> None:
    (own,) = (run for run in found if run.method == "selfplay")
    (own.path / "validation/step_1.jsonl").write_text(damage)
    with pytest.raises(InputError, match="step_1"):
        answers([own])


def test_examples_of_names() -> None:
    assert doctest.testmod(training_series).failed == 0
