"""What all games share: turns become batches, players learn apart, and a game of the manual is played as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import loop, objectives, registry, settings, state, update
from dynamics.train.completions import SampledCompletion
from dynamics.train.config import RLVRConfig, SelfPlayConfig
from dynamics.train.games.game import Game, Play, Role, Turn, pack, role_metrics
from dynamics.train.policy import Policy
from dynamics.train.tasks.prompt_formats import encode_questions
from train.helpers import contents

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "games.md"


def turn(role: str, group: object, reward: float, length: int = 2, **more) -> Turn:
    sampled = SampledCompletion(np.arange(3, 3 + length), np.zeros(length, np.float32), "eos")
    return Turn(role, more.pop("task", "a"), "?", np.array([1, 2]), sampled, "text", group, reward, **more)


def test_each_role_has_its_estimator_and_its_cells() -> None:
    turns = [
        *(turn("solver", 0, reward) for reward in (1, 0)),
        *(turn("critic", 1, reward, task=task) for reward, task in ((1, "a"), (0, "a"), (0, "b"), (3, "b"))),
        *(turn("raw", 2, reward) for reward in (1, -1)),
    ]
    roles = {"solver": Role("dr_grpo"), "critic": Role("reinforce++-sequence"), "raw": Role("reinforce", weight=0.5)}
    parts, advantages = pack(turns, roles, 1.0)
    assert advantages == pytest.approx([0.5, -0.5, 1, -1, -1, 1, 0.5, -0.5])
    assert [part.player for part in parts] == ["policy"]
    whole = roles | {"critic": Role("reinforce++-sequence", "role")}
    critic = objectives.advantages("reinforce++-sequence", [1, 0, 0, 3], [0] * 4, [2] * 4)
    assert pack(turns, whole, 1.0)[1][2:6] == pytest.approx(critic)


def test_a_baseline_may_span_prompts() -> None:
    turns = [turn("a", ("prompt", number), reward, baseline="passage") for number, reward in enumerate((1, 0, 0.5))]
    parts, advantages = pack(turns, {"a": Role("dr_grpo")}, 1.0)
    assert advantages == pytest.approx([0.5, -0.5, 0])
    assert len(parts[0].batch.prompts) == 3
    assert parts[0].batch.prompt_of.tolist() == [0, 1, 2]


def test_turns_without_gradient_and_turns_that_are_only_recorded() -> None:
    turns = [turn("a", 0, 1), turn("a", 0, 0, learns=False), turn("a", 0, 5, packed=False), turn("a", 1, 0.3, supervised=True)]
    ((player, batch),), advantages = pack(turns, {"a": Role("dr_grpo")}, 0.7)
    assert (player, batch.temperature) == ("policy", 0.7)
    assert advantages == [0.5, 0.0, None, 0.3]  # an imitated turn has its weight, and is no part of a baseline
    assert batch.trained.tolist() == [True, False, True]
    assert batch.supervised.tolist() == [False, False, True]
    assert pack([turn("a", 0, 1, packed=False)], {"a": Role("grpo")}, 1.0) == ([], [None])


def test_a_turn_comes_back_from_json() -> None:
    given = turn("a", ("g", 3), 0.1, player="b", baseline="x", supervised=True)
    given.sampled.logprobs[:] = [-0.1, -1e-7]
    again = Turn.from_json(json.loads(json.dumps(given.to_json())))
    assert again.to_json() == given.to_json()
    assert again.sampled.logprobs.tobytes() == given.sampled.logprobs.tobytes()


def test_metrics_of_roles() -> None:
    turns = [turn("a", 0, 1), turn("a", 0, 1, length=4), turn("a", 1, 0, task="b"), turn("a", 1, 1, task="b")]
    turns[0].sampled = SampledCompletion(np.arange(2), np.zeros(2, np.float32), "length")
    assert role_metrics(turns) == {
        "a/reward": 0.75,
        "a/reward/a": 1.0,
        "a/reward/b": 0.5,
        "a/zero_std": 0.5,
        "a/length": 2.5,
        "a/truncated": 0.25,
    }


def test_the_ratio_of_whole_completions() -> None:
    advantage = np.array([1.0, 1.0, -1.0, -1.0])
    old = np.log([1.0, 1.0, 1.0, 1.0])
    found = objectives.sequence_coefficients(np.log([1.1, 1.3, 0.9, 0.7]), old, advantage)
    assert found == pytest.approx([1.1, 0, -0.9, 0])  # beyond 1.2 with a gain, below 0.8 with a loss


def test_the_gradient_of_a_ratio_of_whole_completions(base: Path) -> None:
    """It is that of the objective, computed by torch from its definition."""
    from dynamics.train import policy
    from dynamics.train.batch import Batch

    model = policy.load(str(base), None, "float32", "float32")
    prompts, completions = [np.array([5, 6, 7])], [np.array([8, 9]), np.array([10, 11, 12]), np.array([13])]
    blank = [""] * 3
    reference = [np.full(len(ids), value, np.float32) for ids, value in zip(completions, (-3.9, -4.5, -4.0), strict=True)]
    shared = {"prompts": prompts, "completions": completions, "prompt_of": np.zeros(3, int), "roles": blank, "tasks": blank}
    imitated = np.array([False, False, True])
    batch = Batch(
        advantages=np.array([1.0, -1.0, 0.15]), behaviour=reference, supervised=imitated, sequence_ratio=True, names=blank, **shared
    )
    config = RLVRConfig(loss_aggregation="sequence-mean")
    tokens = update.gradient(model, batch, config, update.prepare(model, None, batch, config, 1))
    found = {name: value.grad.clone() for name, value in model.masters.items()}
    for value in model.masters.values():
        value.grad = None
    rows = model.pack(batch, range(3), 1000)
    (piece,) = (piece for row in rows for piece in model.pieces(row, 1000))
    logp = torch.zeros(3).index_add(0, torch.from_numpy(piece.rows.sample), piece.values[0]) / torch.tensor([2.0, 3.0, 1.0])
    ratio = torch.exp(logp - torch.tensor([-3.9, -4.5, -4.0]))
    gain = torch.tensor([1.0, -1.0, 0.15])
    clipped = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    (-torch.where(torch.from_numpy(imitated), 0.15 * logp, clipped).mean()).backward()
    for name, value in model.masters.items():
        assert torch.allclose(value.grad, found[name], atol=1e-6), name
    low = ((ratio < 0.8) & (gain < 0) & ~torch.from_numpy(imitated)).tolist()
    assert [bool(tokens.clipped_low[tokens.sample == sample].all()) for sample in range(3)] == low


class TwoPlayers(Game):
    """One model answers twice as often as the other; every third step has nothing to train on."""

    def __init__(self, config: RLVRConfig, policy: Policy, source) -> None:
        super().__init__(config, policy)
        self.questions = source.questions("training", 4, 0)
        self.players = {name: update.make_player(name, model, config) for name, model in (("a", policy), ("b", policy.copy()))}
        self.graded = "a"
        self.roles = {"left": Role("reinforce"), "right": Role("reinforce")}
        self.played = 0

    def play(self, step: int) -> Play:
        self.played += 1
        turns = []
        for player, role, count in (("a", "left", 2), ("b", "right", 1)):
            ids = encode_questions(self.tokenizer, self.questions)
            groups = self.ask(self.players[player].policy, ids, count, role, step)
            for number, (question, group) in enumerate(zip(self.questions, groups, strict=True)):
                turns += [
                    Turn(
                        role, question.task, question.prompt, ids[number], sampled, self.text(sampled), number, len(sampled.ids) / 8, player
                    )
                    for sampled in group
                ]
        for one in turns:
            one.packed = step % 3 != 0
        return Play(turns, role_metrics(turns) | {"played": self.played})

    def state(self) -> dict:
        return {"played": self.played}

    def load(self, kept: dict) -> None:
        self.played = kept["played"]


@pytest.fixture
def two_players(monkeypatch) -> None:
    monkeypatch.setitem(registry.CLASSES, "two", f"{__name__}:TwoPlayers")
    monkeypatch.setitem(settings.METHODS, "two", RLVRConfig)


def run_two(base: Path, out: Path, steps: int = 4, **more) -> None:
    config = RLVRConfig(
        model=str(base), steps=steps, eval_problems=4, eval_samples=1, threads=1, max_new_tokens=6, save_every=2, probe_every=0, **more
    )
    out.mkdir(exist_ok=True)
    loop.run("two", config, out, resume=(out / "run.json").exists())


def test_two_players_learn_apart_and_resume_to_the_bit(base: Path, tmp_path: Path, two_players, monkeypatch) -> None:
    run_two(base, tmp_path / "whole")
    document = RunDirectory(tmp_path / "whole").read_run()
    assert (document["players"], document["graded"]) == (["a", "b"], "a")
    lines = list(RunDirectory(tmp_path / "whole").metrics())
    assert lines[0]["tokens"] == lines[0]["player/a/tokens"] + lines[0]["player/b/tokens"]
    assert lines[0]["player/a/tokens"] > lines[0]["player/b/tokens"] > 0
    assert lines[2]["tokens"] == 0  # nothing to train on
    assert "grad_norm" not in lines[0]
    assert lines[0]["player/a/grad_norm"] > 0
    moved = [line["update_norm"] for line in RunDirectory(tmp_path / "whole" / "players" / "b").metrics()]
    assert len(moved) == 4
    assert moved[1] == moved[2]
    folders = [tmp_path / "whole" / folder / "step_000004" / "model.safetensors" for folder in ("checkpoints", "players/b")]
    assert folders[0].read_bytes() != folders[1].read_bytes()

    saves = []
    save = state.save

    def interrupted(*args, **more) -> None:
        save(*args, **more)
        saves.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_two(base, tmp_path / "again")
    monkeypatch.setattr(state, "save", save)
    run_two(base, tmp_path / "again")
    assert len(saves) == 1
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")


def test_a_state_of_other_players_is_not_loaded(base: Path, tmp_path: Path, two_players, monkeypatch) -> None:
    run_two(base, tmp_path / "run", steps=2)
    other = RunDirectory(tmp_path / "run").read_run()
    players = TwoPlayers.__init__

    def renamed(self, config, policy, source) -> None:
        players(self, config, policy, source)
        self.players = {"a": self.players["a"], "c": self.players["b"]}

    monkeypatch.setattr(TwoPlayers, "__init__", renamed)
    assert other["status"] == "finished"
    with pytest.raises(InputError, match="does not hold the players a, c"):
        run_two(base, tmp_path / "run", steps=2)


def test_the_game_of_the_manual(tmp_path: Path, monkeypatch) -> None:
    code = re.search(r"```python\n(from .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = code[1].rstrip().splitlines()
    assert len(lines) - lines.index("class SolveAndJudge(Game):") <= 40
    (tmp_path / "game_of_the_manual.py").write_text(code[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.CLASSES, "manual", "game_of_the_manual:SolveAndJudge")
    monkeypatch.setitem(settings.METHODS, "manual", RLVRConfig)
    config = RLVRConfig(model="lab", task="lab", steps=2, prompts_per_step=2, group_size=4, eval_problems=0, threads=1, max_new_tokens=60)
    (tmp_path / "run").mkdir()
    loop.run("manual", config, tmp_path / "run")
    (first, _) = RunDirectory(tmp_path / "run").metrics()
    assert {"solver/reward", "judge/reward", "solver/entropy", "judge/entropy"} <= first.keys()
    assert first["judge/reward"] > 0.5  # the base judges well


def test_absolute_zero_has_the_settings_that_it_had() -> None:
    assert settings.preset_values("selfplay", "azr-code")["proposer_reward"] == "azr_code"
    assert SelfPlayConfig().prompts_per_step == 24
