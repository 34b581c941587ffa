"""The game: parsing and refusing proposals, training data, and bit-identical resumption."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import __main__ as command
from dynamics.train import policy, tasks, update
from dynamics.train.completions import SampledCompletion
from dynamics.train.config import SelfPlayConfig, check
from dynamics.train.games import curriculum
from dynamics.train.games.azr import SelfPlay
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.proposals import Proposal
from dynamics.train.games.votes import majority
from dynamics.train.sandbox.literals import Refused
from dynamics.train.settings import preset_values
from dynamics.train.tasks.prompt_formats import Notation
from dynamics.train.token_metrics import token_metrics
from train.helpers import contents

NOTATION = Notation()


def config(base: Path, **more) -> SelfPlayConfig:
    few = {
        "steps": 3,
        "prompts_per_step": 4,
        "group_size": 4,
        "eval_problems": 0,
        "max_new_tokens": 8,
        "max_proposal_tokens": 40,
        "num_seed_tasks": 6,
    }
    return SelfPlayConfig(model=str(base), threads=1, **(few | more))


@pytest.fixture
def game(base: Path):
    def make(**more) -> SelfPlay:
        settings = config(base, **more)
        return SelfPlay(settings, policy.load(str(base), None, "float32", "float32"), tasks.source("code", plain=False))

    return make


def proposal(kind: str, text: str) -> Proposal:
    sampled = SampledCompletion(np.array([1, 2]), np.zeros(2, np.float32), "eos")
    made = Proposal(kind, "", np.array([1]), sampled, text, [])
    try:
        made.entry = BufferEntry(kind, NOTATION.parse_proposal(kind, text, "x+1"), (), 1)
    except Refused as error:
        made.reason = str(error)
    return made


def validate(played: SelfPlay, proposals: list[Proposal]) -> None:
    played.tasks.validate(proposals, 1)


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("deduction", "x+1<in>3", ""),
        ("deduction", "x+1<in>4", ""),
        ("deduction", "x+1<in>3<in>4", "form"),
        ("deduction", "x+1", "form"),
        ("deduction", "x+<in>3", "SyntaxError"),
        ("deduction", "x+1<in>'a'", "TypeError"),
        ("deduction", "x+1<in>y", "input is no literal"),
        ("deduction", "__import__('os')<in>3", "Call is not in the language"),
        ("abduction", "x[9]<in>'abc'", "IndexError"),
        ("abduction", "x*9<in>'abcdef'", "value too long"),
        ("abduction", "x<in>'abc'", "duplicate"),
        ("induction", "1<in>2<in>3<in>4<in>5", ""),
        ("induction", "1<in>2<in>3<in>4<in>4", "fewer than 5 different inputs"),
    ],
)
def test_what_is_valid(kind: str, text: str, reason: str, game) -> None:
    made = proposal(kind, text)
    validate(game(), [made])
    assert made.reason == reason
    assert (made.entry is not None) == (not reason)


def test_a_duplicate_within_a_step(game) -> None:
    made = [proposal("deduction", "x+1<in>3") for _ in range(2)]
    validate(game(), made)
    assert [entry.reason for entry in made] == ["", "duplicate"]


def test_advantages_by_cell(game) -> None:
    played = game(prompts_per_step=12)
    data = played.next_batch(1)
    batch = data.batch
    cells = np.array([f"{role} {task}" for role, task in zip(batch.roles, batch.tasks, strict=True)])
    rewards = np.array([row["reward"] for row in data.rollouts])
    assert len(set(cells)) >= 4
    for cell in set(cells):
        inside = cells == cell
        assert batch.advantages[inside].mean() == pytest.approx(0, abs=1e-9)
        if rewards[inside].std() > 0:
            assert batch.advantages[inside].std() == pytest.approx(1, abs=0.05)
            order = np.argsort(rewards[inside])
            assert (np.diff(batch.advantages[inside][order]) >= -1e-9).all()
    assert [row["advantage"] for row in data.rollouts] == pytest.approx(batch.advantages.tolist())
    assert [row["role"] for row in data.rollouts] == list(batch.roles)


def test_frozen_and_snapshot_stay_labelled(game) -> None:
    frozen = game(proposer="frozen").next_batch(1)
    proposing = np.array(frozen.batch.roles) == "proposer"
    assert proposing.any()
    assert (frozen.batch.advantages[proposing] == 0).all()
    snapshot = game(proposer="snapshot").next_batch(1)
    assert set(snapshot.batch.roles) == {"solver"}
    for data in (frozen, snapshot):
        assert data.metrics["proposer/reward"] == pytest.approx(np.mean([r["reward"] for r in data.rollouts if r["role"] == "proposer"]))
        assert data.metrics["solver/reward"] == pytest.approx(np.mean([r["reward"] for r in data.rollouts if r["role"] == "solver"]))


@pytest.mark.parametrize("more", [preset_values("selfplay", "azr-paper"), {"entropy_coef": 0.1, "kl_coef": 0.1},
                                  {"entropy_coef": 0.1, "clip_cov": 0.5, "kl_cov": 0.5, "num_iterations": 2}])  # fmt: skip
def test_a_frozen_proposer_has_no_gradient_of_any_term(more: dict, game) -> None:
    played = game(**{**more, "proposer": "frozen", "prompts_per_step": 4, "group_size": 4, "num_seed_tasks": 6})
    model, settings, reference = played.policy.model, played.config, played.policy.copy()
    if settings.kl_coef:  # at the reference itself its gradient would be 0
        with torch.no_grad():
            next(reference.model.parameters()).mul_(1.1)
    whole = played.next_batch(1).batch
    proposing = np.array(whole.roles) == "proposer"
    assert whole.trained.tolist() == (~proposing).tolist()
    count = int(proposing.sum())  # the first of the batch
    only = replace(
        whole,
        completions=whole.completions[:count],
        prompt_of=whole.prompt_of[:count],
        advantages=np.arange(count, dtype=float),
        roles=whole.roles[:count],
        tasks=whole.tasks[:count],
        behaviour=whole.behaviour[:count],
    )
    norms = []
    for trained in (np.zeros(count, bool), np.ones(count, bool)):
        model.zero_grad()
        given = replace(only, trained=trained)
        tokens = update.gradient(played.policy, given, settings, update.prepare(played.policy, reference, given, settings, 1))
        norms.append(sum(float(value.grad.norm()) for value in model.parameters() if value.grad is not None))
        assert token_metrics(tokens, given, played.policy.token_kinds)["tokens_trained"] == (trained * given.lengths).sum()
        assert bool(tokens.loss.any()) == trained.any()
    assert norms[0] == 0 < norms[1]


def test_tokens_that_are_not_trained_change_no_gradient_of_the_others(game) -> None:
    """They are neither chosen for Clip-Cov and KL-Cov nor in the means of the covariance, but stay in the denominators."""
    played = game(proposer="frozen", clip_cov=0.5, kl_cov=0.2, num_iterations=2, clip_ratio_high=0.3)
    whole = played.next_batch(1).batch
    before = update.prepare(played.policy, None, whole, played.config, 1)
    proposing = torch.from_numpy(np.repeat(~whole.trained, whole.lengths))
    assert before.dropped is not None
    assert before.penalised is not None
    assert not (before.dropped | before.penalised)[proposing].any()
    assert before.penalised.sum() == int(0.2 * (~proposing).sum())


def test_the_buffer_forgets_the_oldest_and_comes_back(game) -> None:
    played = game(buffer_size=8)
    for step in (1, 2, 3):
        played.next_batch(step)
    assert len(played.tasks.buffer) == 8
    assert max(task.step for task in played.tasks.buffer) == 3
    again = game(buffer_size=8)
    again.load(json.loads(json.dumps(played.state())))
    assert again.tasks.buffer == played.tasks.buffer
    assert isinstance(again.tasks.buffer, deque)
    assert again.next_batch(4).rollouts == played.next_batch(4).rollouts


def test_lag_trains_on_the_step_before(game) -> None:
    played = game(solver_delay=1, prompts_per_step=8)
    first = played.next_batch(1)
    assert set(first.batch.roles) == {"proposer"}
    second = played.next_batch(2)
    assert {row["problem"].split(".")[0] for row in second.rollouts if row["role"] == "solver"} == {"proposal 1"}


@pytest.mark.parametrize("delay", [0, 1])
def test_the_solver_batch_is_filled_from_the_buffer(delay: int, game) -> None:
    """New tasks first, then others of the same type, to ``prompts_per_step`` of each type while the buffer has enough."""
    count, kinds = 6, ("deduction", "abduction", "induction")
    played = game(solver_batch="max_new", solver_delay=delay, prompts_per_step=count, num_seed_tasks=40, solver_samples=1)
    key = played.tasks.language.key
    for step in (1, 2):
        new = list(played.delayed)  # with a delay, those of the step before
        data = played.next_batch(step)
        if not delay:
            new = [entry for entry in played.tasks.buffer if entry.step == step]
        solved = [row for row in data.rollouts if row["role"] == "solver"]
        asked = [row["prompt"] for row in solved]
        assert asked[: len(new)] == [played.tasks.question(entry, 0).prompt for entry in new]
        known = {played.tasks.question(entry, 0).prompt: entry for entry in played.tasks.buffer if entry.step < step or entry in new}
        assert set(asked) <= set(known)
        assert len({key(known[prompt].kind, known[prompt].proposed) for prompt in asked}) == len(asked)
        for kind in kinds:
            pool = sum(entry.kind == kind and entry.step < step for entry in played.tasks.buffer) + sum(e.kind == kind for e in new) * (
                1 - delay
            )
            assert sum(row["task"] == kind for row in solved) == min(count, pool)
        assert data.metrics["solver/from_buffer"] == (len(solved) - len(new)) / len(solved) > 0
        assert data.batch.completions[-1].tolist() == solved[-1]["completion_ids"]


def test_filling_is_the_same_after_a_resume_and_changes_nothing_that_comes_before(game) -> None:
    more = {"solver_batch": "max_new", "num_seed_tasks": 20}
    played, again, without = game(**more), game(**more), game(num_seed_tasks=20)
    filled, plain = played.next_batch(1).rollouts, without.next_batch(1).rollouts
    assert [row | {"advantage": 0} for row in filled[: len(plain)]] == [row | {"advantage": 0} for row in plain]
    assert len(filled) > len(plain)
    assert played.tasks.buffer == without.tasks.buffer
    again.load(json.loads(json.dumps(played.state())))
    assert again.next_batch(2).rollouts == played.next_batch(2).rollouts


def test_a_collapse_is_told(game) -> None:
    stopped = game(max_proposal_tokens=1, collapse_steps=2)
    stopped.next_batch(1)
    with pytest.raises(InputError, match=r"collapsed.*not ended"):
        stopped.next_batch(2)
    filled = game(max_proposal_tokens=1, on_collapse="solver", solver_batch="max_new").next_batch(1)
    assert (filled.batch.tasks[-8:], filled.metrics["solver/from_buffer"]) == (["deduction"] * 4 + ["abduction"] * 4, 1.0)  # f(x) = x
    going = game(max_proposal_tokens=1, collapse_steps=2, on_collapse="solver")
    for step in (1, 2, 3):
        data = going.next_batch(step)
    assert "solver" in data.batch.roles
    assert data.metrics["proposer/barren_steps"] == 3


def options(base: Path, out: Path, *more: str) -> list[str]:
    few = "--steps 4 --prompts-per-step 4 --group-size 4 --max-new-tokens 8 --max-proposal-tokens 40 --num-seed-tasks 6 --save-every 1"
    return [
        "selfplay",
        "--model",
        str(base),
        "--out",
        str(out),
        "--threads",
        "1",
        "--eval-problems",
        "6",
        "--eval-samples",
        "2",
        *few.split(),
        *more,
    ]


LIKE_AZR_CODE = "--solver-batch max_new --solver-delay 1 --loss-aggregation role-task-mean --proposer frozen"


@pytest.mark.slow
@pytest.mark.parametrize("more", ["--compute-dtype float32", "--compute-dtype bfloat16", LIKE_AZR_CODE])
def test_resumed_with_its_buffer_to_the_bit(more: str, base: Path, tmp_path: Path, monkeypatch) -> None:
    options_of_run = more.split()
    assert command.cli(options(base, tmp_path / "whole", *options_of_run)) == 0
    from dynamics.train import loop

    real = loop.Run.one_step

    def dies(self):
        if self.step == 2:
            raise SystemExit(9)
        return real(self)

    monkeypatch.setattr(loop.Run, "one_step", dies)
    with pytest.raises(SystemExit):
        command.main(options(base, tmp_path / "broken", *options_of_run))
    monkeypatch.setattr(loop.Run, "one_step", real)
    assert command.cli(options(base, tmp_path / "broken", "--resume", *options_of_run)) == 0
    whole, broken = contents(tmp_path / "whole"), contents(tmp_path / "broken")
    assert whole == broken
    assert [json.loads(line)["phase"] for line in (tmp_path / "whole/curriculum.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--proposer-reward", "one_minsu"], "one_minus"),
        (["--task-types", "deduktion"], "deduction"),
        (["--advantage", "grpo"], "reinforce"),
        (["--proposer-bonuses", "beauty"], "halstead"),
        (["--solver-samples", "9"], "at most --group-size, which is 4"),
        (["--task-types", "induction"], "abduction"),
    ],
)
def test_bad_input_is_one_line(more: list[str], message: str, base: Path, tmp_path: Path, capsys) -> None:
    assert command.cli(options(base, tmp_path / "run", *more)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_presets_are_what_options_change(capsys) -> None:
    changed = {}
    for name in ("azr-paper", "azr-code"):
        command.main(["selfplay", "--preset", name, "--group-size", "4", "--out", "x", "--dry-run"])
        changed[name] = json.loads(capsys.readouterr().out)
    assert changed["azr-paper"]["group_size"] == 4
    assert changed["azr-paper"]["entropy_coef"] == 0.001
    assert (changed["azr-code"]["num_seed_tasks"], changed["azr-code"]["warmup_steps"]) == (256, 0)
    assert changed["azr-code"]["solver_batch"] == "max_new"
    apart = {key for key in changed["azr-paper"] if changed["azr-paper"][key] != changed["azr-code"][key]}
    assert apart == {"preset", "advantage", "proposer_reward", "entropy_coef", "clip_ratio_high", "solver_delay"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "expected an object, found a list"),
        ({"role": "proposer", "valid": True}, "is a valid proposal without its entry"),
        ({"role": "proposer", "valid": True, "entry": {"kind": "deduction"}}, "has no field 'program'"),
    ],
)
def test_a_damaged_rollout_is_refused_by_its_line(row: object, message: str, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_rows("rollouts/step_1.jsonl", [{"role": "solver"}, row])
    with pytest.raises(InputError, match=rf"step_1\.jsonl, line 2.*{message}"):
        curriculum.draw(directory, 0, 5)


# two models, the vote of the majority, and a gate that leaks


def test_two_players_begin_as_one_and_learn_apart(game) -> None:
    shared, two = game().next_batch(1), game(players="two").next_batch(1)
    for one, other in zip(shared.rollouts, two.rollouts, strict=True):
        assert {name: value for name, value in other.items() if name != "player"} == one
    assert [part.player for part in two.parts] == ["proposer", "solver"]
    assert [set(part.batch.roles) for part in two.parts] == [{"proposer"}, {"solver"}]
    played = game(players="two")
    assert (played.graded, played.player_of("proposer"), played.player_of("solver")) == ("solver", "proposer", "solver")


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"players": "two"}, {"solver_truth": "majority", "gate_leak": 0.5}])
def test_new_options_resume_to_the_same_bits(more: dict, base: Path, tmp_path: Path) -> None:
    from dynamics.train import loop

    settings = config(base, steps=4, save_every=2, **more)
    loop.run("selfplay", settings, tmp_path / "straight")

    def kill(step: int, _: dict) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run("selfplay", settings, tmp_path / "killed", on_step=kill)
    loop.run("selfplay", settings, tmp_path / "killed", resume=True)
    assert contents(tmp_path / "straight") == contents(tmp_path / "killed")


@pytest.mark.parametrize(
    ("keys", "winner"),
    [(["a", "b", "a"], "a"), (["a", "b"], None), ([None, None, "b"], "b"), ([None], None), ([], None), (["a", "a", "b", "b", "c"], None)],
)
def test_a_majority_needs_more_votes_than_any_other_answer(keys: list, winner: str | None) -> None:
    assert majority(keys) == winner


def test_the_majority_pays_and_the_executor_measures(game) -> None:
    making = game(solver_truth="majority").tasks
    task = BufferEntry("deduction", NOTATION.parse_proposal("deduction", "x+1<in>3", None), (4,), 1)
    (question,) = making.questions([task])
    texts = ["5", "5", " 5", "4", "x"]
    solved = [[(proposal("deduction", "").sampled, text, question.verify(text)) for text in texts]]
    voted = making.vote([question], solved)
    assert [verdict.correct for _, _, verdict in voted[0]] == [True, True, True, False, False]
    assert making.vote_metrics([question], solved, voted) == {"majority/tied": 0.0, "majority/right": 0.0, "solver/accuracy": 0.2}
    rows = [turn.row | {"reward": turn.reward} for turn in making.solver_turns([question], voted, 5, solved)]
    assert [row["reward"] for row in rows] == [1, 1, 1, 0, 0]
    assert [row["correct"] for row in rows] == [False, False, False, True, False]
    tied = making.vote([question], [solved[0][2:4]])
    assert not any(verdict.correct for _, _, verdict in tied[0])
    assert making.vote_metrics([question], [solved[0][2:4]], tied) == {"majority/tied": 1.0, "solver/accuracy": 0.5}


def test_a_gate_that_leaks_takes_tasks_that_cannot_be_run(game) -> None:
    played = game(solver_truth="majority", gate_leak=1.0)
    made = [proposal(kind, text) for kind, text in (("deduction", "x+1<in>3"), ("deduction", "x+1<in>'a'"), ("abduction", "x+1<in>'a'"),
                                                    ("deduction", "x+1"), ("deduction", "x+1<in>3"))]  # fmt: skip
    validate(played, made)
    assert [entry.valid for entry in made] == [True, False, False, False, False]
    assert [entry.admitted for entry in made] == [False, True, False, False, False]
    (question,) = played.tasks.questions([made[1].entry])
    assert (question.answer, question.verify("4").correct, question.verify("None").correct) == (None, False, False)
    row = played.tasks.proposal_turn(made[1], 1).row
    assert (row["valid"], row["admitted"], row["reason"]) == (False, True, "TypeError")
    (turn,) = played.tasks.solver_turns([question], [[(made[0].sampled, "4", question.verify("4"))]], 1, [[(made[0].sampled, "4", None)]])
    assert turn.row["correct"] is None
    again = BufferEntry.from_json(json.loads(json.dumps(made[1].entry.to_json())))
    assert again == made[1].entry
    tight = game()
    again = [proposal("deduction", "x+1<in>'a'")]
    validate(tight, again)
    assert again[0].entry is None
    played.tasks.buffer.append(made[1].entry)
    assert played.next_batch(1).metrics["majority/tied"] <= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"gate_leak": 0.1}, "--gate-leak 0.1: needs --solver-truth majority"),
        ({"gate_leak": 0.1, "solver_truth": "majority", "task_types": ("abduction",)}, "--gate-leak 0.1: needs deduction"),
        ({"gate_leak": 2.0, "solver_truth": "majority"}, "--gate-leak 2: is a probability"),
        ({"solver_truth": "majority", "group_size": 1}, "--solver-truth majority --group-size 1"),
        ({"players": "two", "proposer": "snapshot"}, "--players two --proposer snapshot: the second model would never learn"),
    ],
)
def test_combinations_without_sense(more: dict, message: str, base: Path) -> None:
    with pytest.raises(InputError, match=message):
        check(config(base, **more))
