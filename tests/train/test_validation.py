"""Problems of the split ``validation`` that are asked during training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import validation
from dynamics.train.__main__ import cli
from dynamics.train.config import RLVRConfig
from dynamics.train.loop import run
from dynamics.train.tasks.problem import Question, Verdict
from train.helpers import contents

SMALL = {
    "steps": 3,
    "save_every": 2,
    "learning_rate": 1e-3,
    "threads": 1,
    "num_problems": 8,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_new_tokens": 6,
    "eval_problems": 0,
    "probe_every": 0,
}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_validation_survives_a_resume_and_does_not_change_the_run(base: Path, tmp_path: Path) -> None:
    asked = {"validate_every": 2, "validation_problems": 12, "validation_samples": 3}
    config = RLVRConfig(model=str(base), **SMALL, **asked)
    straight, killed, without = tmp_path / "straight", tmp_path / "killed", tmp_path / "without"
    run("rlvr", config, straight)

    def fail(step: int, _: dict) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("rlvr", config, killed, on_step=fail)
    (killed / "validation" / "step_3.jsonl").write_text("{}\n")  # as if it had been killed in its third step
    resumed = run("rlvr", config, killed, resume=True)
    assert resumed.step == 3
    assert contents(killed) == contents(straight)

    recorded = lines(straight)
    assert [line["step"] for line in recorded] == [0, 1, 2, 3]
    assert ["validation/pass@1/greedy" in line for line in recorded] == [True, False, True, True]  # before, every 2, and the last
    assert all(name.startswith(("validation/", "time/")) for name in recorded[0].keys() - {"step"})
    document = json.loads((straight / "run.json").read_text())["validation"]
    assert document["problems"] == 12
    assert document["samples"] == {"greedy": 1, "T=1": 3}
    assert document["groups"] == {"task=abduction": 4, "task=deduction": 4, "task=induction": 4}
    drawn = []
    for step in (0, 2, 3):
        rows = [json.loads(line) for line in (straight / f"validation/step_{step}.jsonl").read_text().splitlines()]
        assert len(rows) == 12 * (1 + 3)
        assert {row["split"] for row in rows} == {"validation"}
        for manner, temperature in validation.MANNERS.items():
            chosen = [row for row in rows if row["temperature"] == temperature]
            abduction = [row["length"] for row in chosen if row["task"] == "abduction"]
            assert recorded[step][f"validation/pass@1/{manner}"] == np.mean([row["correct"] for row in chosen])
            assert recorded[step][f"validation/length/{manner}/task=abduction"] == np.mean(abduction)
        drawn.append([row["completion"] for row in rows if row["temperature"] == 1.0])
    assert drawn[0] != drawn[1] != drawn[2]

    run("rlvr", replace(config, validate_every=0), without)
    assert not (without / "validation").exists()
    timed = ("time/", "validation/")
    own = [{k: v for k, v in line.items() if not k.startswith(timed) and k != "seconds"} for line in recorded[1:]]
    assert own == [{k: v for k, v in line.items() if not k.startswith(timed) and k != "seconds"} for line in lines(without)]


def question(name: str, task: str, split: str, depth: int) -> Question:
    return Question(name, "", None, task, split, lambda _: Verdict.binary(True), depth=depth)


def test_groups_are_by_task_set_and_depth_and_never_all() -> None:
    questions = [
        question("a", "deduction", "validation", 1),
        question("b", "deduction", "transfer", 2),
        question("c", "x", "transfer", 0),
    ]
    groups = validation.groups_of(questions)
    assert groups == {
        "depth=1": {"a"},
        "depth=2": {"b"},
        "set=transfer": {"b", "c"},
        "set=validation": {"a"},
        "task=deduction": {"a", "b"},
        "task=x": {"c"},
    }
    assert validation.groups_of(questions[:1]) == {}


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_task_without_validation_problems_is_refused(more: list[str], base: Path, tmp_path: Path, capsys) -> None:
    rows = tmp_path / "few.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n}", "completion": "1"}) + "\n" for n in range(4)))
    out = tmp_path / "run"
    asked = ["sft", "--model", str(base), "--task", str(rows), "--out", str(out), "--eval-problems", "0", "--validate-every", "2", *more]
    assert cli(asked) == 2
    error = capsys.readouterr().err
    assert "--validate-every 2: " in error
    assert "too few for a validation set" in error
    assert not out.exists()


def test_a_metric_line_of_step_0_that_is_lost_is_named(base: Path, tmp_path: Path) -> None:
    config = RLVRConfig(model=str(base), **SMALL, validate_every=3, validation_problems=4)
    run("rlvr", config, tmp_path)
    recorded = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(recorded[1:]))
    with pytest.raises(InputError, match="does not have the metrics of step 0 once"):
        run("rlvr", config, tmp_path, resume=True)
