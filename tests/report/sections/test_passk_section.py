"""The section on pass@k."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from helpers import doubt_texts

from dynamics.report.section import Options
from dynamics.report.sections import passk
from dynamics.runs.view import Run

SAMPLES = 8


def samples_file(path: Path, solved: list[int]) -> Path:
    """Write a file in which the problem i is solved by ``solved[i]`` of 8 samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"problem": f"q{i}", "sample": s, "correct": s < c} for i, c in enumerate(solved) for s in range(SAMPLES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A base that solves all problems now and then, and a tuned model that solves half of them always."""
    return {"base": samples_file(tmp_path / "base.jsonl", [2] * 40), "tuned": samples_file(tmp_path / "tuned.jsonl", [8, 0] * 20)}


def given(files: dict[str, Path]) -> Options:
    return Options(evals=[f"{name}={path}" for name, path in files.items()])


def test_without_evaluations_the_option_is_named(tmp_path: Path) -> None:
    section = passk.make([Run(tmp_path, "verl")], Options())
    assert "--evals NAME=FILE" in section.missing


def test_base_against_tuned_with_crossing_in_whatever_order(tmp_path: Path, files: dict[str, Path]) -> None:
    section = passk.make([Run(tmp_path, "verl")], given({"tuned": files["tuned"], "base": files["base"]}))
    by_key = {finding.key: finding for finding in section.findings}
    first, last, crossing = (by_key[key] for key in ("pass_at_1_difference/tuned", "pass_at_8_difference/tuned", "crossing/tuned"))
    assert (first.value, first.weight) == (0.25, 10.0)
    assert first.low is not None
    assert first.low > 0
    assert (last.value, last.weight) == (-0.5, 5.0)
    assert crossing.value == 3  # of base: 1 - C(6, k) / C(8, k) is 0.46 at k = 2 and 0.64 at 3
    assert "base overtakes tuned" in crossing.text
    assert section.document["against"] == "base"
    assert shlex.split(section.commands[0]) == [
        *["python", "-m", "dynamics.passk", f"tuned={files['tuned']}", f"base={files['base']}", "--against", "base"]
    ]
    points = next(table for table in section.tables if table.name == "passk_by_model").frame
    assert points.set_index(["model", "k"]).loc[("base", 1), "pass_at_k"] == 0.25


def test_steps_of_a_run_are_named_and_step_0_is_the_base(tmp_path: Path) -> None:
    evals = [samples_file(tmp_path / "val" / f"{step}.jsonl", [count] * 30) for step, count in ((0, 1), (10, 2), (20, 4))]
    section = passk.make([Run(tmp_path / "grpo", "verl", evals=evals)], Options())
    assert section.document["against"] == "grpo step 0"
    differences = {finding.key: finding.value for finding in section.findings if finding.weight == 10.0}
    assert differences == {"pass_at_1_difference/grpo step 20": 0.375}


def test_scores_that_are_no_numbers_are_told(tmp_path: Path, files: dict[str, Path]) -> None:
    lines = files["base"].read_text().splitlines()
    files["base"].write_text("\n".join([*(line.replace("true", "Infinity") for line in lines[:8]), *lines[8:]]) + "\n")
    section = passk.make([Run(tmp_path, "verl")], given(files))
    (doubt,) = [doubt for doubt in doubt_texts(section.doubts) if "infinity" in doubt]
    assert doubt.startswith("pass@k: 2 samples have a score of NaN, infinity")


def test_what_is_no_base_says_so(tmp_path: Path, files: dict[str, Path]) -> None:
    section = passk.make([Run(tmp_path, "verl")], given({"a": files["base"], "b": files["tuned"]}))
    assert any("no file is named as the base" in doubt for doubt in doubt_texts(section.doubts))
    assert passk.choose_base(["grpo step 20", "grpo step 10"])[0] == "grpo step 10"
    assert "the earliest step, grpo step 10," in passk.choose_base(["grpo step 20", "grpo step 10"])[1]


def test_one_model_has_its_number_and_nothing_to_compare(tmp_path: Path, files: dict[str, Path]) -> None:
    section = passk.make([Run(tmp_path, "verl", evals=[files["tuned"]])], Options())
    assert (section.findings[0].value, section.findings[0].weight) == (0.5, 10.0)
    assert "--evals base=FILE" in section.findings[0].text


def test_few_samples_and_problems_are_doubts(tmp_path: Path) -> None:
    few = samples_file(tmp_path / "few.jsonl", [1, 2, 3])
    text = few.read_text().splitlines()
    few.write_text("\n".join(line for line in text if json.loads(line)["sample"] < 4) + "\n")
    section = passk.make([Run(tmp_path, "verl")], Options(evals=[f"few={few}"]))
    assert any("only 3 problems" in doubt for doubt in doubt_texts(section.doubts))
    assert any("only 4 samples of some problems" in doubt for doubt in doubt_texts(section.doubts))


def test_a_file_that_cannot_be_read_is_one_line_and_the_others_are_read(tmp_path: Path, files: dict[str, Path]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"problem": ')
    section = passk.make([Run(tmp_path, "verl")], given({**files, "c": broken, "d": tmp_path / "nothing.jsonl"}))
    assert section.missing == ""
    assert len(section.incomplete) == 2
    assert "broken.jsonl" in section.incomplete[0]
    assert "nothing.jsonl" not in section.commands[0]
    alone = passk.make([Run(tmp_path, "verl")], Options(evals=[str(broken)]))
    assert "could be read" in alone.missing
    assert len(alone.incomplete) == 1


@pytest.mark.slow
def test_models_without_common_problems_have_a_curve_and_are_named(tmp_path: Path, files: dict[str, Path]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(files["tuned"].read_text().replace('"q', '"p'))
    section = passk.make([Run(tmp_path, "verl")], given({"base": files["base"], "other": other}))
    assert [curve["name"] for curve in section.document["curves"]] == ["base", "other"]
    assert len(section.incomplete) == 1
    assert "no problem id in common" in section.incomplete[0]


@pytest.mark.slow
def test_several_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [
        Run(tmp_path / name, "verl", evals=[samples_file(tmp_path / name / "results.jsonl", [count] * 30)])
        for name, count in (("sft", 2), ("grpo", 4))
    ]
    section = passk.make(runs, Options())
    assert [curve["name"] for curve in section.document["curves"]] == ["sft results", "grpo results"]


def test_a_run_of_this_project_names_its_models_itself() -> None:
    folder = Path(__file__).parents[2] / "data" / "runs" / "rlvr-0"
    section = passk.make([Run(folder, "dynamics", evals=sorted((folder / "evals").glob("*.jsonl")))], Options())
    assert section.document["against"] == "base, T=1"
    assert [curve["name"] for curve in section.document["curves"]] == ["base, T=1", "rlvr, 4 steps, T=1"]


def test_choice_of_models() -> None:
    names = [f"step {number}" for number in range(0, 200, 10)]
    assert passk.choose_base(names) == ("step 0", "")
    chosen = passk.choose_models(names, "step 0", most=4)
    assert chosen == ["step 0", "step 10", "step 100", "step 190"]
    assert passk.choose_models(["base, T=1", "base, T=0.5", "a", "b"], "base, T=1", most=3) == ["base, T=1", "a", "b"]
    assert passk.choose_base(["database", "rebased", "Qwen3-4B-Base"])[0] == "Qwen3-4B-Base"


def test_a_line_that_is_cut_off_is_told(tmp_path: Path, files: dict[str, Path]) -> None:
    with files["tuned"].open("a") as file:
        file.write('{"problem": "q0", "sa')
    section = passk.make([Run(tmp_path, "verl")], given(files))
    assert any(doubt.startswith("pass@k: tuned.jsonl: line 321 is cut off") for doubt in doubt_texts(section.doubts))


def test_each_of_several_runs_is_compared_with_its_own_base(tmp_path: Path) -> None:
    runs = []
    for name, solved, of in (("sft", 4, "a"), ("grpo", 6, "b")):
        evals = [
            samples_file(tmp_path / name / "evals" / f"{model}.jsonl", [count] * 30) for model, count in (("base", 2), ("tuned", solved))
        ]
        for path in evals:  # the runs share no problem
            path.write_text(path.read_text().replace('"q', f'"{of}'))
        runs.append(Run(tmp_path / name, "verl", evals=evals))
    section = passk.make(runs, Options())
    assert not section.incomplete
    together, *alone = section.findings
    assert together.weight == 10.0
    assert "sft 0.500, +0.250 [" in together.text
    assert "grpo 0.750, +0.500 [" in together.text
    assert {finding.run for finding in alone} == {"sft", "grpo"}
    assert {finding.weight for finding in alone} == {0.0}
    assert {(change.run, change.what, change.start, change.end) for change in section.changes} >= {
        ("sft", "pass@1", 0.25, 0.5), ("grpo", "pass@1", 0.25, 0.75),
    }  # fmt: skip
    assert all(change.is_clear for change in section.changes if change.what == "pass@1")
    assert len(section.commands) == 2
    assert all(word.startswith("sft ") for word in shlex.split(section.commands[0])[3:5])
    assert section.commands[0].endswith("--against 'sft base'")
    section.pictures[0].draw()


def asked(tmp_path: Path, solved: dict[str, int]) -> Options:
    """Options with a file of the samples of all models; a name says how its model was asked."""
    rows = [
        {"model": name, "problem": f"q{problem}", "sample": sample, "correct": sample < count}
        for name, count in solved.items()
        for problem in range(40)
        for sample in range(SAMPLES)
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Options(evals=[str(tmp_path / "all.jsonl")])


def test_a_tuned_model_is_compared_with_the_base_that_was_asked_in_the_same_manner(tmp_path: Path) -> None:
    models = {"base, T=1": 2, "base, greedy": 5, "rl, T=1": 4, "rl, greedy": 4}
    section = passk.make([Run(tmp_path, "verl")], asked(tmp_path, models))
    differences = {finding.key: finding.value for finding in section.findings if finding.key.startswith("pass_at_1_difference")}
    assert differences == {"pass_at_1_difference/rl, T=1": 0.25, "pass_at_1_difference/rl, greedy": -0.125}
    assert not [doubt for doubt in doubt_texts(section.doubts) if "manner of asking" in doubt]


def test_a_difference_that_is_one_of_temperatures_too_is_no_headline(tmp_path: Path) -> None:
    section = passk.make([Run(tmp_path, "verl")], asked(tmp_path, {"base, T=1": 2, "rl, T=1": 4, "rl, greedy": 8}))
    differences = {finding.key: finding.value for finding in section.findings if finding.key.startswith("pass_at_1_difference")}
    assert differences == {"pass_at_1_difference/rl, T=1": 0.25}
    (doubt,) = [doubt for doubt in doubt_texts(section.doubts) if "manner of asking" in doubt]
    assert "rl, greedy with base, T=1" in doubt
