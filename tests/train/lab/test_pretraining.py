"""Bases are reproducible, also after they were stopped; what they can do is measured as stated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not hasattr(torch.optim, "Muon"):
    pytest.skip("this torch has no Muon", allow_module_level=True)

from safetensors.torch import load_file

from dynamics import InputError
from dynamics.train.lab import competence, pretraining, problems
from dynamics.train.lab.__main__ import cli, main
from dynamics.train.lab.competence import Base, is_right, measure, prompt_of
from dynamics.train.lab.examples import Rates, solve
from dynamics.train.lab.notation import Step, step_text
from dynamics.train.lab.operations import kind_of, read, write
from dynamics.train.lab.pretraining import Recipe, batches, padded, rate, train
from dynamics.train.lab.problems import Case
from dynamics.train.lab.programs import read_program
from dynamics.train.lab.tokenizer import build_tokenizer

SMALL = Recipe(hidden=16, layers=1, heads=2, intermediate=16, steps=6, tokens=256, warmup=2, cooldown=3, practice=1)


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "POOL", 4)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    told = []
    straight = weights(train(SMALL, tmp_path / "a", every=2, on_progress=lambda *what: told.append(what)))
    train(SMALL, tmp_path / "b", every=2, until=3)
    stopped = weights(tmp_path / "b" / "base")
    assert weights(train(SMALL, tmp_path / "b", every=2)) == straight != stopped
    assert [step for step, *_ in told] == [2, 4, 6]
    assert told[-1][2] > told[0][2] > 0
    other = Recipe(**{**SMALL.__dict__, "seed": 1})
    assert weights(train(other, tmp_path / "c")) != straight
    recorded = json.loads((tmp_path / "a" / "base" / "recipe.json").read_text())
    assert recorded["hash"] == SMALL.hash() != other.hash()
    with pytest.raises(InputError, match="state of another recipe"):
        train(other, tmp_path / "a")
    (tmp_path / "a" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as the state of a base"):
        train(SMALL, tmp_path / "a")


def test_all_weights_are_trained_each_by_one_optimizer() -> None:
    model = pretraining.build(SMALL)
    both = pretraining.optimizers(model, SMALL)
    held = [id(value) for optimizer in both for group in optimizer.param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in model.parameters())
    assert all(group["weight_decay"] == 0 for optimizer in both for group in optimizer.param_groups)


def test_torch_without_muon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"install torch 2\.9"):
        pretraining.optimizers(pretraining.build(SMALL), SMALL)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, cooldown=40, final=0.05)
    assert [rate(recipe, step) for step in (0, 4, 9, 50, 60)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [rate(recipe, step) for step in (80, 99)] == pytest.approx([0.5, 0.05])


def test_batches_go_on_where_they_stopped_and_are_padded_on_the_right() -> None:
    tokenizer = build_tokenizer()
    stream = batches(SMALL, tokenizer)
    first = [next(stream) for _ in range(9)]
    pool, index, _ = first[5]
    again = batches(SMALL, tokenizer, pool, index)
    assert [next(again) for _ in range(3)] == first[6:]
    assert len({pool for pool, _, _ in first}) > 1
    for _, _, rows in first:
        ids, loss_weights = padded(rows, 0.25)
        assert ids.numel() <= max(SMALL.tokens, pretraining.MAX_LENGTH)
        assert ids.shape[1] % pretraining.MULTIPLE == 0
        for row, (tokens, prompt) in enumerate(rows):
            assert ids[row, : len(tokens)].tolist() == tokens
            assert tokens[-1] == tokenizer.eos_token_id
            assert loss_weights[row].tolist() == [0.25] * prompt + [1.0] * (len(tokens) - prompt) + [0.0] * (ids.shape[1] - len(tokens))


CASES = [
    Case(read_program("x+3;x*2"), (7, 1, 2, 3, 4, 5)),
    Case(read_program("sorted(x);x[1:]"), ([3, 1, 2], [4, 1], [2, 9], [5, 0], [1, 0], [3, 2])),
    Case(read_program("x%5"), (8, 1, 2, 3, 4, 5)),
]


def test_answers_are_graded() -> None:
    case = CASES[0]
    assert is_right("deduction", case, "20")
    assert not any(is_right("deduction", case, text) for text in (None, "", "21", "020", "'20'", "[20]", "20 "))
    assert is_right("abduction", case, "7")
    assert not any(is_right("abduction", case, text) for text in ("8", "98", "nonsense"))
    assert is_right("induction", case, "x*2;x+6")
    assert not any(is_right("induction", case, text) for text in ("x+13", "20", "x*2;x+6;", "x.upper()"))
    lists = CASES[1]
    assert is_right("abduction", lists, "[2,3,0]")
    assert is_right("induction", lists, "sorted(x);x[1:]")


class Perfect(Base):
    """Answers everything as it should, from what the prompt says."""

    def __init__(self, wrong: bool = False):
        self.tokens, self.wrong = 0, wrong

    def ask(self, prompts, temperature=0.0, samples=1, begin=""):
        return [[self.answer(prompt, begin)] * samples for prompt in prompts]

    def answer(self, prompt: str, begin: str) -> str:
        mark, _, rest = prompt.removesuffix("<sep>").partition(">")
        text, _, value_text = rest.partition("<in>")
        value = read(value_text.split("<")[0])
        if mark in ("<PD", "<PA"):
            return "x+1;x*3<in>4"
        for case in CASES:
            if (mark == "<I" and prompt == prompt_of("induction", case)) or (mark == "<A" and prompt == prompt_of("abduction", case)):
                answer = str(case.program) if mark == "<I" else write(case.inputs[0])
                return f"{begin if begin != '<ans>' else ''}<ans>{answer}"
            if mark == "<T" and any(prompt == prompt_of("transfer", case, number) for number in range(3)):
                value, text = case.inputs[0], str(case.program)
        program = read_program(text, kind_of(value))
        steps = program.steps(value)
        if mark == "<J":
            return f"<s>{step_text(steps[prompt.count('<s>') - 1])}"
        if mark == "<W":
            return f"<s>{steps[prompt.count('<s>')][0]}=99"
        if mark == "<H":
            return f"<hint>{steps[0][0]}={write(steps[0][1])}"
        rates = Rates(scratchpad=float(begin != "<ans>"), omitted=0, wrong=0, repeated=0, direct_wrong=0)
        if "<hint>" in prompt and not Step(prompt.removesuffix("<sep>").split("<hint>")[1]).is_true:
            return "<ans>0"
        return solve(np.random.default_rng(0), program, value, rates)


def test_a_perfect_model_has_perfect_scores() -> None:
    scores = {
        (score.form, score.depth, score.manner, score.measure): score
        for score in measure(Perfect(), CASES, [CASES[0], CASES[2]], samples=4)
    }
    for form in ("deduction", "abduction", "induction", "transfer"):
        for manner in ("direct", "steps", "greedy", "T=1"):
            assert scores[form, 0, manner, "pass@1"].value == 1
        assert scores[form, 0, "T=1", "pass@4"].value == 1
        assert scores[form, 0, "T=1", "pass@1"].count == (2 if form == "transfer" else 3)
    assert scores["deduction", 0, "steps", "true steps"].value == 1
    assert scores["deduction", 2, "T=1", "with steps"].value == 1
    assert scores["deduction", 1, "T=1", "pass@1"].count == 1
    assert scores["hinted", 0, "greedy", "pass@1, right hint"].value == 1
    assert scores["hinted", 0, "greedy", "pass@1, wrong hint"].value == 0
    assert ("hinted", 1, "greedy", "pass@1, no hint") not in scores
    for manner in ("greedy", "T=1"):
        assert scores["judge", 0, manner, "balanced accuracy"].value == 1
        assert scores["judge", 0, manner, "balanced accuracy"].count == 6
    assert scores["wrong step", 0, "T=1", "wrong"].value == 1
    assert scores["hint", 0, "T=1", "true"].value == 1
    assert scores["propose PD", 0, "T=1", "valid"].value == scores["propose PD", 0, "T=1", "proper"].value == 1


def test_the_command_measures_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(competence, "MAX_NEW_TOKENS", 4)
    sets = {"validation": CASES, "transfer validation": CASES[:1], "test": CASES[:1], "deeper": CASES[1:], "transfer": CASES[:1]}
    monkeypatch.setattr(problems, "problem_sets", lambda: sets)
    folder = train(SMALL, tmp_path / "made")
    main(["competence", str(folder), "--samples", "1", "--json", str(tmp_path / "table.json")])
    shown = capsys.readouterr().out
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["schema"] == "dynamics.competence/1"
    assert {score["form"] for score in table["scores"]} >= {"deduction", "abduction", "induction", "transfer", "judge", "hinted"}
    assert all(0 <= score["value"] <= 1 for score in table["scores"])
    assert "deduction" in shown
    assert "balanced accuracy" in shown


def test_a_packed_base_is_small_and_brings_its_recipe_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(competence, "MAX_NEW_TOKENS", 4)
    sets = {"validation": CASES, "transfer validation": CASES[:1], "test": CASES[:1], "deeper": CASES[1:], "transfer": CASES[:1]}
    monkeypatch.setattr(problems, "problem_sets", lambda: sets)
    folder = train(SMALL, tmp_path / "made")
    main(["pack", str(folder), str(tmp_path / "base-7"), "--samples", "1", "--sets", "validation,test"])
    packed = tmp_path / "base-7"
    stored = load_file(packed / "model.safetensors")
    before = load_file(folder / "model.safetensors")
    assert all(torch.equal(stored[name], before[name].to(torch.bfloat16)) for name in before)
    assert json.loads((packed / "recipe.json").read_text())["hash"] == SMALL.hash()
    for chosen in ("validation", "test"):
        table = json.loads((packed / f"competence-{chosen}.json").read_text())
        assert (table["model"], table["set"], table["samples"]) == ("base-7", chosen, 1)
        main(["competence", str(packed), "--set", chosen, "--samples", "1", "--json", str(tmp_path / "again.json")])
        assert json.loads((tmp_path / "again.json").read_text())["scores"] == table["scores"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "nowhere", "out"], "has no recipe.json"),
        (["base", "out", "--steps", "0"], "--steps 0: must be at least 1"),
        (["base", "out", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["competence", "nowhere"], "nowhere"),
        (["competence", "nowhere", "--set", "tests"], "invalid choice"),
    ],
)
def test_bad_options_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
