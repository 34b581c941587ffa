"""What runs on the laboratory record of answers: length, steps and their truth, entropy by kind of token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.train.config import RLVRConfig, SFTConfig
from dynamics.train.lab.notation import check_completion
from dynamics.train.lab.operations import read
from dynamics.train.lab.programs import labelled
from dynamics.train.loop import run
from train.test_documented_metrics import ROOT, documented

FEW = {"task": "lab", "steps": 2, "threads": 1, "eval_problems": 0, "probe_every": 1, "max_new_tokens": 24, "num_problems": 40}
ASKED = {"validate_every": 1, "validation_problems": 12, "validation_samples": 2}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def undocumented(names: set[str], method: str) -> list[str]:
    patterns = documented(ROOT / "docs" / "measures.md") + documented(ROOT / "docs" / "methods" / f"{method}.md")
    return sorted(name for name in names if not any(pattern.fullmatch(name) for pattern in patterns))


def test_sft_on_right_solutions(lab_base: Path, tmp_path: Path) -> None:
    run("sft", SFTConfig(model=str(lab_base), batch_size=12, **FEW, **ASKED), tmp_path)
    start, first, _ = lines(tmp_path)
    assert undocumented({*start, *first}, "sft") == []
    for task in ("deduction", "abduction"):
        for measure, value in {"with_steps": 1, "true_steps": 1, "on_path": 1, "repeated": 0, "covered": 1}.items():
            assert first[f"answers/{measure}/task={task}"] == value
    assert first["answers/scratchpad"] < first["length/mean"] - 2  # an answer mark, an answer and an end more
    shares = {name: value for name, value in first.items() if name.startswith("solver/tokens/kind=")}
    assert {name.partition("=")[2] for name in shares} >= {"operator", "number", "result", "answer", "step_mark", "answer_mark", "end"}
    assert shares["solver/tokens/kind=end"] == pytest.approx(12 / first["tokens"])
    assert shares["solver/tokens/kind=answer_mark"] == pytest.approx(12 / first["tokens"])
    groups = {name.rpartition("/")[2] for name in start if name.startswith("validation/pass@1/greedy/")}
    assert groups >= {"task=deduction", "task=abduction", "task=transfer", "set=validation", "set=transfer validation"}


def test_answers_are_checked_as_they_were_sampled(lab_base: Path, tmp_path: Path) -> None:
    run("rlvr", RLVRConfig(model=str(lab_base), prompts_per_step=6, group_size=16, **FEW, **ASKED), tmp_path)
    recorded = lines(tmp_path)
    assert undocumented({*recorded[0], *recorded[1]}, "rlvr") == []
    rows = [json.loads(line) for line in (tmp_path / "rollouts/step_1.jsonl").read_text().splitlines()]
    checks = [check_completion(row["task"], labelled(row["program"]), read(row["input"]), row["completion"]) for row in rows]
    written = sum(check.written for check in checks)
    assert written  # what an untrained model writes has steps, too
    assert recorded[1]["answers/with_steps"] == np.mean([check.written > 0 for check in checks])
    assert recorded[1]["answers/true_steps"] == sum(check.true for check in checks) / written
    assert recorded[1]["answers/repeated"] == sum(check.repeated for check in checks) / written
    answers = [json.loads(line) for line in (tmp_path / "validation/step_1.jsonl").read_text().splitlines()]
    sampled = [row for row in answers if row["temperature"] == 1]
    assert {row["program"] for row in sampled}
    assert recorded[1]["validation/scratchpad/T=1"] == np.mean([row["scratchpad"] for row in sampled])
    assert recorded[1]["validation/with_steps/T=1"] == np.mean([row["steps"]["written"] > 0 for row in sampled])
    assert recorded[1]["probe/solver/tokens/kind=end"] >= 0
