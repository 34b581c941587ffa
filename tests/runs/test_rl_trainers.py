"""Run directories of this project, verl, OpenRLHF, prime-rl and open-instruct: what they say, and what is left out of damaged ones."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynamics import runs
from dynamics.errors import InputError
from dynamics.report.section import Options
from dynamics.report.sections import curves
from dynamics.runs.directory import RunDirectory
from dynamics.runs.logged_names import RECORDED, TRAINER
from dynamics.runs.readers import weights
from dynamics.runs.readers.logs import Log, console_log, json_log
from dynamics.runs.readers.settings import flat, number, read_settings, resolved, unfolded, whole
from dynamics.runs.view import METRICS, Settings

DATA = Path(__file__).parent.parent / "data" / "runs"
#: what is said of a folder with nothing in it
EMPTY = "is an empty folder; expected *.safetensors, *.bin, *.pt, *.npy or a checkpoint folder"


@pytest.fixture
def copied(tmp_path):
    """Return a function that copies a fixture, so that it can be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(DATA / name, tmp_path / name)
        return tmp_path / name

    return copy


def steps(run):
    return [saved.step for saved in run.checkpoints]


def test_own_sft():
    run = runs.open_run(DATA / "own/sft")
    assert (run.trainer, run.method, run.evidence) == ("dynamics.train sft", "sft", "run.json")
    assert run.base == str(DATA / "own/sft/checkpoints" / "step_000000")
    assert steps(run) == [2, 4]
    assert run.settings == Settings(1e-3, 4, 4, None, "float32", "float32", None, None, 0)
    assert run.series("loss").index.tolist() == [1, 2, 3, 4]
    assert run.series("held_out").index.tolist() == [0, 4]
    assert run.config["lr_scheduler"] == "constant"
    assert run.config["checksums.base"]
    assert not run.rollouts
    assert len(run.evals) == 2
    assert run.texts == run.evals
    assert run.notes == run.remarks == []


def test_own_rlvr_and_selfplay():
    rlvr, selfplay = (runs.open_run(DATA / f"own/{name}") for name in ("rlvr", "selfplay"))
    assert (rlvr.method, selfplay.method) == ("grpo", "selfplay")
    assert rlvr.settings == Settings(1e-3, 4, 8, 4, "float32", "float32", 1.0, 0.01, 0)
    assert selfplay.settings.batch_size is None
    assert set(rlvr.metric_names) == METRICS.keys() - {"held_out_loss"}
    assert rlvr.metric_names["clip_fraction"] == "clip/low + clip/high"
    assert [file.step for file in rlvr.rollouts] == [1, 2, 3, 4]


def test_own_runs_of_the_first_schema_are_read():
    run = runs.open_run(DATA / "rlvr-0")
    assert run.config["num_iterations"] == 1
    assert run.series("reward").index.tolist() == [1, 2, 3, 4]


def test_own_held_out_scores(copied):
    folder = copied("own/sft")
    for name, scores in (("base_T1", (0, 1, 0, 0)), ("sft,_4_steps_T1", (1, 1, 0, 1)), ("base_greedy", (1, 1)), ("base_T1.5", (1, 1))):
        (folder / "evals" / f"{name}.jsonl").write_text("".join(json.dumps({"score": float(score)}) + "\n" for score in scores))
    assert runs.open_run(folder).series("held_out").to_dict() == {0: 0.25, 4: 0.75}


def test_recorder_alone(tmp_path):
    lines = [{"step": 1, "loss": 2.0, "time/recorder_seconds": 0.1}, {"step": 2, "loss": None, "entropy": 1.5, "sparsity/bf16": 0.9}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    run = runs.open_run(tmp_path)
    assert run.trainer == "dynamics.recorder"
    assert run.base is None
    assert run.checkpoints == []
    assert run.series("loss").to_dict() == {1: 2.0}
    assert run.series("entropy").to_dict() == {2: 1.5}
    assert run.notes == [f"{tmp_path}/metrics.jsonl: its last line is not complete and is left out; it may still be being written"]


def test_what_a_recorder_takes_from_a_trainers_log_is_read_again(tmp_path):
    """Every metric that the reader of a Trainer's own log knows; the entropy is the recorder's own."""
    logged = [names[0] for names in TRAINER.values()] + ["clip_ratio/low_mean", "clip_ratio/high_mean"]
    line = {"step": 1, "time/recorder_seconds": 0.1, "entropy": 0.5} | {RECORDED.get(name, f"trainer/{name}"): 1.0 for name in logged}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    run = runs.open_run(tmp_path)
    assert set(run.metric_names) == METRICS.keys()
    assert {name: run.series(name)[1] for name in METRICS} == dict.fromkeys(METRICS, 1.0) | {"entropy": 0.5, "clip_fraction": 2.0}


def test_recorder_in_a_trainer_that_saves_elsewhere(tmp_path):
    out = tmp_path / "grpo"
    shutil.copytree(DATA / "openrlhf" / "base", out / "checkpoint-10")
    shutil.copytree(DATA / "openrlhf" / "base", out / "checkpoint-9")
    record = tmp_path / "record"
    record.mkdir()
    config = {"output_dir": str(out), "learning_rate": 1e-6, "beta": 0.1, "per_device_train_batch_size": 4, "loss_type": "dr_grpo"}
    document = {"schema": "dynamics.run/2", "method": "rlvr", "config": config, "model": "Qwen/Qwen3-4B", "packages": {"trl": "1.16.0"}}
    (record / "run.json").write_text(json.dumps(document))
    run = runs.open_run(record)
    assert (run.trainer, run.method, run.base) == ("TRL, recorded by dynamics.recorder", "dr_grpo", "Qwen/Qwen3-4B")
    assert steps(run) == [9, 10]
    assert run.settings.batch_size is None  # the number of processes is not known
    (record / "run.json").write_text(json.dumps(document | {"ranks": 2}))
    assert runs.open_run(record).settings.batch_size == 8
    assert run.notes == [f"{record}/metrics.jsonl: is missing; the run has no training curves"]


def test_recorder_in_trl_with_its_completions(tmp_path):
    shutil.copytree(DATA / "trl_grpo", tmp_path / "out")
    settings = {"output_dir": str(tmp_path / "out"), "num_generations": 4}
    document = {"schema": "dynamics.run/2", "method": "rlvr", "config": settings, "model": "base", "packages": {"trl": "1.16.0"}}
    (tmp_path / "run.json").write_text(json.dumps(document))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "entropy": 2.0}\n')
    run = runs.open_run(tmp_path)
    assert [file.step for file in run.rollouts] == list(range(1, 13))
    assert len(run.checkpoints) == len(list((DATA / "trl_grpo").glob("checkpoint-*")))
    assert run.remarks[-1].startswith("the checkpoints are those in ")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda text: text[: len(text) // 2], "is not valid JSON"),
        (lambda text: "", "is empty"),
        (lambda text: text.replace('"config": {', '"config": 3, "was": {'), "is not that of a run: Expected `object | null`, got `int`"),
        (lambda text: "[]", "is a list, not a JSON object"),
        (lambda text: "\0" * len(text), "is not valid JSON"),
        (lambda text: text.replace("dynamics.run/", "run/"), "does not say the schema of a run, dynamics.run/N"),
    ],
)
def test_a_damaged_run_json_is_one_line(copied, damage, fault):
    """The line says what is wrong, where, and what to do; everything that other files say is still read."""
    folder = copied("own/sft")
    whole_run = runs.open_run(folder)
    path = folder / "run.json"
    path.write_text(damage(path.read_text()))
    run = runs.open_run(folder)
    assert len(run.notes) == 1
    assert run.notes[0].startswith(f"{path}: {fault}")
    assert run.notes[0].endswith("restore the file from a copy: it holds the settings, the method and the base, which --base names as well")
    assert "fetch" not in run.notes[0]
    assert run.trainer == "dynamics.train or dynamics.recorder"
    assert run.checkpoints == whole_run.checkpoints
    assert run.metrics.equals(whole_run.metrics)
    if "schema" not in fault:
        (folder / "metrics.jsonl").unlink()
        assert runs.open_run(folder).notes[0] == run.notes[0], "the checkpoints show whose it is"


def test_embedded_model_without_its_checkpoint_has_no_base(copied):
    folder = copied("own/rlvr")
    shutil.rmtree(folder / "checkpoints" / "step_000000")
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"model": "tiny"}))
    run = runs.open_run(folder)
    assert run.base is None
    assert "embedded model" in run.remarks[0]


def test_verl_from_either_folder(monkeypatch):
    whole_folder = runs.open_run(DATA / "verl")
    monkeypatch.chdir(DATA / "verl" / "checkpoints" / "demo" / "grpo")
    for run in (whole_folder, runs.open_run(".")):
        assert (run.trainer, run.method, run.base) == ("verl", "grpo", str(DATA / "verl" / "base"))
        assert run.base_from.endswith(".hydra/config.yaml: actor_rollout_ref.model.path")
        assert steps(run) == [2, 10]
        assert run.checkpoints[0].path.name == "actor"
        assert run.settings == Settings(1e-3, 10, 4, 2, "float32", "float32", 1.0, 0.001, 42)
        assert run.metric_names["kl"] == "actor/kl_loss"
        assert "held_out_loss" not in run.metric_names
        assert math.isnan(run.series("grad_norm")[3])  # verl's logger writes null
        assert run.series("held_out").to_dict() == {5: 0.5, 10: 0.75}
        assert [file.step for file in run.rollouts if file.held_out] == [5, 10]
        assert len(run.evals) == 2
        assert len(run.texts) == 10
        assert run.notes == []
        assert "a step of verl is 2 optimizer steps" in run.remarks


def test_verl_reads_tensorboard_without_its_own_log(copied):
    folder = copied("verl")
    (folder / "demo" / "grpo.jsonl").unlink()
    run = runs.open_run(folder)
    assert run.series("reward").to_dict() == dict.fromkeys(range(1, 5), 0.5) | dict.fromkeys(range(5, 11), 1.0)
    assert math.isnan(run.series("grad_norm")[3])


def test_verl_reads_what_it_printed(tmp_path):
    (tmp_path / "global_step_4").mkdir()
    (tmp_path / "train.log").write_text(
        "starting\n(TaskRunner pid=12) step:1 - critic/score/mean:0.25 - actor/entropy:np.float64(1.5) - actor/grad_norm:nan\n"
        "(TaskRunner pid=12) step:2 - critic/score/mean:5e-01 - note:text\nstep:x - a:1\n"
    )
    run = runs.open_run(tmp_path)
    assert run.series("reward").to_dict() == {1: 0.25, 2: 0.5}
    assert run.series("entropy").to_dict() == {1: 1.5}
    assert math.isnan(run.series("grad_norm")[1])
    assert run.base is None
    assert run.checkpoints == []
    assert run.notes == [f"{tmp_path}/global_step_4: checkpoint left out: {EMPTY}; it may still be being written"]


def test_verl_does_not_take_the_logs_of_another_experiment(copied):
    folder = copied("verl")
    (folder / "demo" / "grpo.jsonl").rename(folder / "demo" / "other.jsonl")
    (folder / "tensorboard_log" / "demo" / "grpo").rename(folder / "tensorboard_log" / "demo" / "other")
    config = folder / "outputs/2026-01-02/03-04-05/.hydra/config.yaml"
    config.write_text(config.read_text().replace("experiment_name: grpo", "experiment_name: other"))
    run = runs.open_run(folder)
    assert run.metrics.empty
    assert (run.base, run.config) == (None, {})
    assert steps(run) == [2, 10]


def test_verl_half_written_checkpoints(copied):
    folder = copied("verl") / "checkpoints" / "demo" / "grpo"
    shutil.copytree(folder / "global_step_10", folder / "global_step_20")
    (folder / "global_step_2" / "actor" / "model_world_size_1_rank_0.pt").rename(
        folder / "global_step_2" / "actor" / "model_world_size_2_rank_0.pt"
    )
    run = runs.open_run(folder)
    assert steps(run) == [10]
    assert [note.partition(": checkpoint left out: ")[2].partition(";")[0] for note in run.notes] == [
        "latest_checkpointed_iteration.txt names step 10",
        "model_world_size_2_rank_1.pt is missing, 1 of 2 ranks are there",
    ]


def test_verl_lora_and_saved_models(tmp_path):
    shutil.copytree(DATA / "openrlhf" / "base", tmp_path / "global_step_2" / "actor" / "huggingface")
    adapter = tmp_path / "global_step_3" / "actor" / "lora_adapter"
    shutil.copytree(DATA / "trl_lora" / "checkpoint-12", adapter)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "Qwen/Qwen3-4B"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    run = runs.open_run(tmp_path)
    assert [(saved.step, saved.path.name, saved.adapter) for saved in run.checkpoints] == [
        (2, "huggingface", False),
        (3, "lora_adapter", True),
    ]
    assert run.base == "Qwen/Qwen3-4B"


def test_several_runs_in_one_folder_are_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "checkpoints" / "demo" / name / "global_step_1" / "actor").mkdir(parents=True)
    with pytest.raises(InputError, match="holds 2 runs of verl: checkpoints/demo/a, checkpoints/demo/b; name one"):
        runs.open_run(tmp_path)


def test_openrlhf():
    run = runs.open_run(DATA / "openrlhf")
    assert (run.trainer, run.method, run.base) == ("OpenRLHF", "ppo", None)
    assert [saved.path.name for saved in run.checkpoints] == ["global_step2_hf", "global_step10_hf"]  # the last model is that of step 10
    assert run.settings.learning_rate == 1e-6
    assert run.settings.steps == 10
    assert run.metric_names["reward"] == "train/rollout/reward_mean"
    assert run.metric_names["entropy"] == "train/entropy_loss"
    assert run.series("held_out").round(6).to_dict() == {5: 0.225, 10: 0.35}
    assert run.notes == []


def test_openrlhf_states_of_deepspeed_alone(copied):
    folder = copied("openrlhf") / "checkpoints_ppo_ray"
    for step in (2, 10):
        shutil.rmtree(folder / f"global_step{step}_hf")
    run = runs.open_run(folder)
    assert [(saved.step, saved.path.parent.name) for saved in run.checkpoints] == [(10, "_actor")]
    shutil.copytree(DATA / "openrlhf" / "base", folder / "best_global_step10_hf")
    shutil.copytree(DATA / "openrlhf" / "base", folder / "global_step10_hf")
    assert [saved.path.name for saved in runs.open_run(folder).checkpoints] == ["global_step10_hf"]


def test_prime_rl():
    run = runs.open_run(DATA / "prime_rl")
    assert (run.trainer, run.method, run.base) == ("prime-rl", "grpo", str(DATA / "prime_rl" / "base"))
    assert [(saved.step, saved.path.name) for saved in run.checkpoints] == [(2, "trainer"), (10, "trainer")]
    assert run.settings == Settings(1e-5, 10, 4, 2, "float32", None, 1.0, None, None)
    assert run.series("zero_variance").to_dict() == dict.fromkeys(range(1, 5), 0.0) | dict.fromkeys(range(5, 11), 1.0)
    assert run.series("held_out").to_dict() == {5: 0.75, 10: 0.75}
    assert [file.step for file in run.rollouts if not file.held_out] == list(range(1, 11))
    assert run.notes == []


def test_prime_rl_of_earlier_versions(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "trainer.toml").write_text('max_steps = 5\n[model]\nname = "Qwen/Qwen3-0.6B"\n[optim]\nlr = 3e-6\n')
    for step in (1, 2):
        shutil.copytree(DATA / "openrlhf" / "base", tmp_path / "weights" / f"step_{step}")
    (tmp_path / "weights" / "step_1" / "STABLE").touch()
    (tmp_path / "rollouts" / "step_1").mkdir(parents=True)
    record = {"prompt": [{"role": "user", "content": "1+1?"}], "completion": [{"role": "assistant", "content": "2"}], "reward": 1.0}
    for name in ("train_rollouts.jsonl", "eval_rollouts_sums.jsonl"):
        (tmp_path / "rollouts" / "step_1" / name).write_text(json.dumps(record) + "\n")
    run = runs.open_run(tmp_path)
    assert (run.base, run.settings.learning_rate, run.settings.steps) == ("Qwen/Qwen3-0.6B", 3e-6, 5)
    assert steps(run) == [1]
    assert "no file STABLE" in run.notes[0]
    table, notes = runs.read_rollouts(run)
    assert table[["prompt", "completion", "reward", "held_out"]].values.tolist() == [
        ["user: 1+1?", "2", 1.0, False],
        ["user: 1+1?", "2", 1.0, True],
    ]
    assert notes == []


def test_open_instruct():
    for name in ("open_instruct", "open_instruct_checkpoints"):
        run = runs.open_run(DATA / name)
        assert (run.trainer, run.method, run.base) == ("open-instruct", "grpo", str(DATA / "open_instruct" / "base"))
        assert steps(run) == [2, 10, None]
        assert len(run.rollouts) == 2
        assert len(run.notes) == 1
        assert "step_12: checkpoint left out: it has no file .checkpoint_complete" in run.notes[0]


def test_open_instruct_sft(copied):
    folder = copied("open_instruct_sft")
    (folder / "step_2" / "COMPLETED").unlink()
    run = runs.open_run(folder)
    assert (run.method, run.settings.learning_rate, steps(run)) == ("sft", 2e-5, [4, None])
    assert run.series("loss").to_dict() == {1: 3.0, 2: 1.5, 3: 1.0, 4: 0.75}
    assert "step_2: checkpoint left out: it has no file COMPLETED" in run.notes[0]


@pytest.mark.parametrize("trainer", ["own", "verl", "openrlhf", "prime_rl", "open_instruct"])
def test_other_directories_are_not_claimed(trainer, tmp_path):
    import importlib

    reader = importlib.import_module(f"dynamics.runs.readers.{trainer}")
    assert reader.LOOKED_FOR
    for folder in (tmp_path, DATA / "trl_sft", DATA / "trainer", DATA / "llamafactory"):
        assert reader.read(folder) is None


def test_a_folder_that_is_nothing_known_lists_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"not the output directory of a known trainer; looked for .*verl.*OpenRLHF.*prime-rl"):
        runs.open_run(tmp_path)


def test_weights_that_are_not_complete(tmp_path):
    def fault(name, content=b"", **files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for other, text in {name: content, **files}.items():
            (folder / other).write_bytes(text)
        opened = weights.opened_or_fault(folder)
        return opened if isinstance(opened, str) else ""

    whole_file = (DATA / "openrlhf" / "base" / "model.safetensors").read_bytes()
    states = next((DATA / "openrlhf").rglob("mp_rank_00_model_states.pt")).read_bytes()
    metadata, shard = ((DATA / "prime_rl/checkpoints/step_2/trainer" / name).read_bytes() for name in (".metadata", "__0_0.distcp"))
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
    for wanted, parts in {
        "model.safetensors: truncated: the header promises": ("model.safetensors", whole_file[:-1]),
        "model.safetensors: header says": ("model.safetensors", whole_file[:100]),
        "model.safetensors: 0 bytes is too short": ("model.safetensors", b""),
        "model.safetensors: header is a JSON list": ("model.safetensors", b"\x02" + b"\0" * 7 + b"[]"),
        "mp_rank_00_model_states.pt: is cut short": ("mp_rank_00_model_states.pt", states[:-50]),
        "holds .distcp files, but not the file .metadata": ("__0_0.distcp", shard),
        "__0_0.distcp is missing": (".metadata", metadata),
        "the shard model-00002-of-00002.safetensors is missing": ("model-00001-of-00002.safetensors", whole_file),
        "no weights in it: holds only optimizer.pt": ("optimizer.pt", states),
        "no weights in it: holds only leftover.tmp": ("leftover.tmp", b""),
    }.items():
        assert fault(*parts).startswith(wanted), wanted
    (tmp_path / "nothing").mkdir()
    assert weights.opened_or_fault(tmp_path / "nothing") == EMPTY
    assert fault("model.safetensors", whole_file) == fault("mp_rank_00_model_states.pt", states) == ""
    assert fault(".metadata", metadata, **{"__0_0.distcp": shard}) == ""
    assert "needs byte 42807 of __0_0.distcp, which has 42797" in fault(".metadata", metadata, **{"__0_0.distcp": shard[:-10]})
    assert "names the shard model-00002-of-00002.safetensors, which is not there" in fault(
        "model.safetensors.index.json", index, **{"model-00001-of-00002.safetensors": whole_file}
    )
    unreadable = fault("model.safetensors.index.json", b"{", **{"x.safetensors": whole_file})
    assert unreadable.startswith("model.safetensors.index.json: is not valid JSON")
    if hasattr(os, "mkfifo"):
        pipe = tmp_path / "pipe"
        pipe.mkdir()
        os.mkfifo(pipe / "model.safetensors")
        assert str(weights.opened_or_fault(pipe)).startswith("model.safetensors: is not a regular file but a pipe")


@pytest.mark.parametrize(
    ("trainer", "saved", "again"),
    [
        ("trl_grpo", "checkpoint-10", "checkpoint-010"),
        ("own/sft", "checkpoints/step_000002", "checkpoints/step_2"),
        ("verl/checkpoints/demo/grpo", "global_step_2", "global_step_02"),
        ("openrlhf", "checkpoints_ppo_ray/global_step2_hf", "checkpoints_ppo_ray/global_step02_hf"),
        ("prime_rl", "checkpoints/step_2", "checkpoints/step_002"),
        ("open_instruct_checkpoints", "step_2", "step_02"),
    ],
)
def test_two_checkpoints_of_one_step_are_left_out_by_name(tmp_path, trainer, saved, again):
    folder = tmp_path / Path(trainer).name
    shutil.copytree(DATA / trainer, folder)
    before = runs.open_run(folder)
    step = int(re.findall(r"\d+", again)[-1])
    shutil.copytree(folder / saved, folder / again)
    run = runs.open_run(folder)
    assert [kept.path for kept in run.checkpoints] == [kept.path for kept in before.checkpoints if kept.step != step]
    (note,) = [note for note in run.notes if note not in before.notes]
    assert note.endswith(f"checkpoints left out: they are of one step, {step}; remove or rename all but that of the run")
    assert str(folder / saved) in note
    assert str(folder / again) in note
    # half a checkpoint is none of that step
    for path in (folder / again).rglob("*"):
        if path.suffix in (".safetensors", ".pt", ".distcp"):
            path.write_bytes(b"")
    assert [kept.path for kept in runs.open_run(folder).checkpoints] == [kept.path for kept in before.checkpoints]


def test_the_best_checkpoint_of_openrlhf_gives_way_to_the_other_of_its_step(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DATA / "openrlhf", folder)
    saved = folder / "checkpoints_ppo_ray"
    shutil.copytree(saved / "global_step2_hf", saved / "best_global_step2_hf")
    shutil.copytree(saved / "global_step2_hf", saved / "best_global_step4_hf")
    run = runs.open_run(folder)
    assert [kept.path.name for kept in run.checkpoints] == ["global_step2_hf", "best_global_step4_hf", "global_step10_hf"]
    assert run.notes == runs.open_run(DATA / "openrlhf").notes


def test_settings(tmp_path):
    text = "optim:\n  lr: 1e-6\n  betas: [0.9, 0.99]\nhub_token: secret\nname: ${optim.lr}/${oc.select:none,x}/${env:HOME}\n"
    (tmp_path / "a.yaml").write_text(text)
    settings = resolved(read_settings(tmp_path / "a.yaml"))
    assert settings == {"optim.lr": "1e-6", "optim.betas": "[0.9, 0.99]", "name": "1e-6/x/${env:HOME}"}
    assert number(settings, "missing", "optim.lr") == 1e-6
    assert whole({"a": -1, "b": 2.5, "c": "3"}, "a", "b", "c") == 3
    assert whole({"a": True}, "a") is None
    assert flat({"token": "secret", "api_key": "secret", "max_token": 5, "x.password": "secret"}) == {"max_token": 5}
    assert resolved({"a": "${b}", "b": "${a}"}).keys() == {"a", "b"}
    recorded = {
        "a": "Namespace(x=[1], y=SimpleNamespace(key='secret', z='n'))",
        "use_wandb": "secret",
        "b": "namespace(f=open('/etc'))",
        "c": "(",
    }
    assert flat(unfolded(recorded)) == {"a.x": "[1]", "a.y.z": "n", "c": "("}
    assert unfolded({"a": "namespace(" * 1000}) == {}
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="does not hold settings by name"):
        read_settings(tmp_path / "list.yaml")


def test_logs(tmp_path):
    log, notes = Log({"reward": ("r",)}), []
    lines = [
        '{"step": 1, "r": 0.5, "x": true, "y": "text"}',
        '{"step": "2"}',
        "[1]",
        '{"step": 3, "r": NaN, "z": 1e999}',
        "{",
        '{"step": 4, "r": 1}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    json_log(tmp_path / "log.jsonl", notes, lambda record: (record.get("step"), record), log)
    assert [(step, name) for step, name, _ in log.rows] == [(1, "step"), (1, "r"), (3, "step"), (3, "r"), (3, "z")]
    assert notes[0].endswith("what follows in the file is not read")
    assert "line 5" in notes[0]
    assert notes[1].endswith("2 lines are no metrics of a step and are left out")
    console_log(tmp_path / "missing.log", notes, log)
    assert "No such file" in notes[2]
    assert not log.combine("sum", ("r", "q"), lambda wide: wide.sum(axis=1))


def test_a_mean_over_metrics_of_which_one_is_nan_is_nan():
    """Not left out, as at a step that lacks one of them, and not the mean of the others."""
    log, remarks = Log({"held_out": ("mean of eval/*",)}), []
    for step, first, second in ((1, 1.0, 3.0), (2, math.nan, 3.0), (3, math.inf, 3.0)):
        log.add(step, [("eval/a", first), ("eval/b", second)])
    log.add(2, [("eval/b", 5.0)])
    log.add(4, [("eval/a", 1.0)])
    log.mean_of("mean of eval/*", re.compile("eval/.+"), remarks)
    means = {step: value for step, name, value in log.rows if name == "mean of eval/*"}
    assert means.keys() == {1, 2, 3}
    assert (means[1], means[3]) == (2.0, math.inf)
    assert math.isnan(means[2])


def test_what_json_cannot_hold_is_read_as_it_was_measured(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append_metrics({"step": 1, "loss": 2.0, "entropy": None, "sparsity/bf16": 0.9})
    directory.append_metrics({"step": 2, "loss": math.nan, "entropy": np.float32(-math.inf), "grad_norm": math.inf})
    directory.close()
    run = runs.open_run(tmp_path)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["loss"] is None
    assert run.series("loss")[1] == 2.0
    assert math.isnan(run.series("loss")[2])
    assert run.series("entropy").to_dict() == {2: -math.inf}  # at step 1 it was not measured
    assert run.series("grad_norm").to_dict() == {2: math.inf}
    section = curves.make([run], Options())
    assert [line for line in section.incomplete if line.startswith("1 of 2 values of the loss is NaN")]
    assert [line for line in section.incomplete if line.startswith("The norm of the gradient has no finite value: 1 value, infinite")]


def _alike(first, second):
    """Compare two runs, apart from their paths."""
    for name in ("trainer", "method", "settings", "metric_names", "notes"):
        assert getattr(first, name) == getattr(second, name)
    assert steps(first) == steps(second)
    assert [(file.step, file.held_out) for file in first.rollouts] == [(file.step, file.held_out) for file in second.rollouts]
    assert first.metrics["name"].tolist() == second.metrics["name"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["verl", "openrlhf", "prime_rl"])
def test_directories_by_the_installed_trainer(trainer, tmp_path):
    pytest.importorskip({"prime_rl": "verifiers"}.get(trainer, trainer))
    runpy.run_path(str(DATA / f"make_{trainer}.py"))["make"](tmp_path / trainer)
    _alike(runs.open_run(tmp_path / trainer), runs.open_run(DATA / trainer))


@pytest.mark.slow
def test_directories_by_this_projects_training(tmp_path):
    runpy.run_path(str(DATA / "make_own.py"))["make"](tmp_path)
    for method in ("sft", "rlvr", "selfplay"):
        _alike(runs.open_run(tmp_path / f"own/{method}"), runs.open_run(DATA / f"own/{method}"))


def test_a_run_of_a_later_version_says_so(copied):
    folder = copied("own/sft")
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"schema": "dynamics.run/99"}))
    assert any("its schema dynamics.run/99 is unknown" in note for note in runs.open_run(folder).notes)


def test_the_parent_of_runs_names_them(copied, tmp_path):
    copied("trl_sft")
    copied("verl")
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError, match="is not a run, but holds 2 run directories: trl_sft, verl; name the runs"):
        runs.open_run(tmp_path)
