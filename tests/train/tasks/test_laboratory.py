"""The task ``lab``: its questions, their grading, and who may train on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.train import __main__ as command
from dynamics.train import tasks
from dynamics.train.lab import shipped
from dynamics.train.lab.problems import SETS, TEST_SETS, Case, problem_sets
from dynamics.train.lab.programs import labelled, normal_form, read_program
from dynamics.train.tasks.laboratory import SETS_OF, Laboratory, ask, verify
from dynamics.train.tasks.problem import Question

EVERYTHING = 10**6


@pytest.fixture(scope="module")
def trained() -> list[Question]:
    """Return all questions to train on."""
    return tasks.source("lab+lab-induction").questions("training", EVERYTHING, 0)


def test_splits_are_whole_sets_and_the_same_for_every_seed(trained: list[Question]) -> None:
    of_split = {split: Laboratory().questions(split, EVERYTHING, 0) for split in ("validation", "test")} | {"training": trained}
    for split, names in SETS_OF.items():
        questions = of_split[split]
        assert len({question.id for question in questions}) == len(questions)
        assert {question.split for question in questions} == set(names)
        assert {question.program for question in questions} == {case.program.label for name in names for case in problem_sets()[name]}
    assert [question.id for question in Laboratory().questions("test", 50, 7)] == [question.id for question in of_split["test"][:50]]


def test_no_program_of_another_set_is_trained_on(trained: list[Question]) -> None:
    held_out = {normal_form(case.program) for name, cases in problem_sets().items() if name != "training" for case in cases}
    assert {normal_form(labelled(question.program)) for question in trained}.isdisjoint(held_out)
    assert len({question.prompt for question in trained}) == len(trained)


def test_a_set_begins_with_each_program_once() -> None:
    questions = Laboratory().questions("test", 520, 0)
    assert len({question.program for question in questions}) == 520
    counts = Counter((question.split, question.task) for question in questions)
    assert counts == {("transfer", "transfer"): 160} | {
        (name, form): 90 for name in ("test", "deeper") for form in ("deduction", "abduction")
    }
    by_depth = Counter((question.depth, question.task) for question in questions if question.split == "test")
    assert by_depth[3, "deduction"] == by_depth[3, "abduction"] == 40


def test_answers_to_train_on_are_right_and_have_all_steps(trained: list[Question]) -> None:
    for question in trained:
        assert question.verify(str(question.answer)).correct
        assert str(question.answer).count("<s>") == question.depth


def test_names_of_tasks() -> None:
    assert tasks.source("lab").name == "lab"
    for name, forms in {"lab-induction": {"induction"}, "lab+lab-induction": {"deduction", "abduction", "induction"}}.items():
        source = tasks.source(name)
        assert isinstance(source, Laboratory)
        assert source.name == name or source.name == "lab-deduction+lab-abduction+lab-induction"
        assert {question.task for question in source.questions("training", 700, 0)} == forms
    assert (
        sum(question.split == "transfer" for question in tasks.source("lab-deduction+lab-induction").questions("test", EVERYTHING, 0))
        == 160
    )
    with pytest.raises(InputError, match="has no split seen"):
        tasks.source("lab").questions("seen", 1, 0)


CASE = Case(read_program("x+3;max(x,12)"), (7, 5, 11, 30, 12, 20))


@pytest.mark.parametrize(
    ("form", "completion", "reason"),
    [
        ("deduction", "<s>7+3=10<s>max(10,12)=12<ans>12", ""),
        ("deduction", "<ans>12", ""),
        ("deduction", "<s>1+1=3<ans>12", ""),
        ("deduction", "12", "no answer"),
        ("deduction", "<ans>11<ans>12", "no answer"),
        ("deduction", "<ans>13", "another value"),
        ("deduction", "<ans>012", "not a literal"),
        ("deduction", "<ans>12 ", "not a literal"),
        ("deduction", "<ans>'12'", "not a literal"),
        ("deduction", "<ans>6+6", "not a literal"),
        ("deduction", "<ans>__import__('os')", "not a literal"),
        ("deduction", "<ans>", "not a literal"),
        ("abduction", "<ans>9", ""),
        ("abduction", "<try>50<s>50+3=53<ans>7", ""),
        ("abduction", "<ans>30", "another output"),
        ("abduction", "<ans>99", "another output"),
        ("abduction", "<ans>[7]", "another output"),
        ("induction", "<ans>max(x,9);x+3", ""),
        ("induction", "<ans>x+3", "other outputs"),
        ("induction", "<ans>print(x)", "not a program"),
        ("induction", "<ans>" + "x+1;" * 500, "no answer"),
        ("transfer", "<ans>12", ""),
    ],
)
def test_grades(form: str, completion: str, reason: str) -> None:
    verdict = ask(form, CASE, "test", "q").verify(completion)
    assert (verdict.correct, verdict.reason) == (not reason, reason)


HOSTILE = [
    "",
    "<ans>" * 5000,
    "<s>" * 100_000 + "<ans>12",
    "<ans>" + "[" * 100_000,
    "<ans>" + "9" * 100_000,
    "<try><try><s><hint><ans><s>",
    "\x00\x1b[2J\u202e<ans>12\n",
    "<ans>\ud800",
    "<ans>12<eos>",
    "<unk><ans>\u0661\u0662",
    "<ans>" + "x[::-1];" * 300_000,
]


@pytest.mark.parametrize("form", ["deduction", "abduction", "induction", "transfer"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_are_wrong(form: str, text: str) -> None:
    assert not verify(form, CASE, text).correct


def dry_run(*words: str) -> None:
    command.main(["rlvr", "--dry-run", *words])


def test_models_and_tasks_that_do_not_fit(lab_base: Path, base: Path, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "run")]
    for model in ("tiny", str(base)):
        with pytest.raises(InputError, match=r"--task lab: --model \S+ has another tokenizer than the laboratory's"):
            dry_run("--model", model, "--task", "lab", *out)
    for task in ("code", "deduction", "lab+code", "proposals"):
        with pytest.raises(InputError, match=r"reads the notation of the laboratory only; .* lab-deduction"):
            dry_run("--model", str(lab_base), "--task", task, *out)
    dry_run("--model", str(lab_base), "--task", "lab", *out)
    printed = capsys.readouterr()
    assert "has the tokenizer of the laboratory; its defaults are those of --preset lab" in printed.err
    dry_run("--model", str(lab_base), "--preset", "lab", *out)
    assert json.loads(capsys.readouterr().out)["task"] == "lab"


def test_the_shipped_base_or_a_clear_refusal(tmp_path: Path, monkeypatch) -> None:
    words = ["--model", "lab", "--out", str(tmp_path / "run")]
    if (shipped.FOLDER / "model.safetensors").is_file():
        dry_run(*words)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nothing")
    with pytest.raises(InputError, match=r"does not have its weights; make a base .* --model OUT/base --preset lab"):
        dry_run(*words)


@pytest.mark.parametrize("method", ["sft", "rlvr"])
def test_methods_train_on_it(method: str, lab_base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    few = [
        "--steps",
        "2",
        "--eval-problems",
        "6",
        "--eval-samples",
        "2",
        "--threads",
        "1",
        "--num-problems",
        "40",
        "--max-new-tokens",
        "12",
    ]
    more = ["--batch-size", "4"] if method == "sft" else ["--prompts-per-step", "3", "--group-size", "4"]
    command.main([method, "--model", str(lab_base), "--preset", "lab", "--out", str(out), *few, *more])
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in TEST_SETS)
    rows = [json.loads(line) for line in (out / "evals" / f"{method},_2_steps_T1.jsonl").read_text().splitlines()]
    assert Counter(row["split"] for row in rows) == dict.fromkeys(TEST_SETS, 4)
    for row in rows:
        assert row["depth"] == labelled(row["program"]).depth
        assert row["depth"] in SETS[row["split"]][1]
        assert row["problem"].split(" ")[0] == row["split"]
    if method == "rlvr":
        row = json.loads((out / "rollouts" / "step_1.jsonl").read_text().splitlines()[0])
        assert row["program"] in {case.program.label for case in problem_sets()["training"]}
        assert row["input"] in row["problem"] or row["task"] == "abduction"
