"""Cross-play, conflict of roles and learnable information of recorded runs, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.train import conflict, crossplay, learnable
from dynamics.train.conflict.__main__ import cli as conflict_cli
from dynamics.train.crossplay.__main__ import cli as crossplay_cli
from dynamics.train.finished import open_finished
from dynamics.train.learnable.__main__ import cli as learnable_cli

RUNS = Path(__file__).parent.parent / "data" / "runs"
COMMANDS = {"crossplay": crossplay_cli, "conflict": conflict_cli, "learnable": learnable_cli}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / "selfplay-0", tmp_path / "run"))


def test_the_gradient_is_that_of_the_run() -> None:
    (found,) = conflict.of_run(RUNS / "selfplay-0")
    assert found.step == 1
    assert found.logged is not None
    assert found.norm == pytest.approx(found.logged, rel=1e-4)
    assert found.is_of_the_run
    shares = [found.metrics[f"conflict/share/{role}"] for role in ("proposer", "solver")]
    assert shares == pytest.approx([1, 0])  # all answers of this step had the same reward
    assert np.isnan(found.metrics["conflict/cosine/proposer/solver"])


def test_another_gradient_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "rollouts" / "step_1.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"advantage": 2 * row.get("advantage", 0.0)}) + "\n" for row in rows))
    assert conflict_cli([str(run)]) == 0
    assert "is not that of the run" in capsys.readouterr().out


def test_cross_play_of_a_recorded_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, drawn = tmp_path / "crossplay.json", tmp_path / "crossplay.png"
    assert crossplay_cli([str(run), "--tasks", "6", "--samples", "2", "--json", str(out), "--figure", str(drawn)]) == 0
    document = json.loads(out.read_text())
    assert document["checkpoints"] == ["step 0", "step 4"]
    (phase,) = document["phases"]
    assert phase["tasks"] == 6
    assert phase["progress"]["value"] == 0
    assert phase["gain"]["value"] == pytest.approx(phase["accuracy"][1]["value"] - phase["accuracy"][0]["value"])
    assert drawn.stat().st_size > 1000
    assert "steps 1-4" in capsys.readouterr().out
    again, _ = crossplay.of_run(run, tasks=6, samples=2)
    assert again.matrix.tolist() == [[cell["value"] for cell in phase["accuracy"]]]


def test_players_of_a_game_answer(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step_000004", run / "players" / "rival" / "step_000004")
    opened = open_finished(run)
    assert opened.players == ["rival"]
    assert list(opened.checkpoints("rival")) == [0, 4]  # both began as the base
    own, rival = (crossplay.of_run(run, player, tasks=4, samples=2)[0] for player in ("", "rival"))
    assert own.matrix.tolist() == rival.matrix.tolist()


def test_learnable_information_of_a_recorded_run(run: Path) -> None:
    rollouts = run / "rollouts" / "step_1.jsonl"
    rows = [json.loads(line) for line in rollouts.read_text().splitlines()]
    made = [
        {"role": "proposer", "prompt": "", "completion": "", "reward": 0.0, "valid": True, "task": "deduction"}
        | {
            "entry": {
                "kind": "deduction",
                "program": f"x+{number}",
                "inputs": f"(({number},),)",
                "message": "",
                "outputs": f"({2 * number},)",
                "step": 1,
            }
        }
        for number in range(48)
    ]
    rollouts.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *made]))
    found, about = learnable.of_run(run, phases=1, tasks=48, seeds=2)
    (phase,) = found
    assert phase.tasks == 48
    assert phase.nats.count == 2
    assert phase.nats.value > 0  # an untrained learner learns the format
    assert phase.per_token == pytest.approx(phase.nats.value / (sum(one.tokens for one in phase.learners) / 2))
    assert about["tokens"] >= max(one.tokens for one in phase.learners)
    base, _ = learnable.of_run(run, "base", phases=1, tasks=48, seeds=1, learning_rate=1e-3)
    assert base[0].curve[0] < phase.curve[0]


def test_few_tasks_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match="a phase has only"):
        learnable.of_run(run)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_run_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name]([str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "no run directory of dynamics.train" in said[0]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("crossplay", ["--player", "rivl"], "the run has one player only"),
        ("crossplay", ["--checkpoints", "1"], "must be at least 2"),
        ("crossplay", ["--samples", "0"], "must be at least 1"),
        ("learnable", ["--learning-rate", "0"], "must be above 0"),
        ("conflict", ["--player", "nobody"], "no such player"),
    ],
)
def test_wrong_options_are_refused(name: str, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name]([str(RUNS / "selfplay-0"), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_tasks_or_roles_is_refused() -> None:
    with pytest.raises(InputError, match="no tasks that can be asked again"):
        crossplay.of_run(RUNS / "rlvr-0")
    with pytest.raises(InputError, match="samples nothing"):
        conflict.of_run(RUNS / "sft-0")


def test_gradients_of_adapters_are_refused(run: Path) -> None:
    (run / "checkpoints" / "step_000000" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="its players are LoRA adapters"):
        conflict.of_run(run)


def test_damaged_rollouts_are_named(run: Path) -> None:
    file = run / "rollouts" / "step_1.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"prompt_ids": []}) + "\n" for row in rows))
    with pytest.raises(InputError, match="line 1: has no tokens"):
        conflict.of_run(run)


def verdicts(critics: dict[int, list[bool | None]]) -> list[dict]:
    """What critics say of a right step, a wrong one by rule, and one of each of two generators, in this order."""
    shown = [("right", True), ("rule", False), (0, False), (1, False)]
    return [
        {"critic": critic, "manner": manner, "source": source, "right": right, "said": said, "problem": "p", "step": f"s{source}"}
        for critic, of_critic in critics.items()
        for manner in ("greedy", "T=1")
        for (source, right), said in zip(shown, of_critic if manner == "greedy" else [None] * 4, strict=True)
    ]


def test_cross_play_of_spc_is_what_its_critics_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"method": "spc", "config": {"model": "lab", "task": "lab"}}))
    assert crossplay_cli([str(run)]) == 2
    assert "a run of spc writes it at its end" in capsys.readouterr().err
    file = run / "critic_verdicts.jsonl"

    def write(critics: dict[int, list[bool | None]]) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in verdicts(critics)))

    write({0: [True, True, False, None], 1: [False, False, False, False]})
    found, about = crossplay.of_run(run)
    assert found.checkpoints == ["critic 0", "critic 1"]
    assert found.phases == ["generator 0", "generator 1", "wrong by rule", "right steps"]
    assert found.matrix.tolist() == [[1, 1], [0, 1], [0, 1], [1, 0]]  # no verdict is no right one
    assert found.own == [0, 1, 0, 0]
    assert about["manner"] == "greedy"
    write({0: [True, True, False, None]})
    with pytest.raises(InputError, match="--frozen critic trains none"):
        crossplay.of_run(run)
    file.write_text(file.read_text() + json.dumps(verdicts({1: [True] * 4})[0]) + "\n")
    with pytest.raises(InputError, match="judged different steps"):
        crossplay.of_run(run)
    with pytest.raises(InputError, match="only critics judge"):
        crossplay.of_run(run, "generator")
