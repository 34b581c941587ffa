"""Settings, their command line, and run directories with the setting names of the first schema."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest

from dynamics import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.runs.schema import RENAMED_SETTINGS, SCHEMA, current_metrics
from dynamics.train import config
from dynamics.train.command_line import parse
from dynamics.train.config import RLVRConfig, SelfPlayConfig, SFTConfig, check
from dynamics.train.settings import METHODS, preset_values

RECORDED = Path(__file__).parent / "recorded" / "schema_1"  # of self-play, after two steps of four
#: options that started that run, under their names at the time
OLD = shlex.split("""
    --steps 4 --save-every 1 --threads 1 --eval-problems 6 --eval-samples 2 --eval-temperatures 1,0.5 --fixed-every 1 --learning-rate 1e-3
    --compute-dtype float32 --prompts 4 --group=4 --max-new-tokens 8 --propose-tokens 40 --seeding 6 --kinds deduction,abduction
    --bonuses=complexity,edit_distance --lag 1 --curriculum 2 --unformed -0.5 --allow-unconfined 1
""")
NEW = shlex.split("""
    --steps 4 --save-every 1 --threads 1 --eval-problems 6 --eval-samples 2 --eval-temperatures 1 0.5 --probe-every 1 --learning-rate 1e-3
    --compute-dtype float32 --prompts-per-step 4 --group-size 4 --max-new-tokens 8 --max-proposal-tokens 40 --num-seed-tasks 6
    --task-types deduction abduction --proposer-bonuses complexity edit_distance --solver-delay 1 --curriculum-samples 2
    --format-error-reward -0.5 --allow-unconfined
""")


def settings_of(*words: str) -> dict:
    return asdict(parse([*words, "--out", "x"]).config)


def test_choices_are_those_that_the_code_has() -> None:
    pytest.importorskip("torch")
    from dynamics.train import objectives
    from dynamics.train import proposer_rewards as rewards
    from dynamics.train.tasks import TASK_TYPES

    assert get_args(config.Advantage) == tuple(objectives.ADVANTAGES)
    assert set(get_args(config.SelfPlayAdvantage)) == {name for name in objectives.ADVANTAGES if name.startswith("reinforce")}
    assert get_args(config.LossAggregation) == objectives.AGGREGATIONS
    assert get_args(config.TaskType) == TASK_TYPES
    assert get_args(config.Bonus) == rewards.BONUSES
    assert get_args(config.BonusCombination) == rewards.COMBINE


@pytest.mark.parametrize(("method", "kind"), METHODS.items())
def test_defaults_are_those_of_the_class_for_its_model(method: str, kind: type) -> None:
    assert settings_of(method) == asdict(kind(**preset_values(method, None, kind().model)))
    assert (kind().model == "tiny") == (method not in ("seirenes", "spc"))  # whose forms the embedded model cannot read


def test_presets_say_which_defaults_are_meant(base: Path) -> None:
    pretrained = asdict(RLVRConfig(**preset_values("rlvr", "pretrained")))
    assert (pretrained["learning_rate"], pretrained["group_size"], pretrained["eval_temperatures"]) == (1e-5, 8, (1.0, 0.0))
    assert settings_of("rlvr", "--preset", "pretrained") == pretrained
    assert settings_of("rlvr", "--model", str(base)) == pretrained | {"model": str(base)}
    assert settings_of("rlvr", "--preset", "tiny", "--model", str(base)) == asdict(RLVRConfig(model=str(base)))
    assert settings_of("rlvr", "--preset", "pretrained", "--learning-rate", "1")["learning_rate"] == 1
    over_tiny, over_pretrained = (settings_of("selfplay", "--preset", "azr-code", *more) for more in ([], ["--model", "smollm2"]))
    assert (over_tiny["learning_rate"], over_tiny["max_proposal_tokens"], over_tiny["solver_delay"]) == (1e-6, 64, 1)
    assert (over_pretrained["learning_rate"], over_pretrained["max_proposal_tokens"]) == (1e-6, 128)


def test_an_embedded_model_by_its_path_is_told_of_the_preset(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from dynamics.train.__main__ import cli

    assert cli(["sft", "--model", str(base), "--out", "x", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "its defaults are those of --preset tiny, but without --preset those of pretrained are used" in printed.err
    assert len(printed.err.splitlines()) == 1
    assert json.loads(printed.out)["preset"] == "pretrained"
    for more in (["--model", str(base), "--preset", "tiny"], []):
        assert cli(["sft", "--out", "x", "--dry-run", *more]) == 0
        printed = capsys.readouterr()
        assert (printed.err, json.loads(printed.out)["preset"]) == ("", "tiny")


def test_old_names_of_options_are_taken_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of("selfplay", *NEW)
    assert capsys.readouterr().err == ""
    assert settings_of("selfplay", *OLD) == settings
    warnings = capsys.readouterr().err.splitlines()
    assert "dynamics.train: --kinds is now --task-types; the old name will be removed in the next release" in warnings
    assert "dynamics.train: --allow-unconfined takes no value now; 0 and 1 will be refused with the next release" in warnings
    assert len(warnings) == sum(word.partition("=")[0] in map(option, RENAMED_SETTINGS) for word in OLD) + 1
    assert not settings_of("selfplay", "--allow-unconfined=0")["allow_unconfined"]
    assert settings_of("selfplay", "--bonuses", "")["proposer_bonuses"] == ()


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_every_old_name_is_of_a_setting_that_exists() -> None:
    names = {field.name for kind in METHODS.values() for field in fields(kind)}
    assert set(RENAMED_SETTINGS.values()) <= names
    assert not names & set(RENAMED_SETTINGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rlvr", "--learning-rat", "1"], "--learning-rat: unknown option; did you mean --learning-rate?"),
        (["rlvr", "--learning-rat=1"], "--learning-rat: unknown option; did you mean --learning-rate?"),
        (["sft", "--group", "4"], "--group-size: unknown option"),
        (["sft", "--zzz"], "--zzz: unknown option; see --help"),
        (["rlvrr"], f"rlvrr: unknown method; there are {', '.join(METHODS)}"),
        ([], f"name a method first: {', '.join(METHODS)}; see --help"),
        (["sft", "extra"], "extra: not recognized; see --help"),
        (["sft", "--steps"], "Missing value for argument '--steps'"),
        (["sft", "--steps", "1.5"], "--steps: '1.5' is not a whole number"),
        (["sft", "--steps=abc"], "--steps: 'abc' is not a whole number; see --help"),
        (["sft", "--learning_rate", "fast"], "--learning-rate: 'fast' is not a number; see --help"),
        (["sft", "--eval-temperatures", "1,a"], "--eval-temperatures: 'a' is not a number"),
        (["sft", "--preset", "azr-code"], "invalid choice 'azr-code' for argument '--preset'"),
        (["selfplay", "--advantage", "rloo"], "invalid choice 'rloo' for argument '--advantage'. Expected one of ('reinforce++', 'rein"),
        (["selfplay", "--solver-delay", "2"], "--solver-delay"),
        (["selfplay", "--task-types"], "--task-types: needs at least one of deduction, abduction, induction"),
        (["sft", "--eval-temperatures"], "--eval-temperatures : must be one or more numbers"),
    ],
)
def test_what_is_not_understood_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse([*words[:1], *(["--out", "x"] if words else []), *words[1:]])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)


def test_a_run_needs_a_folder() -> None:
    with pytest.raises(InputError, match=r"--out DIR run directory to write \(required\); see --help"):
        parse(["sft"])
    with pytest.raises(InputError, match="--steps: 'abc' is not a whole number; see --help"):  # without the folder too
        parse(["sft", "--steps", "abc"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (RLVRConfig(advantage="grop"), "--advantage grop: unknown; there are grpo, dr_grpo"),  # type: ignore[arg-type]
        (SelfPlayConfig(task_types=("deduktion",)), "--task-types deduktion: unknown; there are deduction"),  # type: ignore[arg-type]
        (SelfPlayConfig(wrong_answer_reward=float("nan")), "--wrong-answer-reward nan: must be a number"),
        (SFTConfig(batch_size=0), "--batch-size 0: must be a number of at least 1"),
        (SFTConfig(eval_temperatures=()), "--eval-temperatures"),
        (SFTConfig(eval_trained_temperatures=(1.0, -1.0)), "--eval-trained-temperatures 1 -1"),
    ],
)
def test_settings_from_python_are_checked_too(made: config.TrainConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(made)


def test_help_needs_no_torch() -> None:
    code = "import sys\ntry:\n from dynamics.train.__main__ import main; main(['rlvr', '--help'])\nfinally: print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.endswith("False\n")
    assert "example: python -m dynamics.train rlvr --steps 100 --out runs/rlvr" in printed
    words = " ".join(printed.replace("│", " ").split())
    assert "--group-size INT number of samples per prompt (default: 16)" in words
    assert "top-k sampling: sample from the k most likely tokens; 0 disables it (default: 0)" in words


def test_every_setting_has_a_line_of_help() -> None:
    for kind in METHODS.values():
        documented = "".join(parent.__doc__ or "" for parent in kind.__mro__ if parent is not object)
        for field in fields(kind):
            assert f"\n    {field.name} : " in documented, field.name


def test_run_directories_of_the_first_schema_are_read(tmp_path: Path) -> None:
    document = RunDirectory(RECORDED).read_run()
    assert document["schema"] == SCHEMA
    now = json.loads(json.dumps(settings_of("selfplay", *NEW) | {"model": "base"}))
    for newer in config.EARLIER.keys() - {"allow_unconfined"}:
        now.pop(newer, None)  # of other methods too
    assert document["config"] == now | {"max_tokens_per_microbatch": 8192}  # the default of then
    assert document["probe_prompts"] == {"solver": 24, "proposer": 24}
    recorded = json.loads((RECORDED / "run.json").read_text())
    assert {key: document[key] for key in ("seed", "threads", "packages")} == {
        key: recorded[key] for key in ("seed", "threads", "packages")
    }
    for line in (RECORDED / "metrics.jsonl").read_text().splitlines():
        old = json.loads(line)
        new = current_metrics(old)
        assert list(new.values()) == list(old.values())
        assert new["probe/solver/entropy"] == old["fixed/solver/entropy"]
        assert new["time/probe_seconds"] == old["time/fixed_seconds"]
        assert current_metrics(new) == new
    directory = RunDirectory(tmp_path)
    theirs = {"schema": "dynamics.run/1", "method": "rlvr", "config": {"loss": "dr_grpo", "group": 1}}  # of another trainer
    directory.write_run(theirs)
    assert directory.read_run() == theirs | {"schema": SCHEMA}


@pytest.mark.slow
def test_a_run_of_the_first_schema_is_resumed_to_the_same_bits(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dynamics.train.__main__ import cli
    from dynamics.train.loop import run
    from train.helpers import contents

    class Stop(Exception):
        pass

    def stop(step: int, metrics: dict) -> None:
        if step == 2:
            raise Stop

    words = ["selfplay", "--model", str(base), "--preset", "tiny"]
    settings = parse([*words, *NEW, "--out", "x"]).config
    begun = tmp_path / "begun"
    with pytest.raises(Stop):
        run("selfplay", settings, begun, on_step=stop)
    document = json.loads((RECORDED / "run.json").read_text())
    document["model"] = document["config"]["model"] = str(base)
    (begun / "run.json").write_text(json.dumps(document))
    metrics = (begun / "metrics.jsonl").read_text()
    (begun / "metrics.jsonl").write_text(metrics.replace('"probe/', '"fixed/').replace('"time/probe_', '"time/fixed_'))
    assert cli([*words, *OLD, "--out", str(begun), "--resume"]) == 0
    run("selfplay", settings, tmp_path / "straight", preset="tiny")
    assert contents(begun) == contents(tmp_path / "straight")
    document = json.loads((begun / "run.json").read_text())
    assert (document["schema"], document["status"]) == (SCHEMA, "finished")
    assert document["config"] == json.loads((tmp_path / "straight" / "run.json").read_text())["config"]
