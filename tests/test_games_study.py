"""The claims about games, from folders of runs as training and its measurements write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import __main__ as command
from analyses import games, launch, presets, runs
from analyses.claims import NOT_MEASURED, judge, table
from analyses.games import CLAIMS, HINTS, SHARED, STEPS
from analyses.studies import PROMPTS
from dynamics import InputError
from dynamics.train import settings

#: kind of run -> its method, its settings, and how much it has of what claims measure
KINDS: dict[str, tuple[str, dict, float]] = {
    "rlvr": ("rlvr", {}, 0.1),
    "selfplay": ("selfplay", {}, 0.3),
    "selfplay-frozen": ("selfplay", {"proposer": "frozen"}, 0.0),
    "selfplay-two": ("selfplay", {"players": "two"}, 0.0),
    "pasodoble": ("pasodoble", {}, 0.4),
    "pasodoble-frozen": ("pasodoble", {"proposer": "frozen"}, 0.0),
    "pasodoble-shared": ("pasodoble", {"players": "shared"}, 0.1),
    "spc": ("spc", {}, 0.2),
    "spc-frozen-generator": ("spc", {"frozen": "generator"}, 0.0),
    "spc-frozen-critic": ("spc", {"frozen": "critic"}, 0.0),
    "seirenes": ("seirenes", {"task": "lab-deduction"}, 0.2),
    "seirenes-none": ("seirenes", {"task": "lab-deduction", "adversary": "none"}, 0.0),
    "seirenes-snapshot": ("seirenes", {"task": "lab-deduction", "adversary": "snapshot"}, 0.0),
    "populora": ("populora", {}, 0.3),
    "populora-one": ("populora", {"population": "one"}, 0.0),
    "populora-frozen": ("populora", {"proposer": "frozen"}, 0.0),
}
#: problems that a run on all of the laboratory is asked, and one on deduction alone
ASKED = {"lab": {"deduction": range(20), "abduction": range(20)}, "lab-deduction": {"deduction": range(10, 50)}}


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(seed: int, model: str, level: float, task: str, temperature: float, samples: int) -> list[dict]:
    """Graded samples: those of one problem depend on the problem and not on what else was asked, as in training."""
    rows = []
    for form, numbers in ASKED[task].items():
        for number in numbers:
            rng = np.random.default_rng([seed, number, len(form), round(100 * level)])
            for sample in range(samples):
                about = {"model": model, "problem": f"test {form} {number}", "sample": sample, "temperature": temperature}
                about |= {"split": "test", "task": form, "program": f"program {number}", "completion_ids": [1] * 5}
                rows.append(about | {"correct": bool(rng.random() < level)})
    return rows


def estimate(value: float | None, count: int = 100) -> dict:
    return {"value": value, "low": value, "high": value, "count": count}


def critics(seed: int, more: float) -> list[dict]:
    """Two rounds; the last critic is better by ``more``, and the last generator deceives the base more often by it."""
    rows = []
    for critic in (0, 1):
        for generator in ("rule", 0, 1):
            found = 0.8 - (more if generator == 1 else 0) + 0.01 * seed
            harmonic = 0.7 + (more if critic == 1 else 0) + 0.01 * seed
            for manner, less in (("greedy", 0.0), ("T=1", 0.5)):
                outcomes = {"wrong": estimate(found - less), "right": estimate(0.9), "harmonic": estimate(harmonic - less)}
                rows.append({"critic": critic, "generator": generator, "manner": manner} | outcomes)
    return rows


def hints(seed: int, gap: float) -> list[dict]:
    """Answers without and under hints: misleading ones by rule and of the base cost ``gap``, others are not to be counted."""
    rows = []
    for number in range(20):
        about = {"model": "trained", "problem": f"p {number}", "hint": "h", "samples": 100, "temperature": 1.0}
        clean = 80 + seed
        rows.append(about | {"kind": "", "true": None, "correct": clean})
        rows.append(about | {"kind": "wrong", "true": False, "correct": clean - round(100 * gap)})
        rows.append(about | {"kind": "base", "true": number % 2 == 0, "correct": clean - round(100 * gap) if number % 2 else 0})
        rows.append(about | {"kind": "trained", "true": False, "correct": 0})
        rows.append(about | {"kind": "wrong", "true": False, "correct": 0, "model": "base"})
    return rows


def make_run(folder: Path, kind: str, seed: int) -> None:
    method, settings, more = KINDS[kind]
    task = settings.get("task", "lab")
    folder.mkdir(parents=True)
    run = {"schema": "dynamics.run/2", "method": method, "preset": "lab", "seed": seed}
    (folder / "run.json").write_text(json.dumps(run | {"config": {"seed": seed, "task": task, "learning_rate": 3e-4} | settings}))
    for manner, temperature, samples in (("greedy", 0.0, 1), ("T=1", 1.0, 4)):
        write_lines(folder / "evals" / f"base_{temperature}.jsonl", answers(seed, f"base, {manner}", 0.3, task, temperature, samples))
        trained = answers(seed, f"{method}, 10 steps, {manner}", 0.3 + more + 0.01 * seed, task, temperature, samples)
        write_lines(folder / "evals" / f"trained_{temperature}.jsonl", trained)
    lines = [
        {"step": step, "reward": 0.5, "probe/solver/entropy": 0.5 + more + 0.01 * seed - 0.01 * step}
        | ({"program/complexity": 0.4 + more + 0.01 * seed} if method not in ("rlvr", "spc", "seirenes") else {})
        for step in range(1, 11)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    if method == "spc":
        write_lines(folder / "critic.jsonl", critics(seed, more))
    if method == "seirenes":
        write_lines(folder / "robustness.jsonl", hints(seed, 0.3 - more))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    for kind in KINDS:
        for seed in range(3):
            make_run(folder / f"{kind}-{seed}", kind, seed)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Make one run of two games."""
    for kind in ("spc", "seirenes"):
        make_run(tmp_path / f"{kind}-0", kind, 0)
    return tmp_path


def played(folder: Path) -> games.Played:
    return games.read(runs.find([folder]))


def test_every_claim_is_judged_from_a_folder_of_runs(made: Path) -> None:
    rows = table(judge(CLAIMS, played(made)))
    assert (rows["verdict"] != NOT_MEASURED).all(), rows["reason"].tolist()
    assert (rows["effect"] * rows["direction"] > 0).all()
    assert set(rows["seeds"]) == {3}
    effects = rows.set_index(["model", "control", "measured"])["effect"]
    assert effects["seirenes", "seirenes, no adversary", "entropy"] == pytest.approx(0.2)
    assert effects["seirenes", "seirenes, no adversary", "robustness gap"] == pytest.approx(-0.2)
    assert effects["populora", "populora, one agent", "complexity"] == pytest.approx(0.3)
    assert effects["spc", "spc, frozen generator", "harmonic mean"] == pytest.approx(0.2)
    assert effects["spc", "spc, frozen critic", "deceived"] == pytest.approx(0.2)
    assert effects["pasodoble, T=1", "pasodoble, shared players, T=1", "pass@1"] == pytest.approx(0.3, abs=0.1)


def test_models_that_claims_name_are_those_of_the_preset() -> None:
    """Labels follow from the settings that the preset's runs record."""
    labels = set()
    for method in presets.PRESETS["games"].methods:
        labels.add(labelled(method, {}))
    for words in presets.PRESETS["games"].controls.values():
        method, *options = words.split()
        pairs = zip(options[::2], options[1::2], strict=True)
        labels.add(labelled(method, {option.removeprefix("--").replace("-", "_"): value for option, value in pairs}))
    labels |= {labelled("selfplay", {"proposer": variant}) for variant in presets.PRESETS["games"].selfplay_variants}
    assert len(labels) == 17
    assert {model.removesuffix(", T=1") for row in CLAIMS.rows for model in (row.model, row.control)} <= labels
    assert {label.partition(",")[0] for label in labels} == {"sft", "rlvr", *games.GAMES}


def labelled(method: str, changed: dict[str, str]) -> str:
    """Return the label of a run with the settings of the laboratory, but for some."""
    config = asdict(settings.METHODS[method](**settings.preset_values(method, "lab")))
    assert changed.keys() <= config.keys()
    return runs.Run(Path("run"), {"method": method, "preset": "lab", "config": config | changed}).label


def test_methods_are_compared_on_the_problems_that_all_were_asked(made: Path) -> None:
    found = played(made)
    assert found.shared == "10 unseen problems of deduction"
    scores = found.scores("pass@1", "seirenes, T=1", SHARED)
    assert (len(scores.problems), len(found.scores("pass@1", "seirenes, T=1", "test").problems)) == (10, 40)
    base = [found.scores("pass@1", f"{name}, T=1", SHARED).values for name in ("base", "base on lab-deduction")]
    assert np.array_equal(*base)
    rows = games.curves(found)
    assert set(rows.loc[rows["panel"] == "pass@k", "label"]) == {"base", "rlvr", *games.GAMES}
    assert set(rows.loc[rows["panel"] == "pass@k", "at"]) == {1, 2, 4}  # of four samples
    gains = rows[rows["panel"] == "gain"]
    assert set(gains["at"]) == {0, 1}
    assert len(set(gains["label"])) == len(KINDS)


def test_only_misleading_hints_that_all_runs_share_count(two: Path) -> None:
    found = played(two)
    assert found.scores("robustness gap", "seirenes", HINTS).values.item() == pytest.approx(0.1)
    assert "seirenes 0.80 and 0.70" in "\n".join(games.notes(found))
    with pytest.raises(InputError, match="no entropy of populora on fixed prompts"):
        found.scores("entropy", "populora", PROMPTS)


def test_the_rounds_of_spc_are_its_cross_play(two: Path) -> None:
    found = played(two)
    rows = pd.DataFrame(found.rows)
    matrix = rows[(rows["panel"] == "crossplay") & (rows["label"] == "spc")].pivot(index="series", columns="at", values="value")
    assert matrix.to_numpy() == pytest.approx(np.array([[0.8, 0.8], [0.6, 0.6]]))
    assert found.scores("harmonic mean", "spc", STEPS).drawn == 100
    assert not [text for text in found.missing if text[:2] == ("crossplay", "spc-0")]


def test_what_was_measured_afterwards_is_drawn(two: Path) -> None:
    def cell(step: int, value: float | None) -> dict:
        return {"checkpoint": f"step {step}", "value": value}

    phases = [{"phase": "steps 1-5", "accuracy": [cell(0, 0.4), cell(5, 0.6), cell(10, None)]}]
    steps = [{"step": 6, "metrics": {"conflict/cosine/solver/adversary": -0.2, "conflict/norm/solver": 1.0}}]
    steps += [{"step": 11, "metrics": {"conflict/cosine/solver/adversary": None}}]
    for what, document in (("crossplay", {"phases": phases}), ("conflict", {"steps": steps})):
        write_lines(two / what / "seirenes-0.json", [document])
    rows = pd.DataFrame(played(two).rows).set_index(["label", "panel"])
    assert rows.loc[[("seirenes", "crossplay")], "value"].tolist() == [0.4, 0.6]
    assert rows.loc[("seirenes", "difficulty"), "value"] == 0.4
    assert rows.loc[("seirenes", "conflict"), ["series", "at", "value"]].tolist() == ["solver, adversary", 6, -0.2]


def test_what_was_not_measured_is_named(two: Path) -> None:
    write_lines(two / "crossplay" / "seirenes-0.json", [{"refused": "a hint is no task"}])
    (two / "spc-0" / "critic.jsonl").unlink()
    (two / "seirenes-0" / "robustness.jsonl").unlink()
    told = "\n".join(games.notes(played(two)))
    assert "crossplay of seirenes-0: a hint is no task" in told
    assert "conflict of seirenes-0: not computed; python -m dynamics.train.conflict" in told
    assert "critics of spc-0: no critic.jsonl; is it finished?" in told
    assert "robustness of seirenes-0: no robustness.jsonl" in told
    assert "all of selfplay, pasodoble, populora: no run" in told
    assert "updates of seirenes-0, spc-0: no base and later checkpoint" in told


def cut(text: str) -> str:
    """Keep the first two lines."""
    return "".join(text.splitlines(keepends=True)[:2])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("spc-0/critic.jsonl", lambda text: text.replace('"critic"', '"c"'), "critic.jsonl, line 1: has no critic"),
        ("spc-0/critic.jsonl", lambda text: text.replace('"rule"', "null"), "line 1: has no generator"),
        ("spc-0/critic.jsonl", lambda text: text.replace('"count"', '"n"'), "line 1: has no wrong"),
        ("spc-0/critic.jsonl", cut, "has no critic of round 0 on steps of generator 0; restore the file"),
        ("seirenes-0/robustness.jsonl", lambda text: text.replace('"kind"', '"k"'), "robustness.jsonl, line 1: has no kind"),
        ("seirenes-0/robustness.jsonl", lambda text: text[: text.index("\n") + 1], "has no problem that the trained model answered"),
        (
            "crossplay/seirenes-0.json",
            lambda _: '{"phases": [{"phase": 1}]}',
            "is not what python -m dynamics.train.crossplay --json writes",
        ),
        ("crossplay/seirenes-0.json", lambda _: "[]", "remove it and measure again"),
        ("conflict/seirenes-0.json", lambda _: '{"steps": 3}', "is not what python -m dynamics.train.conflict --json writes"),
        ("conflict/seirenes-0.json", lambda _: "{", "is not what python -m dynamics.train.conflict --json writes"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    two: Path, file: str, change: Callable[[str], str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(change(path.read_text() if path.exists() else ""))
    assert games.STUDY.main([str(two), "--out", str(two / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_without_a_game_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "rlvr-0", "rlvr", 0)
    assert games.STUDY.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "has no run of a game (selfplay, pasodoble, spc, seirenes, populora), only of rlvr" in error
    assert error.count("\n") == 1


def test_the_command_writes_tables_and_figure(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert games.STUDY.main([str(made), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "pass@k and gains: 10 unseen problems of deduction, which all runs were asked." in told
    assert "nothing is said of cyclomatic numbers" in told
    assert {path.name for path in tmp_path.iterdir()} == {f"games{end}" for end in (".png", ".svg", ".csv", "-curves.csv", ".md")}
    rows = pd.read_csv(tmp_path / "games-curves.csv")
    assert {"pass@k", "gain", "entropy", "crossplay"} == set(rows["panel"])
    assert "Figure: 3 seeds, each with its own base" in told
    assert "No runs of" not in games.caption(rows)


def test_an_adapter_is_compared_with_the_base_of_another_run(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    base = {"model.layers.0.mlp.up_proj.weight": rng.normal(size=(16, 12)).astype(np.float32)}
    for kind in ("selfplay", "populora"):
        make_run(tmp_path / kind, kind, 0)
        run = json.loads((tmp_path / kind / "run.json").read_text()) | {"checksums": {"base": "same"}, "graded": "student1"}
        (tmp_path / kind / "run.json").write_text(json.dumps(run))
    for step in (0, 10):
        moved = {name: weight + np.float32(step) for name, weight in base.items()}
        factors = {
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.ones((1, 12), np.float32),
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": np.array([[step * (row < 4)] for row in range(16)], np.float32),
        }
        settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["up_proj"], "base_model_name_or_path": "gone"}
        for folder, tensors in (
            (tmp_path / "selfplay" / "checkpoints", moved),
            (tmp_path / "populora" / "checkpoints", factors),
            (tmp_path / "populora" / "players" / "teacher1", factors),
        ):
            target = folder / f"step_{step:06d}"
            target.mkdir(parents=True)
            name = "model" if tensors is moved else "adapter_model"
            safetensors.save_file(tensors, target / f"{name}.safetensors")
            if tensors is factors:
                (target / "adapter_config.json").write_text(json.dumps(settings))
    rows = pd.DataFrame(played(tmp_path).rows)
    found = rows[rows["panel"] == "sparsity"].set_index(["label", "series"])["value"]
    assert found["populora", "student1"] == found["populora", "teacher1"] == pytest.approx(0.75)
    assert found["selfplay", "student1"] == 0
    (tmp_path / "selfplay" / "checkpoints" / "step_000000" / "model.safetensors").unlink()
    (tmp_path / "selfplay" / "checkpoints" / "step_000000").rmdir()
    without = ("updates", "populora", "of adapters, and no run from the same base has its weights")
    assert without in played(tmp_path).missing


def test_claims_are_fixed_before_the_first_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    where = tmp_path / "runs" / "comparison-games"

    def train(preset: str, folder: Path, force: bool, scheduler: str | None = None) -> None:
        assert (preset, folder, force) == ("games", where, False)
        assert (where / "claims.json").exists()
        make_run(where / "spc-0", "spc", 0)
        make_run(where / "selfplay-0", "selfplay", 0)

    monkeypatch.setattr(launch, "train", train)
    monkeypatch.setattr(games.style, "save", lambda figure, path: path)  # drawn by another test
    paths = games.main(tmp_path / "runs", tmp_path / "figures", False)
    assert "The claims are those that were fixed in claims.json" in capsys.readouterr().err
    assert tmp_path / "figures" / "games" / "games.png" in paths
    for what in ("crossplay", "conflict"):
        assert "refused" in json.loads((where / what / "selfplay-0.json").read_text())
        assert not (where / what / "spc-0.json").exists()  # its rounds are its cross-play, and its players have one role each


def test_a_dry_run_prints_the_commands_of_the_games(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["games", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 51
    assert sum("--adversary snapshot" in line for line in lines) == 3
    shared = re.compile(r"/(sft|rlvr|selfplay|selfplay-frozen)-\d ")  # also of the preset full, and the same there
    assert all(("--save-every 25" in line) != bool(shared.search(line)) for line in lines)
    own = [line for line in lines if not re.search(r"/(rlvr|selfplay|selfplay-frozen)-\d ", line)]
    assert all("--eval-temperatures 1,0" in line for line in own)  # a game may ask other problems, of which the base is asked too
    both = presets.plan("full"), presets.plan("games")
    assert sum(both[0].get(name) == options for name, options in both[1].items()) == 12
