"""Controls that train on what another run recorded: the proposals of self-play, and the correct samples of RLVR."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import checks, data_order, loop, objectives, sources
from dynamics.train.config import RLVRConfig, SelfPlayConfig, SFTConfig, check
from dynamics.train.methods.rlvr import RLVR
from dynamics.train.tasks.problem import judge, pool_of

RUNS = Path(__file__).parent.parent / "data" / "runs"
PLAYED, SOLVED = RUNS / "selfplay-0", RUNS / "rlvr-0"
FEW = {"steps": 2, "threads": 1, "eval_problems": 0, "probe_every": 0, "max_new_tokens": 6}


def rollouts(run: Path) -> list[dict]:
    files = sorted((run / "rollouts").glob("*.jsonl"), key=lambda file: int(file.stem[5:]))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def proposed(run: Path = PLAYED) -> sources.Source:
    return sources.find(f"proposed:{run}", "notation")


def test_proposed_problems_are_those_that_the_solver_met() -> None:
    entries = [row["entry"] for row in rollouts(PLAYED) if row.get("entry")]
    questions = proposed().questions("training", 10_000, 5)
    assert [question.task for question in questions] == [entry["kind"] for entry in entries]
    assert [question.program for question in questions] == [entry["program"] for entry in entries]
    met = {row["prompt"] for row in rollouts(PLAYED) if row["role"] == "solver"}
    assert {question.prompt for question in questions} == met
    assert all(judge(question, str(question.answer)).correct for question in questions)
    assert not judge(questions[0], "'no such value'").correct


def test_of_more_problems_some_are_taken_evenly_and_in_order() -> None:
    source = proposed()
    every = [question.id for question in source.questions("training", 10_000, 0)]
    few = [question.id for question in source.questions("training", 5, 0)]
    assert [every.index(name) for name in few] == [place * len(every) // 5 for place in range(5)]
    assert source.questions("test", 6, 3)[0].split == "seen"  # of the task of that run
    questions = source.questions("training", 10_000, 0)
    assert pool_of("x", questions)["programs"] == len({question.program for question in questions})


def test_correct_samples_are_kept_as_often_as_they_were_sampled(tmp_path: Path) -> None:
    run = shutil.copytree(SOLVED, tmp_path / "run")
    rows = [row for row in rollouts(SOLVED) if row["reward"] >= 1]
    again = [*rows, *rows, rows[0] | {"ended": "length"}, rows[0] | {"reward": 0.5}, rows[0] | {"role": "proposer"}]
    (run / "rollouts" / "step_10.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    source = sources.find(f"correct:{run}", "notation")
    questions = source.questions("training", 10_000, 0)
    assert [(question.prompt, question.answer) for question in questions] == [(row["prompt"], row["completion"]) for row in [*rows] * 3]
    assert isinstance(source, sources.Recorded)
    assert source.record == {
        "run": str(run), "steps": 5, "records": 3 * len(rows), "distinct": len(rows), "left_out_cut": 1, "used": 3 * len(rows)
    }  # fmt: skip
    with pytest.raises(InputError, match="a recorded sample is an answer to imitate"):
        judge(questions[0], "x")


def broken(run: Path, **changes: object) -> Path:
    """Change the first valid proposal of a run."""
    file = next(file for file in sorted((run / "rollouts").glob("*.jsonl")) if '"entry"' in file.read_text())
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    next(row for row in rows if row.get("entry"))["entry"].update(changes)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": "(12345,)"}, "its program has other outputs than are recorded"),
        ({"kind": "theft"}, "'theft' is no task type; there are deduction, abduction, induction"),
        ({"inputs": "open('x')"}, "its inputs or outputs are no literals"),
        ({"inputs": "()", "outputs": "()"}, "its inputs are not a tuple of calls with an output each"),
        ({"inputs": "3"}, "its inputs are not a tuple of calls"),
        ({"inputs": "((1,),(2,))"}, "its inputs are not a tuple of calls with an output each"),
        ({"program": "().__class__.__mro__[1].__subclasses__()"}, "is not a valid task for this model"),
        ({"program": 3}, "field 'entry.program': expected a text"),
        ({"inputs": "(" * 500}, "its inputs or outputs are no literals"),
    ],
)
def test_a_strangers_proposal_is_refused_with_its_place(changes: dict, message: str, tmp_path: Path) -> None:
    run = broken(shutil.copytree(PLAYED, tmp_path / "run"), **changes)
    with pytest.raises(InputError, match=r"step_\d+\.jsonl, line \d+") as error:
        proposed(run).questions("training", 10_000, 0)
    assert "\n" not in str(error.value)
    assert message in str(error.value)


def test_proposals_in_the_laboratory_are_validated_again(tmp_path: Path) -> None:
    run = shutil.copytree(PLAYED, tmp_path / "run")
    with pytest.raises(InputError, match="is not a"):  # programs of another language
        sources.find(f"proposed:{run}", "lab").questions("training", 10, 0)
    for file in (run / "rollouts").iterdir():
        file.unlink()
    entry = {"kind": "deduction", "program": "x*2;x+1", "inputs": "((5,),)", "message": "", "outputs": "(11,)", "step": 1}
    row = {"role": "proposer", "valid": True, "entry": entry}
    (run / "rollouts" / "step_1.jsonl").write_text(json.dumps(row) + "\n")
    (question,) = sources.find(f"proposed:{run}", "lab").questions("training", 10, 0)
    assert (question.prompt, question.program) == ("<D>x*2;x+1<in>5<sep>", "int: x*2;x+1")
    assert judge(question, "<ans>11").correct
    from dynamics.train.lab.problems import problem_sets

    held_out = problem_sets()["test"][0]
    entry |= {"program": str(held_out.program), "inputs": repr(((held_out.inputs[0],),)), "outputs": repr((held_out.outputs[0],))}
    (run / "rollouts" / "step_1.jsonl").write_text(json.dumps(row | {"entry": entry}) + "\n")
    with pytest.raises(InputError, match="held out: test"):
        sources.find(f"proposed:{run}", "lab").questions("training", 10, 0)


def test_proposals_in_plain_text_run_in_the_sandbox(tmp_path: Path) -> None:
    run = shutil.copytree(PLAYED, tmp_path / "run")
    for file in (run / "rollouts").iterdir():
        file.unlink()
    entry = {"kind": "abduction", "program": "def f(x):\n    return x[::-1]", "inputs": "(('ab',),)", "message": "", "step": 1}
    for outputs, message in (("('ba',)", ""), ("('ab',)", "its program has other outputs than are recorded")):
        row = {"role": "proposer", "valid": True, "entry": entry | {"outputs": outputs}}
        (run / "rollouts" / "step_1.jsonl").write_text(json.dumps(row) + "\n")
        source = sources.find(f"proposed:{run}", "plain", allow_unconfined=True)
        try:
            if message:
                with pytest.raises(InputError, match=message):
                    source.questions("training", 10, 0)
            else:
                (question,) = source.questions("training", 10, 0)
                assert judge(question, "<answer>'ab'</answer>").correct
                assert not judge(question, "<answer>'ba'</answer>").correct
        finally:
            sources.close(source)


@pytest.mark.parametrize("method", ["pasodoble", "populora"])
def test_proposals_of_games_with_several_players(method: str, tmp_path: Path) -> None:
    run = shutil.copytree(PLAYED, tmp_path / "run")
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"method": method}))
    for file in (run / "rollouts").iterdir():
        file.unlink()
    entry = {"kind": "deduction", "program": "x*2;x+1", "inputs": "((5,),)", "message": "", "outputs": "(11,)", "step": 1}
    row = {"role": "proposer", "player": "teacher2", "task": "problem", "valid": True, "claim": "12", "entry": entry}
    claimed = {"role": "claimer", "player": "teacher2", "task": "claim", "correct": False, "program": "int: x*2;x+1", "input": "5"}
    invalid = {"role": "proposer", "player": "teacher1", "task": "problem", "valid": False}
    file = run / "rollouts" / "step_1.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in (row, claimed, invalid)))
    (question,) = sources.find(f"proposed:{run}", "lab").questions("training", 10, 0)
    assert judge(question, "<ans>11").correct
    assert not judge(question, "<ans>12").correct  # as was claimed
    file.write_text(json.dumps(invalid) + "\n")
    with pytest.raises(InputError, match="problems in words are none"):
        sources.find(f"proposed:{run}", "lab").questions("training", 10, 0)


def test_what_is_no_such_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_file = shutil.copytree(PLAYED, tmp_path / "of_file")
    document = json.loads((of_file / "run.json").read_text())
    (of_file / "run.json").write_text(json.dumps(document | {"config": document["config"] | {"task": "/etc/passwd.jsonl"}}))
    empty = shutil.copytree(PLAYED, tmp_path / "empty")
    shutil.rmtree(empty / "rollouts")
    for task, message in (
        ("proposed:", "names no run directory"),
        (f"proposed:{tmp_path / 'nothing'}", "names no run directory"),
        (f"proposed:{SOLVED}", "is a run of rlvr; needs one of selfplay or pasodoble or populora"),
        (f"correct:{PLAYED}", "is a run of selfplay; needs one of rlvr"),
        (f"proposed:{of_file}", "which is not opened unasked"),
        (f"proposed:{empty}", "the run has none in its rollouts"),
    ):
        with pytest.raises(InputError, match=message):
            sources.find(task, "notation").questions("training", 1, 0)
    for config, message in (
        (RLVRConfig(task=f"correct:{SOLVED}"), "are answers to imitate; use sft"),
        (SelfPlayConfig(task=f"proposed:{PLAYED}"), "trains on its own proposals"),
    ):
        with pytest.raises(InputError, match=message):
            checks.check_run({RLVRConfig: "rlvr", SelfPlayConfig: "selfplay"}[type(config)], config, tmp_path / "out", False)
    for name, value, message in (("MOST_BYTES", 10, "bytes of rollouts, more than"), ("MOST", 1, "records of problems, more than")):
        with monkeypatch.context() as patch:
            patch.setattr(sources, name, value)
            with pytest.raises(InputError, match=message):
                proposed().questions("training", 1, 0)


def test_recorded_order_passes_once_over_all_problems() -> None:
    for steps, count, of in ((100, 24, 1200), (10, 4, 40), (7, 5, 13), (5, 4, 4), (1, 3, 10)):
        windows = [data_order.recorded(step, steps, count, of) for step in range(1, steps + 1)]
        assert all(len(set(window)) == count for window in windows)  # as in shuffled order, a step has different problems
        starts = [window[0] for window in windows]
        assert starts == sorted(starts)
        assert windows[0][0] == 0
        if steps > 1:
            assert windows[-1][-1] == of - 1
        if steps * count >= 2 * of > 2 * count:
            assert set(np.concatenate(windows).tolist()) == set(range(of))
    assert Counter(data_order.recorded(1, 3, 5, 2)) == {0: 3, 1: 2}  # fewer problems than places
    config = RLVRConfig(data_order="recorded", steps=4)
    assert data_order.of_step(config, 2, 3, 12) == data_order.recorded(2, 4, 3, 12)
    assert data_order.of_step(RLVRConfig(), 2, 3, 12) == data_order.chosen(0, 2, 3, 12)


def test_advantages_of_each_task_type_are_those_of_self_play() -> None:
    """Beside any proposals: the cells of the solver are the same, to the bit."""
    rng = np.random.default_rng(0)
    rewards, prompt_of, lengths = rng.integers(0, 2, 72).astype(float), np.repeat(np.arange(12), 6), rng.integers(1, 9, 72)
    kinds = [("deduction", "abduction", "induction")[prompt % 3] for prompt in prompt_of]
    for name in ("reinforce++", "reinforce++-sequence", "reinforce++-baseline"):
        method = object.__new__(RLVR)
        method.config = RLVRConfig(advantage=name, advantage_cells="role-task")  # type: ignore[arg-type]
        given = method._advantages(rewards, prompt_of, lengths, kinds)
        beside = ["proposer"] * 3 + ["solver"] * len(rewards)
        of_both = objectives.task_relative_reinforce_plus_plus(
            name, [-1.0, 0.5, 0.2, *rewards], [90, 91, 92, *prompt_of], [4, 4, 4, *lengths], beside, [*kinds[:3], *kinds]
        )
        assert given.tolist() == of_both[3:].tolist()
        method.config = RLVRConfig(advantage=name)  # type: ignore[arg-type]
        assert np.abs(given - method._advantages(rewards, prompt_of, lengths, kinds)).max() > 0.01


def test_cells_that_change_nothing_are_refused() -> None:
    check(RLVRConfig(advantage="reinforce++", advantage_cells="role-task"))
    for name in ("grpo", "dr_grpo", "rloo", "reinforce"):
        with pytest.raises(InputError, match="--advantage-cells role-task: does nothing"):
            check(RLVRConfig(advantage=name, advantage_cells="role-task"))  # type: ignore[arg-type]


def test_controls_train_and_say_what_they_are(base: Path, tmp_path: Path) -> None:
    of = {"model": str(base), "task": f"proposed:{PLAYED}", "prompts_per_step": 4, "group_size": 4, **FEW}
    cells = {"advantage": "reinforce++-sequence", "advantage_cells": "role-task"}
    loop.run("rlvr", RLVRConfig(data_order="recorded", **cells, **of), tmp_path / "recorded")
    loop.run("sft", SFTConfig(model=str(base), task=f"correct:{SOLVED}", batch_size=4, **FEW), tmp_path / "imitated")
    documents = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in ("recorded", "imitated")}
    assert documents["recorded"]["pool"]["recorded"]["records"] == 25
    assert [document["matching"]["kind"] for document in documents.values()] == [
        "rlvr on proposed problems, in recorded order, with the estimator of self-play",
        "sft on correct samples",
    ]
    order = list(dict.fromkeys(row["problem"] for row in rollouts(tmp_path / "recorded")))
    every = [question.id for question in proposed().questions("training", 10_000, 0)]
    assert order == [*every[:4], *every[-4:]]
