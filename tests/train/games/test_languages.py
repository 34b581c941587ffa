"""Self-play in the notation of the laboratory: what is valid, what is refused, and a run that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.train import __main__ as command
from dynamics.train import loop, policy, tasks
from dynamics.train.completions import SampledCompletion
from dynamics.train.config import SelfPlayConfig
from dynamics.train.games.azr import SelfPlay
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.languages import LaboratoryNotation, Python, language
from dynamics.train.games.proposals import Proposal
from dynamics.train.lab import notation
from dynamics.train.lab.operations import write
from dynamics.train.lab.problems import SETS, Case, problem_sets
from dynamics.train.lab.programs import draw_inputs, draw_program, normal_form, read_program, split_of
from dynamics.train.lab.tokenizer import TOKENS
from dynamics.train.sandbox.expressions import Refused
from dynamics.train.tasks import laboratory
from dynamics.train.tasks.problem import ProposedTask
from train.helpers import contents

LAB = LaboratoryNotation()


def outcome(kind: str, text: str, program: str | None = None) -> str:
    """Return the reason why a proposal is refused, or nothing."""
    try:
        (outputs,) = LAB.run([LAB.parse_proposal(kind, text, program)])
    except Refused as error:
        return str(error)
    return outputs if isinstance(outputs, str) else ""


INDUCTION = "1<in>2<in>3<in>4<in>5<in>6"


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("deduction", "x*2<in>3", ""),
        ("abduction", "x*3<in>3", ""),
        ("deduction", "x*2<in>3<in>4", "form"),
        ("deduction", "x*2", "form"),
        ("deduction", "", "form"),
        ("deduction", "<in>", "input is no literal"),
        ("deduction", "x*2<in>y", "input is no literal"),
        ("deduction", "x*2<in>100", "input is no literal"),
        ("deduction", "x*2<in>" + "9" * 10**6, "input is no literal"),
        ("deduction", "x<in>3", "not a program"),
        ("deduction", "x*2;" * 10**5 + "<in>3", "form"),
        ("deduction", "x*2;" * 5 + "x*2<in>3", "not a program"),
        ("deduction", "__import__('os').system('true')<in>3", "not a program"),
        ("deduction", "x*2<sep><in>3", "not a program"),
        ("deduction", "x*2\x00\x1b[2J<in>3", "not a program"),
        ("deduction", "x*2<in>[3]", "input of another kind"),
        ("deduction", "x*2<in>99", "undefined"),
        ("deduction", "x*2;x//2<in>3", "not proper"),
        ("deduction", "x%2;max(x,5)<in>3", "not proper"),
        ("induction", INDUCTION, ""),
        ("induction", INDUCTION + "<in>7<in>8", ""),
        ("induction", "1<in>2<in>3<in>4<in>5<in>5", "fewer than 6 different inputs"),
        ("induction", "1<in>2<in>3<in>4<in>5<in>'a'", "inputs of several kinds"),
        ("induction", "1<in>2<in>3<in>4<in>5<in>99", "undefined"),
        ("induction", "'a'<in>'b'<in>'c'<in>'d'<in>'e'<in>'f'", "input of another kind"),
    ],
)
def test_what_is_a_valid_task(kind: str, text: str, reason: str) -> None:
    assert outcome(kind, text, "x*2") == reason


#: pieces of which a model's text can be made, and some that only a file can hold
PIECES = (*TOKENS, "<in>", "<ans>", "\x00", "\x1b[2J", "\ud800", "\u0663", "\n", "x*2<in>5", "sorted(x)<in>[3,1]", INDUCTION)


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(["deduction", "abduction", "induction"]))
def test_any_text_is_a_task_or_refused_and_any_answer_is_graded(pieces: list[str], kind: str) -> None:
    text = "".join(pieces)
    case = Case(read_program("x*2"), (1, 2, 3, 4, 5, 6))
    assert laboratory.verify(kind, case, text).correct in (True, False)
    try:
        proposed = LAB.parse_proposal(kind, text, "x*2")
    except Refused:
        return
    (outputs,) = LAB.run([proposed])
    assert len(LAB.key(kind, proposed)) < 400
    if not isinstance(outputs, str):
        entry = BufferEntry(kind, proposed, outputs, 1)
        assert BufferEntry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
        assert LAB.question(kind, proposed, outputs, "name").prompt.isascii()


@pytest.mark.parametrize("name", SETS)
def test_programs_of_other_sets_are_refused_in_any_words(name: str) -> None:
    refused = "" if name == "training" else f"held out: {name}"
    cases = problem_sets()[name]
    for case in cases[:: len(cases) // 12]:
        for value in case.inputs[:2]:
            assert outcome("deduction", f"{case.program}<in>{write(value)}") == refused
            assert outcome("abduction", f"{case.program}<in>{write(value)}") == refused
    if name == "test":
        assert "int: x+20" in {case.program.label for case in cases}
        assert outcome("deduction", "x+11;x+9<in>1") == refused


def test_programs_of_the_test_split_that_are_in_no_set_are_free() -> None:
    held_out = {normal_form(case.program) for cases in problem_sets().values() for case in cases}
    rng = np.random.default_rng(0)
    program = draw_program(rng, 3, split="test")
    assert split_of(program) == "test"
    assert normal_form(program) not in held_out
    assert outcome("deduction", f"{program}<in>{write(draw_inputs(rng, program, 1)[0])}") == ""


def test_what_the_buffer_begins_with_is_no_program_of_a_set() -> None:
    first, outputs = LAB.first
    assert LAB.run([first]) == [outputs]
    assert split_of(read_program(first.program, "int")) == "pretraining"


def test_duplicates_are_the_same_program_on_the_same_input() -> None:
    def key(program: str, *values: object) -> str:
        return LAB.key("deduction", ProposedTask(program, tuple((value,) for value in values)))

    assert key("x+1;x+2", 5) == key("x+3", 5) != key("x+3", 6)
    assert key("x[1:]", "ab") != key("x[1:]", [1, 2])
    assert key("x*2", 1, 2) == key("x*2", 2, 1)


def test_prompts_are_those_of_pretraining() -> None:
    first = LAB.first[0]
    assert LAB.proposal_prompt("deduction", [first], None) == "<PD><ref>x*2<in>5<sep>"
    assert LAB.proposal_prompt("abduction", [first], None) == "<PA><ref>x*2<in>5<sep>"
    assert LAB.proposal_prompt("induction", [], "x*2") == notation.inputs_prompt("x*2") == "<PI>x*2<sep>"


def test_questions_of_proposed_tasks_accept_right_answers() -> None:
    values = ((3,), (4,), (5,), (6,), (7,), (8,))
    for kind, answer in {"deduction": "<ans>6", "abduction": "<ans>3", "induction": "<ans>x*2"}.items():
        proposed = ProposedTask("x*2", values if kind == "induction" else values[:1])
        question = LAB.question(kind, proposed, (), "name")
        assert question.verify(answer).correct
        assert not question.verify("<ans>9").correct
        assert (question.program, question.input, question.depth) == ("int: x*2", "3", 1)


def test_measures_of_programs() -> None:
    assert [LAB.complexity(text) for text in ("x*2", "x*2;x+1", "x*2;x+1;x%5;x+9")] == [0.25, 0.5, 1.0]
    assert LAB.expression("x*2;max(x,12)") == "max((x*2),12)"
    assert LAB.expression("nonsense") == ""
    assert Python(True, False).expression("x*2") == "x*2"


def test_the_language_is_that_of_the_model() -> None:
    assert isinstance(language("lab", False), LaboratoryNotation)
    assert language("notation", False).first[0].program == "x"


@pytest.fixture
def game(lab_base: Path):
    def make(**more) -> SelfPlay:
        few = {"prompts_per_step": 4, "group_size": 2, "eval_problems": 0, "max_new_tokens": 8, "num_seed_tasks": 2}
        settings = SelfPlayConfig(model=str(lab_base), task="lab", threads=1, **(few | more))
        return SelfPlay(settings, policy.load(str(lab_base), None, "float32", "float32"), tasks.source("lab"))

    return make


def proposal(kind: str, text: str) -> Proposal:
    sampled = SampledCompletion(np.array([1, 2]), np.zeros(2, np.float32), "eos")
    made = Proposal(kind, "", np.array([1]), sampled, text, [LAB.first[0]])
    made.entry = BufferEntry(kind, LAB.parse_proposal(kind, text, "x*2"), (), 1)
    return made


def test_refused_proposals_are_counted_and_not_solved(game, monkeypatch) -> None:
    played = game(task_types=("deduction",), proposer_bonuses=("complexity", "edit_distance", "halstead", "answer_diversity"))
    texts = ["x+20<in>1", "x+11;x+9<in>1", "x*2<in>5", "x*2;x+1<in>3"]
    monkeypatch.setattr(played.tasks, "propose", lambda *_: [proposal("deduction", text) for text in texts])
    data = played.next_batch(2)
    assert data.metrics["proposer/failed/held out: test"] == 0.5
    assert data.metrics["proposer/failed/duplicate"] == 0.25
    assert data.metrics["program/complexity"] == 0.5
    rows = [row for row in data.rollouts if row["role"] == "proposer"]
    assert [row["reward"] for row in rows[:3]] == [-1.0] * 3
    assert [row["valid"] for row in rows] == [False, False, False, True]
    assert {row["program"] for row in data.rollouts if row["role"] == "solver"} == {"int: x*2;x+1"}
    assert not {"x+20", "x+11;x+9"} & {entry.proposed.program for entry in played.tasks.buffer}


def test_a_buffer_of_lab_tasks_comes_back(game, monkeypatch) -> None:
    """An untrained model proposes nothing valid, so its proposals are given."""
    texts = ["x*2;x+1<in>5", "x[1:];x[::-1]<in>[3,1,2]", "x.upper();x[::-1]<in>'abc'", "x[1:];x[::-1]<in>'abc'"]

    def played() -> SelfPlay:
        made = game(task_types=("deduction", "abduction"), solver_delay=1, solver_batch="max_new")
        monkeypatch.setattr(
            made.tasks, "propose", lambda _, step, *__: [proposal("abduction", texts[step % 4]), proposal("deduction", texts[0])]
        )
        return made

    whole, again = played(), played()
    rows = [whole.next_batch(step).rollouts for step in (1, 2)]
    assert {row["program"] for row in rows[1] if row["role"] == "solver"} > {"int: x*2;x+1"}
    again.load(json.loads(json.dumps(whole.state())))
    assert again.tasks.buffer == whole.tasks.buffer
    assert len(whole.tasks.buffer) > 4
    assert again.next_batch(3).rollouts == whole.next_batch(3).rollouts


def options(base: Path, out: Path, *more: str) -> list[str]:
    few = "--steps 4 --prompts-per-step 3 --group-size 2 --max-new-tokens 8 --max-proposal-tokens 12 --num-seed-tasks 4 --save-every 1"
    few += " --threads 1 --eval-problems 6 --eval-samples 2 --preset lab --on-collapse solver --task-types deduction abduction induction"
    return ["selfplay", "--model", str(base), "--out", str(out), *few.split(), *more]


def test_a_run_on_the_laboratory_is_resumed_to_the_bit(lab_base: Path, tmp_path: Path, monkeypatch) -> None:
    command.main(options(lab_base, tmp_path / "whole"))
    real = loop.Run.one_step

    def dies(self):
        if self.step == 2:
            raise SystemExit(9)
        return real(self)

    monkeypatch.setattr(loop.Run, "one_step", dies)
    with pytest.raises(SystemExit):
        command.main(options(lab_base, tmp_path / "broken"))
    monkeypatch.setattr(loop.Run, "one_step", real)
    command.main(options(lab_base, tmp_path / "broken", "--resume"))
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")
    document = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert document["executor"] == "operations of the laboratory, nothing executed"
    assert set(document["probe_prompts"]) == {"solver", "proposer"}
