"""SPC: who earns what, what a round trains on, and bit-identical resumption across its boundary."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.runs.matching import Matching, matching
from dynamics.train import command_line, loop, policy, tasks
from dynamics.train.config import as_recorded, check
from dynamics.train.games import critic_table, spc
from dynamics.train.games.critic_table import Shown, Verdicts
from dynamics.train.games.game import Turn
from dynamics.train.games.spc import CRITIC, GENERATOR, SPC
from dynamics.train.games.spc_settings import SPCConfig
from dynamics.train.games.steps import LaboratorySteps, Place
from dynamics.train.lab import shipped
from dynamics.train.lab.programs import labelled, normal_form, split_of
from dynamics.train.rng import stream
from train.helpers import contents
from train.test_documented_metrics import ROOT, documented

FEW = {"steps": 4, "attempts": 12, "batch_size": 8, "threads": 1, "eval_problems": 0, "probe_every": 0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def loaded() -> policy.Policy:
    """Return the base of the laboratory, of which games take copies."""
    return policy.load(str(shipped.find()), None, "float32", "float32")


@pytest.fixture
def game(loaded) -> Callable[..., SPC]:
    def make(**more) -> SPC:
        return SPC(SPCConfig(**(FEW | more)), loaded.copy(), tasks.source("lab", plain=False))

    return make


def weights(one: policy.Policy) -> list[np.ndarray]:
    return [value.detach().numpy().copy() for value in one.masters.values()]


def rows_of(data, role: str) -> list[dict]:
    return [row for row in data.rollouts if row["role"] == role]


# who earns what


def test_what_one_wins_the_other_loses(game) -> None:
    played = game(attempts=40, opponents="same")
    rows = played.next_batch(1).rollouts
    written = [row for row in rows if row["role"] == GENERATOR]
    valid = [row for row in written if row["valid"]]
    wrong = [row for row in rows if row["role"] == CRITIC and not row["right"]]
    right = [row for row in rows if row["role"] == CRITIC and row["right"]]
    assert [row["reward"] for row in written if not row["valid"]] == [-1.0] * (len(written) - len(valid))
    assert len(written) == 40
    assert 0 < len(valid) < 40
    assert [row["step"] for row in wrong] == [row["step"] for row in valid]  # invalid ones are not shown
    assert [row["reward"] for row in wrong] == [-row["reward"] for row in valid]
    assert {(row["said"], row["reward"]) for row in wrong} <= {(False, 1.0), (True, -1.0), (None, -1.0)}
    assert {(row["said"], row["reward"]) for row in right} <= {(True, 1.0), (False, -1.0), (None, -1.0)}
    assert len(right) == len(wrong)


@pytest.mark.parametrize(("share", "times"), [(0.0, 0.0), (0.75, 3.0)])
def test_the_share_of_right_steps(game, share: float, times: float) -> None:
    rows = rows_of(game(right_steps=share, opponents="same").next_batch(1), CRITIC)
    assert sum(row["right"] for row in rows) == times * sum(not row["right"] for row in rows)


def test_different_opponents_are_the_base(game, monkeypatch) -> None:
    played, asked = game(), []
    real = SPC.ask
    monkeypatch.setattr(SPC, "ask", lambda self, model, *rest: asked.append(model) or real(self, model, *rest))
    played.next_batch(1)
    generator, critic = (played.players[name].policy for name in (GENERATOR, CRITIC))
    assert asked == [generator, played.base, played.base, critic]
    asked.clear()
    game(opponents="same").next_batch(1)
    assert len(asked) == 2


def test_no_valid_step_ends_the_run_or_not(game, monkeypatch) -> None:
    monkeypatch.setattr(LaboratorySteps, "read_step", lambda *_: ("", "not one step"))
    with pytest.raises(InputError, match=r"none of 12 wrong steps is valid \(most common reason: not one step\)"):
        game().next_batch(1)
    data = game(on_collapse="continue").next_batch(1)
    assert data.metrics["generator/valid"] == 0
    assert {part.player for part in data.parts} == {GENERATOR}


# what a step trains on


def test_a_batch_has_raw_rewards_and_as_many_imitated_steps(game) -> None:
    played = game()
    data = played.next_batch(1)
    assert [part.player for part in data.parts] == [CRITIC, GENERATOR]
    assert sum(len(part.batch.completions) for part in data.parts) == 16
    for player, batch in data.parts:
        imitated = batch.supervised
        assert batch.sequence_ratio
        assert imitated.sum() == len(imitated) / 2
        assert set(batch.advantages[imitated]) == {0.15}
        assert set(np.abs(batch.advantages[~imitated])) == {1.0}
        assert {role for role, made in zip(batch.roles, imitated, strict=True) if made} == {f"{player}_sft"}
    assert not any("advantage" in row or row["role"].endswith("_sft") for row in data.rollouts)


def test_the_reference_is_the_base(game) -> None:
    """At the first step the players are the base, so that all ratios are 1 and the coefficients are the rewards."""
    from dynamics.train import update

    played = game()
    data = played.next_batch(1)
    for player, batch in data.parts:
        logp = played.players[player].policy.logprobs_of(batch, played.config.max_tokens_per_microbatch)
        found = update._coefficients(logp.double().cpu().numpy(), batch, played.config)
        assert found == pytest.approx(batch.advantages, abs=1e-4)
    other = played.players[CRITIC].policy
    for value in other.masters.values():
        value.data += 0.02 * torch.randn(value.shape, generator=torch.manual_seed(0))
    logp = other.logprobs_of(data.parts[0].batch, played.config.max_tokens_per_microbatch)
    moved = update._coefficients(logp.double().cpu().numpy(), data.parts[0].batch, played.config)
    sampled = ~data.parts[0].batch.supervised
    assert not np.allclose(moved[sampled], data.parts[0].batch.advantages[sampled], atol=1e-3)
    assert np.array_equal(moved[~sampled], data.parts[0].batch.advantages[~sampled])


def test_imitated_judgements_and_wrong_steps_are_right(game) -> None:
    played = game()
    steps = played.steps
    turns = [turn for turn in played.play(1).turns if turn.supervised]
    assert {turn.task for turn in turns} >= {"right", "wrong", "sneaky"}
    for turn in turns:
        text = turn.text
        place = next(place for place in steps.draw(1, 12) if place.name == turn.name)
        if turn.player == GENERATOR:
            step, reason = steps.read_step(place, text)
            assert not reason
            assert steps.refute([(place, step)], "", 0) == [""]
        else:
            assert text == f"<s>{place.step}"
        ids = turn.sampled.ids
        assert played.text(replace(turn.sampled, ids=ids[:-1])) == text
        assert ids[-1] in played.eos


def test_without_imitation(game) -> None:
    data = game(sft_weight=0.0).next_batch(1)
    assert sum(len(part.batch.completions) for part in data.parts) == 8
    assert all(part.batch.supervised is None for part in data.parts)


@pytest.mark.parametrize("frozen", [CRITIC, GENERATOR])
def test_a_frozen_player_plays_and_is_not_trained(game, frozen: str) -> None:
    data, whole = game(frozen=frozen).next_batch(1), game().next_batch(1)
    (part,) = data.parts
    assert part.player != frozen
    assert data.rollouts == whole.rollouts
    (same,) = (other for other in whole.parts if other.player == part.player)
    chosen = ~part.batch.supervised  # the trained player has the turns that it has without the freeze
    assert [ids.tolist() for ids, own in zip(part.batch.completions, chosen, strict=True) if own] == [
        ids.tolist() for ids, own in zip(same.batch.completions, ~same.batch.supervised, strict=True) if own
    ]


def test_balanced_roles_weigh_by_their_numbers(game) -> None:
    played = game(role_weights="balanced")
    data = played.next_batch(1)
    counts = {role: sum(turn.role == role for turns in played.data for turn in turns) for role in (CRITIC, GENERATOR)}
    for player, batch in data.parts:
        expected = sum(counts.values()) / 2 / counts[player]
        assert np.abs(batch.advantages[~batch.supervised]) == pytest.approx(expected)
        assert set(batch.advantages[batch.supervised]) == {0.15}


# rounds


@pytest.mark.parametrize(
    ("steps", "rounds", "start", "ends"),
    [(100, 2, "base", [33, 100]), (100, 2, "last", [50, 100]), (3, 3, "base", [1, 2, 3]), (4, 3, "base", [1, 2, 4]), (6, 1, "base", [6])],
)
def test_rounds_are_as_long_as_their_data(steps: int, rounds: int, start: str, ends: list[int]) -> None:
    assert SPCConfig(steps=steps, rounds=rounds, round_start=start).ends() == ends


def test_a_round_starts_from_the_base_on_all_data(game) -> None:
    played = game(steps=3)  # rounds of one and two steps
    base = weights(played.base)
    played.next_batch(1)
    critic = played.players[CRITIC]
    for value in critic.policy.masters.values():
        value.grad = torch.ones_like(value)
    critic.optimizer.step()
    critic.policy.update_model()
    moved = weights(critic.policy)
    data = played.next_batch(2)
    assert len(played.data) == 2
    assert data.metrics["round"] == 2
    assert not all(np.array_equal(one, other) for one, other in zip(moved, base, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(weights(critic.policy), base, strict=True))
    assert not critic.optimizer.state
    assert not played.next_batch(3).rollouts  # nothing is sampled within a round


def test_a_round_can_go_on_from_the_last_on_its_own_data(game) -> None:
    played = game(steps=2, round_start="last")
    played.next_batch(1)
    first = played.data[0]
    critic = played.players[CRITIC].policy
    for value in critic.masters.values():
        value.data += 0.01
    moved = weights(critic)
    played.next_batch(2)
    assert len(played.data) == 1
    assert played.data[0] is not first
    assert all(np.array_equal(one, other) for one, other in zip(weights(critic), moved, strict=True))


def test_a_state_from_before_the_players_were_set_back_is_not_saved(game) -> None:
    played = game(steps=3)
    played.next_batch(1)
    before = played.snapshot()
    assert before()["data"]
    played.next_batch(2)
    with pytest.raises(InputError, match="set back"):
        before()


def test_the_online_schedule_trains_on_what_it_samples(game) -> None:
    played = game(play="online", batch_size=24, frozen=GENERATOR)
    for step in (1, 2):
        data = played.next_batch(step)
        (part,) = data.parts
        assert part.player == CRITIC
        assert not part.batch.sequence_ratio
        assert len(data.rollouts) <= 24
        assert len(rows_of(data, GENERATOR)) == 8
        assert (~part.batch.supervised).sum() == len(rows_of(data, CRITIC))
    assert not played.data


def test_data_come_back_from_json(game) -> None:
    played, again = game(), game()
    played.next_batch(1)
    again.load(json.loads(json.dumps(played.state())))
    for one, other in zip(played.next_batch(2).parts, again.next_batch(2).parts, strict=True):
        assert [ids.tolist() for ids in one.batch.completions] == [ids.tolist() for ids in other.batch.completions]
        assert np.array_equal(np.concatenate(one.batch.behaviour), np.concatenate(other.batch.behaviour))
        assert np.array_equal(one.batch.advantages, other.batch.advantages)


def options(out: Path, *more: str) -> list[str]:
    few = "--steps 4 --attempts 10 --batch-size 6 --save-every 1 --threads 1 --eval-problems 4 --eval-samples 2 --probe-every 2"
    return ["spc", "--out", str(out), *few.split(), "--max-new-tokens", "24", "--critic-problems", "6", *more]


@pytest.mark.parametrize("died", [1, 2])
def test_a_run_is_resumed_to_the_bit(tmp_path: Path, monkeypatch, died: int) -> None:
    """The first round ends with step 1: after it, in the step that sets the players back, and within the second round."""
    from dynamics.train import __main__ as command

    command.main(options(tmp_path / "whole"))
    real = loop.Run._update

    def dies(self, number, parts):
        if number == died + 1:
            raise SystemExit(9)  # the players are set back already
        return real(self, number, parts)

    monkeypatch.setattr(loop.Run, "_update", dies)
    with pytest.raises(SystemExit):
        command.main(options(tmp_path / "broken"))
    monkeypatch.setattr(loop.Run, "_update", real)
    command.main(options(tmp_path / "broken", "--resume"))
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")
    document = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert document["rounds"] == [1, 4]
    assert document["players"] == [CRITIC, GENERATOR]
    assert (tmp_path / "whole" / "players" / GENERATOR / "step_000001").is_dir()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "critic.jsonl").read_text().splitlines()]
    assert {row["critic"] for row in rows} == {0, 1, 2}
    assert {"rule", 0} <= {row["generator"] for row in rows} <= {"rule", 0, 1, 2}
    patterns = documented(ROOT / "docs" / "measures.md") + documented(ROOT / "docs" / "methods" / "spc.md")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [name for name in {name for line in lines for name in line} if not any(one.fullmatch(name) for one in patterns)] == []
    assert {line["completions_trained"] for line in lines} == {12}


@pytest.mark.parametrize(("frozen", "folders"), [("none", [(1, 2), (1, 2)]), (CRITIC, [(), (1, 2)]), (GENERATOR, [(1, 2), ()])])
def test_the_players_of_all_rounds_are_compared(game, monkeypatch, tmp_path: Path, frozen: str, folders: list) -> None:
    played, asked = game(frozen=frozen, steps=3), []
    monkeypatch.setattr(critic_table, "ask", lambda *given: asked.append(given) or ([], []))
    played.on_train_end(RunDirectory(tmp_path), lambda: played.base)
    ((*_, rounds),) = asked
    assert [number for number, _, _ in rounds] == [0, 1, 2]
    for column, expected in zip((1, 2), folders, strict=True):
        assert [row[0] for row in rounds if row[column] is not None] == [0, *expected]
    asked.clear()
    game(critic_problems=0).on_train_end(RunDirectory(tmp_path), lambda: played.base)
    assert not asked


def test_critics_are_scored_by_the_source_of_wrong_steps() -> None:
    place = Place("p", 0, (), "1+1=2")
    shown = [Shown(place, "1+1=2", critic_table.RIGHT)] * 2 + [Shown(place, "1+1=3", "rule"), Shown(place, "1+1=4", 1)]
    said = {"greedy": [True, False, False, True], "T=1": [None, True, False, False]}
    rows = {(row["generator"], row["manner"]): row for row in critic_table.table(shown, [Verdicts(0, said)])}
    assert set(rows) == {("rule", "greedy"), (1, "greedy"), ("rule", "T=1"), (1, "T=1")}
    found = {key: (row["wrong"]["value"], row["right"]["value"]) for key, row in rows.items()}
    assert found == {("rule", "greedy"): (1, 0.5), (1, "greedy"): (0, 0.5), ("rule", "T=1"): (1, 0.5), (1, "T=1"): (1, 0.5)}
    assert rows["rule", "greedy"]["harmonic"]["value"] == pytest.approx(2 / 3)
    assert rows[1, "greedy"]["harmonic"]["value"] == 0


def test_the_preset_of_the_laboratory_is_matched() -> None:
    def planned(*more: str) -> Matching:
        settings = command_line.parse(["spc", "--out", "x", "--preset", "lab", *more]).config
        return matching({"method": "spc", "config": as_recorded(settings), "seed": 0, "model": "lab"}, {})

    values = {row.name: row for row in planned().rows}
    assert values["completions trained on"].value == 14_400
    assert values["optimizer steps"].value == 100
    assert values["estimator"].defined
    assert all(values[name].value is not None for name in ("game", "reward", "further terms of the loss", "proposer", "longest proposal"))
    frozen = planned("--frozen", "critic")
    assert frozen.kind == "spc, frozen critic"
    assert {row.name for row in frozen.rows if row.value != values[row.name].value} == {
        *("problems a step", "completions trained on", "proposer")
    }


# steps of the laboratory


@pytest.fixture
def lab() -> LaboratorySteps:
    return LaboratorySteps(seed=3)


def test_places_are_right_steps_of_training_programs(lab) -> None:
    places = lab.draw(1, 300)
    assert len({place.name for place in places}) == 300
    assert places != lab.draw(2, 300)
    for place in places[:40]:
        about = lab.about(place)
        assert split_of(labelled(about["program"])) == "training"
        assert len(place.before) < about["depth"]
    everything = sum(depth for _, _, depth in lab.sizes)
    assert len(lab.draw(1, everything + 5)) == everything + 5


def test_held_out_places_are_of_other_programs(lab) -> None:
    trained = {normal_form(case.program) for case in lab.cases}
    places = lab.held_out(400)
    assert len(places) == len({place.name for place in places}) == 360
    assert not {normal_form(labelled(lab.about(place)["program"])) for place in places} & trained
    assert {lab.about(place)["depth"] for place in lab.held_out(10)} == {1, 4}


PLACE = "int: x+3;max(x,12) of 7, step 2"


@pytest.mark.parametrize(
    ("text", "step", "reason"),
    [
        ("<s>max(10,12)=13", "max(10,12)=13", ""),
        ("<s>max(10,12)=12", "max(10,12)=12", ""),  # has the form, and is refuted below
        ("<s>max(10,12)='a'", "max(10,12)='a'", ""),
        ("max(10,12)=13", "", "not one step"),
        ("<s>max(10,12)=13<s>1+1=3", "", "not one step"),
        ("<s>max(10,12)=13<ans>13", "", "not one step"),
        ("<s>max(10,12)=<sep>", "", "no value"),
        ("<s>max(10,12)=013", "", "no value"),
        ("<s>max(10,12)", "", "no value"),
        ("<s>max(9,12)=13", "", "another expression"),
        ("", "", "not one step"),
        ("<s>" * 5000, "", "not one step"),
    ],
)
def test_a_step_is_read(lab, monkeypatch, text: str, step: str, reason: str) -> None:
    place = Place(PLACE, 0, ("7+3=10",), "max(10,12)=12")
    assert lab.read_step(place, text) == (step, reason)
    if not reason:
        assert lab.refute([(place, step)], "", 0) == ["unchanged" if step == place.step else ""]


def test_prompts_are_those_that_a_base_knows(lab) -> None:
    place = next(place for place in lab.draw(1, 200) if len(place.before) == 1)
    about = lab.about(place)
    program = about["program"].partition(": ")[2]
    shown = lab.by_rule(place, stream(0, "x"))
    assert shown != place.step
    assert lab.generator_prompt(place) == f"<W>{program}<in>{about['input']}<s>{place.before[0]}<sep>"
    assert lab.critic_prompt(place, shown) == f"<J>{program}<in>{about['input']}<s>{place.before[0]}<s>{shown}<sep>"
    assert lab.read_verdict(shown, lab.judgement(place, shown, False)) is False
    assert lab.read_verdict(place.step, lab.judgement(place, place.step, True)) is True
    assert lab.read_verdict(shown, "<ans>1") is None


# settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--right-steps", "1"], "--right-steps 1: is a share, must be below 1"),
        (["--wrong-at-most", "0.6"], "--wrong-at-most 0.6: must be below --right-at-least 0.5"),
        (["--right-at-least", "1.5"], "--right-at-least 1.5: is a share"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--steps", "1"], "--steps 1: fewer than --rounds 2"),
        (["--clip-cov", "0.1"], "--clip-cov: is for the ratio of tokens"),
        (["--play", "online", "--num-iterations", "2"], "--num-iterations: an online step is one update"),
        (["--frozen", "both"], "invalid choice 'both'"),
    ],
)
def test_bad_settings_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        command_line.parse(["spc", "--out", "x", *words])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_presets_are_settings() -> None:
    for name, values in SPCConfig.presets.items():
        check(SPCConfig(**values))
        assert command_line.parse(["spc", "--out", "x", "--preset", name]).config.batch_size == values.get("batch_size", 72)


def test_metrics_of_a_collection() -> None:
    blank = {"prompt": "", "prompt_ids": np.array([1]), "sampled": spc.SampledCompletion(np.array([1, 2]), np.zeros(2), "eos"), "text": ""}
    turns = [
        Turn(GENERATOR, "sneaky", **blank, group="a", reward=-1.0, row={"valid": False, "reason": "no value", "step": ""}),
        Turn(GENERATOR, "sneaky", **blank, group="b", reward=1.0, row={"valid": True, "reason": "", "step": "1+1=3"}),
        Turn(CRITIC, "wrong", **blank, group="c", reward=-1.0, row={"said": None, "correct": False}),
        Turn(CRITIC, "right", **blank, group="d", reward=1.0, row={"said": True, "correct": True}),
    ]
    found = spc.collection_metrics(turns)
    assert found["generator/valid"] == found["critic/no_verdict"] == found["generator/failed/no value"] == 0.5
    assert (found["generator/deceives"], found["critic/recall/right"], found["critic/recall/wrong"]) == (1.0, 1.0, 0.0)
    assert found["reward"] == 0.0
