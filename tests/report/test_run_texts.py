"""The texts of a run that models are run over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamics.report.run_texts import choose, described, length, of_vocabulary
from dynamics.rollouts.texts import Document
from dynamics.runs.view import RolloutFile, Run


def rollouts(folder: Path, step: int, count: int = 6, characters: int = 30, **more: object) -> RolloutFile:
    path = folder / f"step_{step}.jsonl"
    rows = [{"prompt": "q", "completion": f"{i}" + "x" * characters, "step": step, **more} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RolloutFile(step, path)


def test_first_and_last_step_are_parts(tmp_path: Path) -> None:
    files = [rollouts(tmp_path, step) for step in (1, 5, 9)]
    chosen = choose(Run(tmp_path, "verl", rollouts=files))
    assert [str(document.about["part"]) for document in chosen.documents] == ["step 1"] * 6 + ["step 9"] * 6
    assert chosen.files == [files[0].path, files[2].path]
    assert described(chosen) == "12 texts of step 1, step 9"
    assert len({document.name for document in chosen.documents}) == 12


def test_the_budget_is_shared_and_the_choice_is_reproducible(tmp_path: Path) -> None:
    files = [rollouts(tmp_path, step, count=100, characters=299) for step in (1, 9)]
    run = Run(tmp_path, "verl", rollouts=files)
    chosen = choose(run, tokens=2020)
    assert len(chosen.documents) == 20  # 101 tokens each
    assert chosen.tokens <= 2020
    assert (chosen.available, described(chosen)) == (200, "20 texts of 200, chosen at random, of step 1, step 9")
    assert [document.name for document in choose(run, tokens=2020).documents] == [document.name for document in chosen.documents]
    assert [document.name for document in choose(run, seed=1, tokens=2020).documents] != [document.name for document in chosen.documents]


def test_a_few_long_texts_are_taken_all_the_same(tmp_path: Path) -> None:
    chosen = choose(Run(tmp_path, "verl", rollouts=[rollouts(tmp_path, 1, count=9, characters=9000)]), tokens=100)
    assert len(chosen.documents) == 4


def test_given_files_come_before_those_of_the_run(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("once upon a time")
    chosen = choose(Run(tmp_path, "verl", rollouts=[rollouts(tmp_path, 1)]), [str(text)])
    assert [document.response for document in chosen.documents] == ["once upon a time"]


def test_held_out_problems_are_taken_only_without_others(tmp_path: Path) -> None:
    train, other = rollouts(tmp_path, 1), rollouts(tmp_path, 7)
    held_out = RolloutFile(7, other.path, held_out=True)
    assert choose(Run(tmp_path, "verl", rollouts=[train, held_out])).files == [train.path]
    assert choose(Run(tmp_path, "verl", rollouts=[held_out])).files == [other.path]


def test_what_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\n')
    chosen = choose(Run(tmp_path, "verl"), [str(broken), str(tmp_path / "nothing.txt")])
    assert chosen.documents == []
    assert len(chosen.notes) == 2
    assert choose(Run(tmp_path, "verl")).documents == []


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        (Document("a", ids=(1, 2, 3)), 3),
        (Document("a", prompt="abc", response="def"), 3),
        (Document("a", messages=({"role": "user", "content": "abcdef"}, {"role": "assistant", "content": None})), 3),
    ],
)
def test_lengths(document: Document, tokens: int) -> None:
    assert length(document) == tokens


def test_token_ids_outside_the_vocabulary() -> None:
    inside, outside, text = Document("a", ids=(1, 9)), Document("b", ids=(1, 10)), Document("c", response="text")
    kept, notes = of_vocabulary([inside, outside, text], 10)
    assert kept == [inside, text]
    assert notes == ["1 text with token ids outside the tokenizer's vocabulary of 10: left out of the entropy"]
    assert of_vocabulary([outside, outside, inside], 10) == ([outside, outside, inside], [])
