"""PasoDoble: who earns what, what trains whom, both schedules, the faults of its public code, and bit-identical resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.train import loop, policy, tasks
from dynamics.train.completions import SampledCompletion
from dynamics.train.config import check
from dynamics.train.games.pasodoble import HISTORY, PasoDoble, Problem
from dynamics.train.games.pasodoble_settings import PasoDobleConfig
from dynamics.train.games.passages import Draft
from dynamics.train.progress import summary
from dynamics.train.settings import preset_values
from dynamics.train.tasks.problem import Question, Verdict
from train.helpers import contents


def config(base: Path, **more) -> PasoDobleConfig:
    few = {"steps": 3, "prompts_per_step": 2, "proposals_per_passage": 3, "group_size": 4, "eval_problems": 0, "max_new_tokens": 8}
    few |= {"max_proposal_tokens": 40, "save_every": 1, "probe_every": 0}
    return PasoDobleConfig(model=str(base), threads=1, **(few | more))


@pytest.fixture
def game(base: Path) -> Callable[..., PasoDoble]:
    def make(**more) -> PasoDoble:
        settings = config(base, **more)
        check(settings)
        return PasoDoble(settings, policy.load(str(base), None, "float32", "float32"), tasks.source("code", plain=False))

    return make


def sampled(length: int = 2) -> SampledCompletion:
    return SampledCompletion(np.arange(3, 3 + length), np.zeros(length, np.float32), "eos")


def problem(passage: int, rate: float, text: str = "x+1 3", reason: str = "") -> Problem:
    question = Question(text, text, None, "deduction", "training", lambda _: Verdict.binary(False))
    made = Problem(passage, "?", np.array([1, 2]), sampled(), text, reason, Draft(text, question), rate=rate)
    made.claimed = np.array([1, 2]), sampled(), "4"
    return made


def script(played: PasoDoble, monkeypatch, proposals: Callable[[int], str], claim: str, answers: list[str]) -> list[tuple[str, int]]:
    """Let the models say what is given: a proposal by its number in the step; returns the purposes and steps of what is asked."""
    asked: list[tuple[str, int]] = []
    tokens = played.tokenizer

    def say(text: str) -> SampledCompletion:
        ids = np.array([*tokens(text, add_special_tokens=False)["input_ids"], tokens.eos_token_id])
        return SampledCompletion(ids, np.zeros(len(ids), np.float32), "eos")

    def ask(_policy, prompts, count, purpose, step, _limit=None) -> list[list[SampledCompletion]]:
        asked.append((purpose, step))
        groups = []
        for number in range(len(prompts)):
            texts = [proposals(number * count + which) for which in range(count)] if purpose.endswith("problem") else [claim] * count
            groups.append([say(text) for text in (answers if "solver" in purpose else texts)])
        return groups

    monkeypatch.setattr(played, "ask", ask)
    return asked


# rewards


def test_the_proposer_is_paid_for_hard_and_diverse_problems(game) -> None:
    played = game()
    problems = [problem(0, rate, f"x+{number} {number}") for number, rate in enumerate((0.0, 0.2, 0.25, 0.75, 1.0))]
    problems.append(problem(1, 0.5, "x+9 9", reason="no claim"))
    played.score(problems, 1)
    assert [made.reward for made in problems] == pytest.approx([0, 0, 1.05, 0.55, 0.3, 0])  # 1.1 - p + 0.2, with p > 0.2
    assert [made.usable for made in problems] == [False, False, True, True, False, False]  # 0.2 < p < 1


def test_diversity_is_of_all_recent_problems(game) -> None:
    played = game()
    played.history = [f"x.upper()+'{number}' abc" for number in range(HISTORY - 1)] + ["x+1 3"]
    near, far = problem(0, 0.5, "x+1 3"), problem(0, 0.5, "[y*2]")
    unput = problem(0, 0.5, "x-7 8", reason="no claim")
    played.score([near, far, unput], 1)
    assert (near.diversity, far.diversity) == (0.99, 1.0)
    assert near.reward == pytest.approx(1.1 - 0.5 + 0.2 * 0.99)
    assert played.history[-3:] == ["x+1 3", "[y*2]", "x-7 8"]  # whether they are put to the solver or not
    assert len(played.history) == HISTORY
    played.history = ["x+1 3"] * 80 + ["x*2-5 'a'"] * 20
    played.score([near], 2)
    assert (near.diversity, near.reward) == (0.2, 0.0)  # at most 0.3
    without = game(diversity="off")
    without.history = ["x+1 3"] * HISTORY
    without.score([near], 2)
    assert (near.diversity, near.reward) == (0.0, pytest.approx(0.8))  # recorded all the same


def test_the_history_is_the_same_for_all_and_is_kept(game) -> None:
    """In the public code it is filled on one rank only, so that others find everything new."""
    played = game()
    played.score([problem(0, 0.5) for _ in range(6)], 1)
    again = game()
    again.load(json.loads(json.dumps(played.state())))
    for other in (played, again):
        new = problem(1, 0.5)
        other.score([new], 2)
        assert (new.diversity, new.reward) == (0.0, 0.0)


def test_rates_after_the_leak_check_pay_and_admit(game, monkeypatch) -> None:
    """In the public code they pay the proposer, and the raw ones admit problems to the training of the solver."""
    played = game(prompts_per_step=1)
    script(played, monkeypatch, lambda number: f"x+{number}<in>3", "4", ["4", "4", "4", "1"])
    read = played.passages.read
    leaking = {"x+1<in>3"}

    def with_leak(text: str, name: str) -> Draft:
        draft = read(text, name)
        return Draft(draft.text, draft.question, draft.claim, "answer in the question" if text in leaking else "", draft.proposed)

    monkeypatch.setattr(played.passages, "read", with_leak)
    data = played.next_batch(1)
    rows = {row["completion"]: row for row in data.rollouts if row["role"] == "proposer"}
    assert rows["x+0<in>3"]["usable"]
    assert not rows["x+1<in>3"]["usable"]
    assert (rows["x+1<in>3"]["reward"], rows["x+1<in>3"]["reason"]) == (0, "leak: answer in the question")
    solved = {row["problem"] for row in data.rollouts if row["role"] == "solver" and "advantage" in row}
    assert solved == {"problem 1.0", "problem 1.2"}
    assert data.metrics["proposer/failed/leak: answer in the question"] == pytest.approx(1 / 3)


# turns


def test_a_passage_without_use_trains_nobody(game) -> None:
    played = game(prompts_per_step=4)
    problems = [
        *(problem(0, rate, f"x+{number} 1") for number, rate in enumerate((0.5, 0.75, 0))),
        *(problem(1, rate, f"x-{number} 2") for number, rate in enumerate((0, 0, 1))),  # none in the band
        *(problem(2, rate, f"x*{number} 3") for number, rate in enumerate((0.5, 0.5, 0.5))),  # all earn the same
        *(problem(3, 0, f"x%{number} 4", reason="form") for number in range(3)),
    ]
    played.score(problems, 1)
    assert played.skipped(problems) == {1, 2, 3}
    turns = played.turns(problems, {1, 2, 3}, 1)
    assert {turn.packed for turn in turns if turn.group == ("passage", 0)} == {True}
    assert not any(turn.packed for turn in turns if turn.role == "proposer" and turn.group != ("passage", 0))
    frozen = game(prompts_per_step=4, proposer="frozen")
    frozen.score(problems, 1)
    assert frozen.skipped(problems) == {1, 3}  # what the proposer earns is of no concern


def test_both_turns_of_the_proposer_earn_the_same_and_are_compared_within_a_passage(game, monkeypatch) -> None:
    played = game()
    script(played, monkeypatch, lambda number: f"x+{number % 3}<in>{number}", "4", ["4", "4", "5", "6"])
    monkeypatch.setattr(played, "compare", lambda put: [setattr(a, "agrees", n <= made.passage + i % 3)
                                                        for i, made in enumerate(put) for n, a in enumerate(made.answers)])  # fmt: skip
    data = played.next_batch(1)
    assert [part.player for part in data.parts] == ["proposer", "solver"]
    of = {role: [row for row in data.rollouts if row["role"] == role] for role in ("proposer", "claimer", "solver")}
    assert [row["reward"] for row in of["proposer"]] == [row["reward"] for row in of["claimer"]]
    assert {row["player"] for row in of["claimer"]} == {"proposer"}
    for role in ("proposer", "claimer"):
        for passage in range(2):
            advantages = [row["advantage"] for row in of[role][3 * passage : 3 * passage + 3] if "advantage" in row]
            assert np.sum(advantages) == pytest.approx(0, abs=1e-9)
    for row in of["solver"]:
        assert ("advantage" in row) == (0.2 < np.mean([o["agrees"] for o in of["solver"] if o["problem"] == row["problem"]]) < 1)
        assert row["reward"] == float(row["agrees"])


def test_who_pays_and_who_measures(game, monkeypatch) -> None:
    """The claim of x+1 on 3 is 5, which the executor does not confirm; three of four answers say 4."""
    found = {}
    for truth in ("claim", "executor", "majority"):
        played = game(truth=truth, prompts_per_step=1)
        script(played, monkeypatch, lambda number: ("x+1<in>3", "x+2<in>2", "x+<in>3")[number], "5", ["4", "4", "5", "4"])
        data = played.next_batch(1)
        rates = [row["solve_rate"] for row in data.rollouts if row["role"] == "proposer"]
        assert data.metrics["claim/accuracy"] == 0  # whoever pays
        assert [row["claim_correct"] for row in data.rollouts if row["role"] == "proposer"] == [False, False, None]
        assert data.metrics["proposer/valid"] == pytest.approx(2 / 3)
        assert data.metrics["solver/accuracy"] == 0.75
        trained = {row["role"] for row in data.rollouts if "advantage" in row}
        found[truth] = rates, "claimer" in trained
        if truth == "majority":
            assert (data.metrics["majority/right"], data.metrics["majority/tied"]) == (pytest.approx(2 / 3), 0)
    assert found["claim"][0] == [0.25, 0.25, 0.25]  # the executor refuses nothing: a claim is enough
    assert found["executor"][0] == [0.75, 0.75, None]
    assert not found["executor"][1]  # a claim that pays nobody is not trained on
    assert found["majority"][0] == [0.75, 0.75, 0.75]


def test_no_claim_is_no_problem(game, monkeypatch) -> None:
    played = game(prompts_per_step=1)
    script(played, monkeypatch, lambda number: f"x+{number}<in>3", "", ["4"] * 4)
    data = played.next_batch(1)
    assert (data.metrics["proposer/put"], data.metrics["skipped"], data.parts) == (0, 1, [])
    assert data.metrics["proposer/failed/no claim"] == 1


def test_a_random_reward_of_the_solver_is_another_one_and_repeats(game, monkeypatch) -> None:
    rewards = []
    for _ in range(2):
        played = game(solver_reward="random")
        script(played, monkeypatch, lambda number: f"x+{number % 3}<in>{number}", "4", ["4", "4", "5", "6"])
        rows = [row for row in played.next_batch(1).rollouts if row["role"] == "solver"]
        assert {row["solve_rate"] for row in played.next_batch(2).rollouts if row["role"] == "proposer"} == {0.5}
        rewards.append([row["reward"] for row in rows])
        assert [row["agrees"] for row in rows] == [True, True, False, False] * 6
        assert rewards[-1] != [float(row["agrees"]) for row in rows]
        assert set(rewards[-1]) == {0.0, 1.0}
    assert rewards[0] == rewards[1]


# schedules


def test_a_skipped_step_is_followed_by_another_batch(game, monkeypatch) -> None:
    """In the public code the offline schedule never resets its flag, and one batch outside the band loops forever."""
    played = game(player_schedule="offline", proposer_updates=3, solver_updates=2)
    right = iter([["1"] * 4, ["4", "1", "4", "1"], ["1"] * 4])
    shown: list[list[str]] = []
    for step in range(1, 4):
        answers = next(right)
        script(played, monkeypatch, lambda number, step=step: f"x+{number}<in>{step + number * number}", "4", answers)
        data = played.next_batch(step)
        shown.append([row["prompt"] for row in data.rollouts if row["role"] == "proposer"])
        if step == 2:  # its problems differ in reward through their diversity
            assert data.metrics["buffer/size"] == 6
        else:
            assert (data.metrics["skipped"], data.parts) == (1, [])
    assert shown[0] != shown[1] != shown[2]
    asked = script(played, monkeypatch, str, "4", ["4", "1", "4", "1"])
    for step in (4, 5):
        data = played.next_batch(step)
        assert [part.player for part in data.parts] == ["solver"]
        assert data.metrics["schedule/solver"] == 1
    assert asked == [("pasodoble solver buffer", 4), ("pasodoble solver buffer", 5)]


def test_offline_the_solver_goes_through_the_buffer_and_a_round_begins_with_none(game, monkeypatch) -> None:
    played = game(player_schedule="offline", proposer_updates=1, solver_updates=3, prompts_per_step=1, proposals_per_passage=3)
    names = [f"problem 1.{number}" for number in range(4)]
    played.buffer = [{"text": f"x+{number}<in>3", "name": name, "label": "4", "executed": "4"} for number, name in enumerate(names)]
    script(played, monkeypatch, str, "4", ["4", "1", "4", "1"])
    met = [[row["problem"] for row in played.next_batch(step).rollouts][::4] for step in (2, 3, 4)]
    assert [name for part in met for name in part] == [names[number % 4] for number in range(9)]
    script(played, monkeypatch, lambda number: "x+", "4", [])
    assert played.next_batch(5).metrics["buffer/size"] == 0
    data = played.next_batch(6)
    assert (data.metrics["skipped"], data.parts, data.rollouts) == (1, [], [])


# players


def test_one_copy_of_what_is_frozen(base: Path, tmp_path: Path) -> None:
    run = loop.Run("pasodoble", config(base, proposer="frozen", kl_coef=0.1), _folder(tmp_path), False)
    assert run.method.proposer is run.base is run.reference
    before = {name: value.clone() for name, value in run.base.masters.items()}
    data = run.method.next_batch(1)
    assert {row["role"] for row in data.rollouts if "advantage" in row} <= {"solver"}
    run.one_step()
    assert all(torch.equal(value, before[name]) for name, value in run.base.masters.items())
    assert list(run.players) == ["policy"]
    run.finish("finished")


def test_a_snapshot_takes_the_weights_of_the_solver(game) -> None:
    played = game(proposer="snapshot", snapshot_every=2)
    with torch.no_grad():
        for value in played.solver.masters.values():
            value.mul_(1.01)

    def equal() -> bool:
        return all(torch.equal(value, played.solver.masters[name]) for name, value in played.proposer.masters.items())

    assert not equal()
    played.next_batch(2)
    assert not equal()
    data = played.next_batch(3)
    assert equal()
    assert "proposer" not in [part.player for part in data.parts]


def test_one_model_in_both_roles(game, monkeypatch) -> None:
    played = game(players="shared")
    script(played, monkeypatch, lambda number: f"x+{number}<in>{number * number}", "4", ["4", "4", "5", "6"])
    played.history = ["x+1 1", "x+1 4"] * 10
    data = played.next_batch(1)
    assert [part.player for part in data.parts] == ["policy"]
    assert set(data.batch.roles) == {"proposer", "claimer", "solver"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"players": "shared", "proposer": "frozen"}, "--players shared --proposer frozen: only the solver would learn"),
        (
            {"player_schedule": "offline", "proposer": "snapshot"},
            "--player-schedule offline --proposer snapshot: the steps",
        ),
        ({"lowest_rate": 1.0}, "--lowest-rate 1: no problem has"),
        ({"truth": "majority", "group_size": 1}, "--truth majority --group-size 1"),
        ({"proposals_per_passage": 0}, "--proposals-per-passage 0: must be at least 1"),
        ({"proposer_reward": "pasodobel"}, "did you mean pasodoble"),
    ],
)
def test_bad_settings(more: dict, message: str, base: Path) -> None:
    with pytest.raises(InputError, match=message):
        check(config(base, **more))


def test_collapse_stops_or_not(game, monkeypatch) -> None:
    for on_collapse in ("stop", "continue"):
        played = game(collapse_steps=2, on_collapse=on_collapse)
        script(played, monkeypatch, lambda number: "x+", "4", [])
        assert played.next_batch(1).metrics["proposer/barren_steps"] == 1
        if on_collapse == "stop":
            with pytest.raises(InputError, match=r"no problem could be put to the solver for 2 steps.*most common reason: form"):
                played.next_batch(2)
        else:
            assert played.next_batch(2).metrics["proposer/barren_steps"] == 2


# runs


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def _killed_and_resumed(settings: PasoDobleConfig, tmp_path: Path, after: int) -> tuple[Path, Path]:
    """Train straight, and killed without warning in the step after ``after``, then resumed; returns both folders."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    loop.run("pasodoble", settings, straight)

    def kill(step: int, _: dict) -> None:
        if step == after + 1:
            raise KeyboardInterrupt  # before its state is saved, if it is not due

    with pytest.raises(KeyboardInterrupt):
        loop.run("pasodoble", settings, killed, on_step=kill)
    loop.run("pasodoble", settings, killed, resume=True)
    return straight, killed


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="online"),
        pytest.param({"player_schedule": "offline", "proposer_updates": 1, "solver_updates": 1}, id="offline"),
        pytest.param({"proposer": "snapshot", "snapshot_every": 2}, id="snapshot", marks=pytest.mark.slow),
        pytest.param({"players": "shared", "truth": "majority", "kl_coef": 0.1}, id="shared", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_to_the_same_bits(more: dict, base: Path, tmp_path: Path) -> None:
    settings = config(base, steps=4, save_every=2, **more)
    straight, killed = _killed_and_resumed(settings, tmp_path, 2)
    assert contents(straight) == contents(killed)
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert any(row["tokens"] for row in rows)  # something was trained


def test_the_progress_of_a_skipped_step_is_shown() -> None:
    speed = {"time/tokens_per_second": 0.0}
    assert summary({"tokens": 0} | speed) == "nothing trained  0 tokens/s"
    assert summary({"reward": 0.5} | speed) == "reward 0.500  0 tokens/s"


def test_presets_are_matched_and_say_what_differs() -> None:
    lab = preset_values("pasodoble", "lab", "lab")
    proposals = lab["prompts_per_step"] * 6
    assert proposals * (1 + 1 + 6) == 144
    for name in ("r-zero", "spice"):
        values = preset_values("pasodoble", name, "lab")
        assert values["prompts_per_step"] == lab["prompts_per_step"]
        check(PasoDobleConfig(**values))
