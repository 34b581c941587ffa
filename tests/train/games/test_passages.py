"""Problems that are written about passages: what is read, what leaks, what agrees, and which tasks cannot feed the game."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.train import tasks
from dynamics.train.games.pasodoble_settings import PasoDobleConfig
from dynamics.train.games.passages import Programs, Texts, find, leak, normalised
from dynamics.train.sandbox.literals import Refused

ROWS = "\n".join(f'{{"prompt": "What is {number} + {number}?", "answer": "{2 * number}"}}' for number in range(20))


@pytest.mark.parametrize(
    ("question", "claim", "leaks"),
    [
        ("What is 12 + 0?", "2", ""),
        ("What is 12 + 0?", "12", ""),
        ("Is it so?", "yes", ""),
        ("12", "12", "question in the answer"),
        ("The capital of France is Paris France. What is it?", "Paris France", "answer in the question"),
        ("Who parishes?", "Parish", ""),
        ("What is 1+1?", "What is 1+1? It is 2", "question in the answer"),
        ("What is <answer>2</answer>?", "2", "marked answer in the question"),
        ("What is \\boxed{2}?", "2", "marked answer in the question"),
        ("What is 1+1?", "", ""),
    ],
)
def test_what_leaks(question: str, claim: str, leaks: str) -> None:
    assert leak(question, claim) == leaks


def test_numbers_are_equal_however_they_are_written() -> None:
    assert normalised(" 1,250.50. ") == normalised("1250.5") == "2501/2"
    assert normalised("$5") == normalised("5.0") == "5"
    assert normalised("The  Cat.") == "the cat"
    assert normalised("9" * 50) == "9" * 50  # too long for a number
    assert normalised("1e999999") == "1e999999"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_texts_are_read_and_passages_are_shown_without_answers(file: Path) -> None:
    passages = find(PasoDobleConfig(task=str(file), model="gpt2"), tasks.source(str(file)), "plain")
    assert isinstance(passages, Texts)
    prompt = passages.prompt(np.random.default_rng(0))
    assert prompt.startswith("What is ")
    assert "<problem>" in prompt
    draft = passages.read("<problem>What is 1+1?</problem> <answer> 2 </answer>", "name")
    assert (draft.text, draft.claim, draft.leak) == ("What is 1+1?", "2", "")
    assert not draft.question.verify("2").correct  # nobody knows the answer
    assert passages.read("<problem>What?</problem>", "name").claim is None
    assert passages.read(f"<problem>What?</problem><answer>{'9' * 1000}</answer>", "name").claim is None
    for text in ("What?", "<problem>a</problem><problem>b</problem>", "<problem> </problem>", f"<problem>{'a' * 3000}</problem>"):
        with pytest.raises(Refused):
            passages.read(text, "name")
    none = find(PasoDobleConfig(task=str(file), model="gpt2", passage="none"), tasks.source(str(file)), "plain")
    assert "What is" not in none.prompt(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("more", "speaks", "message"),
    [
        ({"task": "code+proposals"}, "plain", "draws passages from programs"),
        ({"task": "proposals"}, "plain", "draws passages from programs"),
        ({"task": "FILE", "truth": "executor"}, "plain", "--truth executor needs problems that are programs"),
        ({"task": "FILE"}, "notation", "writes programs only"),
    ],
)
def test_tasks_that_cannot_feed_it(more: dict, speaks, message: str, file: Path) -> None:
    more = more | {"task": more["task"].replace("FILE", str(file))}
    with pytest.raises(InputError, match=message):
        PasoDobleConfig(**more).check_source(tasks.source(more["task"], speaks == "plain"), speaks)


def test_what_is_held_out_is_not_put_even_if_it_does_not_run() -> None:
    passages = find(PasoDobleConfig(task="lab"), tasks.source("lab"), "lab")
    assert isinstance(passages, Programs)
    held_out = next(iter(problem for problem in _cases("test")))
    with pytest.raises(Refused, match="held out: test"):
        passages.read(f"{held_out.program}<in>{_written(held_out.inputs[0])}", "name")
    draft = passages.read("x-9<in>5", "name")  # undefined below 0, and put to the solver all the same
    assert passages.run([draft]) == ["undefined"]
    assert draft.question.prompt == "<D>x-9<in>5<sep>"
    assert draft.question.about_program() == {"program": "int: x-9", "input": "5", "depth": 1}
    assert passages.agree(["7", "7"], ["<ans>7", "<s>7+1=8<ans>8"]) == [True, False]


def _cases(name: str):
    from dynamics.train.lab.problems import problem_sets

    return problem_sets()[name]


def _written(value) -> str:
    from dynamics.train.lab.operations import write

    return write(value)
