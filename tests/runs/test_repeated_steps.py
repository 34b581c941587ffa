"""Steps that are logged twice count as logged last, and a remark says how many values do not count."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dynamics.runs import open_run
from dynamics.runs.readers.metric_names import repeated_steps
from dynamics.runs.view import metrics_table

RUNS = Path(__file__).parent.parent / "data" / "runs"
WHY = "left out, because later lines or files log these steps again, as after a resume"


def test_counts() -> None:
    table = metrics_table([(1, "loss", 1.0), (2, "loss", 2.0), (2, "reward", 0.0), (2, "loss", 3.0), (1, "loss", 4.0)])
    assert repeated_steps(table, Counter()) == f"2 logged values of 2 steps from 1 to 2: {WHY}"
    assert repeated_steps(table[:3], Counter({7: 1})) == f"1 logged value of step 7: {WHY}"
    assert repeated_steps(table[:3], Counter()) == ""


@pytest.mark.parametrize("trainer", ["trl_sft", "verl", "own/sft"])
def test_a_log_with_lines_of_the_same_step(tmp_path: Path, trainer: str) -> None:
    """The history of a Trainer, verl's log of JSON lines, and this project's metrics, whose last two steps were logged again."""
    folder = Path(shutil.copytree(RUNS / trainer, tmp_path / "run"))
    if trainer == "trl_sft":
        for path in folder.rglob("trainer_state.json"):
            state = json.loads(path.read_text())
            state["log_history"] += [entry | {"loss": 9.0} for entry in state["log_history"] if "loss" in entry][-2:]
            path.write_text(json.dumps(state))
    else:
        path = folder / "metrics.jsonl" if trainer == "own/sft" else next((folder / "demo").glob("*.jsonl"))
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, *lines[-2:]]) + "\n")
    assert not [remark for remark in open_run(RUNS / trainer).remarks if WHY in remark]
    run = open_run(folder)
    (remark,) = [remark for remark in run.remarks if WHY in remark]
    assert " logged values of 2 steps from " in remark
    if trainer == "trl_sft":
        assert run.series("loss").tolist()[-2:] == [9.0, 9.0]
    assert run.notes == open_run(RUNS / trainer).notes


def test_event_files_of_a_resumed_run(tmp_path: Path) -> None:
    """The two files of the fixture go over the same steps; with the states, which hold one history, the files add nothing."""
    pytest.importorskip("tensorboard")
    folder = Path(shutil.copytree(RUNS / "trainer", tmp_path / "run"))
    assert not [remark for remark in open_run(folder).remarks if WHY in remark]
    for state in folder.rglob("trainer_state.json"):
        state.unlink()
    assert f"13 logged values of 3 steps from 6 to 8: {WHY}" in open_run(folder).remarks
