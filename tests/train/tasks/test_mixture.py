"""Tasks by name: mixtures, files, reasoning-gym."""

from __future__ import annotations

import pytest

from dynamics import InputError
from dynamics.train import tasks
from dynamics.train.tasks.mixture import Mixture


def test_a_mixture_takes_turns(tmp_path) -> None:
    file = tmp_path / "a+b.jsonl"  # a file's name is taken as it is
    file.write_text("".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(20)))
    few = tasks.source(str(file))
    assert few.name == "a+b.jsonl"
    mixed = tasks.source("proposals+deduction")
    alone = [tasks.source(name).questions("training", 3, 0) for name in ("proposals", "deduction")]
    assert [question.id for question in mixed.questions("training", 5, 0)] == [
        question.id for pair in zip(*alone, strict=True) for question in pair
    ][:5]
    twice = tasks.source("code+deduction+deduction").questions("test", 12, 0)
    assert len({question.id for question in twice}) == len(twice)
    assert len({question.prompt for question in twice if question.task == "deduction"}) > 4  # of streams of their own
    short = Mixture([few, tasks.source("code")]).questions("test", 10, 0)  # the file has two rows for a test
    assert [question.task for question in short].count("data") == 2
    assert len(short) == 7
    with pytest.raises(InputError, match="unknown; there are code"):
        tasks.source("code+nothing_like_it")


def test_unknown_tasks_and_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"unknown; there are code, deduction"):
        tasks.source("nothing_like_it")
    with pytest.raises(InputError, match="no such file"):
        tasks.source(str(tmp_path / "a.jsonl"))
    file = tmp_path / "b.jsonl"
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"row 1: has neither completion nor answer; it has prompt"):
        tasks.source(str(file))
    file.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match="no text field prompt; it has question, answer"):
        tasks.source(str(file))
    file.write_text("{\n")
    with pytest.raises(InputError, match="line 1: is not JSON"):
        tasks.source(str(file))


def test_a_task_of_reasoning_gym_is_judged_by_its_own_scorer() -> None:
    pytest.importorskip("reasoning_gym")
    source = tasks.source("chain_sum")
    for question in source.questions("training", 5, 0):
        assert question.verify(str(question.answer)).score == 1
        assert question.verify("<answer>nonsense</answer>").score < 1
        assert question.verify(str(question.answer)[8:-9]).score == 1  # without tags
    easy = tasks.source("chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1").questions("training", 20, 0)
    assert all(abs(int(str(problem.answer)[8:-9])) < 20 for problem in easy)
    with pytest.raises(InputError, match="settings are not valid"):
        tasks.source("chain_sum:no_such_thing=2")
    assert source.questions("training", 3, 0)[0].prompt != source.questions("test", 3, 0)[0].prompt


@pytest.mark.slow
def test_free_form_mathematics(tmp_path) -> None:
    pytest.importorskip("math_verify")
    file = tmp_path / "m.jsonl"
    file.write_text("".join(f'{{"prompt": "half of {n}?", "answer": "{n}/2"}}\n' for n in range(20)))
    questions = tasks.source(str(file)).questions("training", 100, 0)
    assert len(questions) == 16
    assert questions[5].verify("<answer>2.5</answer>").correct
    assert not questions[5].verify("<answer>3</answer>").correct
