"""Output directories of transformers' Trainer, TRL, LLaMA-Factory, axolotl and Unsloth; ``data/runs/make_*.py`` wrote them."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dynamics import sparsity
from dynamics.checkpoints import open_checkpoint
from dynamics.errors import InputError
from dynamics.io.json_lines import write_json_lines
from dynamics.runs import METRICS, Run, Settings, open_run

RUNS = Path(__file__).parent.parent / "data" / "runs"


@pytest.fixture
def copy(tmp_path: Path) -> Any:
    """Copy a recorded run, to change it."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(RUNS / name, tmp_path / name))

    return copied


def steps(run: Run) -> list[tuple[int | None, str]]:
    return [(checkpoint.step, checkpoint.path.name) for checkpoint in run.checkpoints]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "trainer", "method", "base", "base_from", "saved"),
    [
        ("trl_sft", "TRL SFTTrainer", "sft", None, "", [4, 8, 12]),
        ("trl_grpo", "TRL GRPOTrainer", "grpo", None, "", [5, 10, 12]),
        ("trl_dpo", "TRL DPOTrainer", "dpo", None, "", [4]),
        ("trl_lora", "TRL SFTTrainer", "sft", "trl_base", "adapter_config.json, base_model_name_or_path", [5, 10, 12]),
        ("trainer", "transformers Trainer", None, None, "", [5, 10, 12]),
        ("llamafactory", "LLaMA-Factory", "sft", "trl_base", "training_args.yaml, model_name_or_path", [2, 4, 6]),
        ("llamafactory_lora", "LLaMA-Factory", "sft", "trl_base", "adapter_config.json, base_model_name_or_path", [2, 4, 6]),
        ("axolotl", "axolotl", None, "trl_base", "README.md, base_model", [2, 4]),
        ("unsloth", "Unsloth with TRL SFTTrainer", "sft", "trl_base", "checkpoint-4/adapter_config.json, base_model_name_or_path", [2, 4]),
    ],
)
def test_a_directory_says_what_it_is(
    name: str, trainer: str, method: str | None, base: str | None, base_from: str, saved: list[int]
) -> None:
    run = open_run(RUNS / name)
    assert (run.trainer, run.method, run.base_from) == (trainer, method, base_from)
    assert run.base == (base and str(RUNS / base)), "a relative path leads to the folder beside the run"
    assert steps(run) == [(step, f"checkpoint-{step}") for step in saved], "in the order of steps; the final model is the last of them"
    assert {checkpoint.adapter for checkpoint in run.checkpoints} == {"lora" in name or name == "unsloth"}
    assert run.notes == []
    assert run.remarks == []
    assert (RUNS / name / run.evidence).is_file()
    assert run.series("loss").index.tolist() == list(range(1, saved[-1] + 1))
    assert run.series("learning_rate").iloc[0] == run.settings.learning_rate == run.config["learning_rate"]


@pytest.mark.parametrize(
    ("kind", "trainer", "method"),
    [
        ("trl.experimental.async_grpo.x AsyncGRPOConfig", "TRL AsyncGRPOTrainer", "grpo"),
        ("trl.experimental.online_dpo.x OnlineDPOConfig", "TRL OnlineDPOTrainer", "onlinedpo"),
        ("axolotl.core.trainers.grpo.args AxolotlAsyncGRPOConfig", "axolotl", "grpo"),
        ("UnslothDPOTrainer UnslothDPOConfig", "Unsloth with TRL DPOTrainer", "dpo"),
        ("llamafactory.hparams.training_args TrainingArguments", "LLaMA-Factory", "dpo"),
        ("transformers.training_args_seq2seq Seq2SeqTrainingArguments", "transformers Trainer", "dpo"),
    ],
)
def test_the_class_of_the_settings_says_the_trainer_and_the_method(copy: Any, kind: str, trainer: str, method: str) -> None:
    folder = copy("trl_dpo")  # whose model card has the tag dpo
    args = folder / "checkpoint-4" / "training_args.bin"
    args.unlink()
    write_pickle(args, pickled(kind, {"seed": 0}))
    run = open_run(folder)
    assert (run.trainer, run.method, run.settings.seed, run.notes) == (trainer, method, 0, [])


def test_the_settings_of_grpo() -> None:
    run = open_run(RUNS / "trl_grpo")
    assert run.settings == Settings(3e-3, 12, 8, 4, "bfloat16", "bfloat16", 0.9, 0.04, 7)
    assert run.config["scale_rewards"] == "group"
    assert run.config["lr_scheduler_type"] == "linear", "an enumeration is its value"
    assert run.config["accelerator_config.even_batches"] is True
    assert [(file.step, file.path.name, file.held_out) for file in run.rollouts[::11]] == [
        (1, "completions_00001.parquet", False),
        (12, "completions_00012.parquet", False),
    ]


def test_the_settings_of_sft_under_autocast() -> None:
    run = open_run(RUNS / "trl_sft")
    assert run.config["bf16"] is True
    assert run.settings == Settings(1e-3, 12, 4, None, "float32", "float32", None, None, 7), "autocast leaves float32 masters"


def test_an_adapter_has_the_masters_of_its_factors_and_no_beta_of_sft() -> None:
    assert open_run(RUNS / "trl_lora").settings == Settings(1e-3, 12, 4, None, "float32", None, None, None, 7)


def test_metrics_have_their_common_names() -> None:
    run = open_run(RUNS / "trl_grpo")
    assert run.metric_names == {
        "reward": "reward", "reward_std": "reward_std", "zero_variance": "frac_reward_zero_std", "loss": "loss", "entropy": "entropy",
        "kl": "kl", "length": "completions/mean_length", "truncated": "completions/clipped_ratio",
        "clip_fraction": "clip_ratio/region_mean", "grad_norm": "grad_norm", "learning_rate": "learning_rate",
    }  # fmt: skip
    assert set(run.metric_names) <= set(METRICS)
    recorded = json.loads((RUNS / "trl_grpo/checkpoint-12/trainer_state.json").read_text())["log_history"]
    assert run.series("length").tolist() == [entry["completions/mean_length"] for entry in recorded if "loss" in entry]
    assert "rewards/digits/mean" in set(run.metrics["name"]), "the trainer's other metrics keep their names"
    assert open_run(RUNS / "trl_sft").series("held_out_loss").index.tolist() == [4, 8, 12]


@pytest.mark.parametrize(("prompts", "held_out"), [(2, True), (1, None)])
def test_completions_that_an_evaluation_has_overwritten(copy: Any, prompts: int, held_out: bool | None) -> None:
    folder = copy("trl_grpo")
    state = folder / "checkpoint-12" / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    time = {"eval_runtime": 0.3364, "eval_samples_per_second": round(prompts / 0.3364, 3)}
    edit(state, log_history=[*history, *({"step": step, "eval_reward": 0.5, **time} for step in (4, 8))])
    run = open_run(folder)
    assert run.series("held_out").to_dict() == {4: 0.5, 8: 0.5}
    files = {file.step: file.held_out for file in run.rollouts}
    assert (files.get(4), files.get(8), files[3]) == (held_out, held_out, False)
    mixed = f"{folder / 'completions'}: 2 files (steps 4, 8) hold samples of training and of an evaluation; left out"
    assert run.notes == ([] if held_out else [mixed])


@pytest.mark.parametrize(("config", "names"), [("KTOConfig", {"trainer/kl"}), ("GRPOConfig", {"kl"})])
def test_what_only_has_the_name_of_a_metric_is_not_taken_for_it(copy: Any, config: str, names: set[str]) -> None:
    folder = copy("trl_dpo")
    state = folder / "checkpoint-4" / "trainer_state.json"
    edit(state, log_history=[{"step": 1, "kl": 40.0, "eval_loss": 1.0}])
    args = folder / "checkpoint-4" / "training_args.bin"
    args.unlink()
    write_pickle(args, pickled(f"trl.trainer.x {config}", {}))
    run = open_run(folder)
    assert {name for name in run.metrics["name"] if "kl" in name} == names
    assert ("held_out_loss" in run.metric_names) == (config == "KTOConfig"), "the loss of GRPO on other prompts is no loss of texts"


def test_checkpoints_stand_in_the_order_of_their_numbers(copy: Any) -> None:
    folder = copy("trl_grpo")
    (folder / "checkpoint-12").rename(folder / "checkpoint-100")
    (folder / "checkpoint-final").mkdir()
    assert steps(open_run(folder)) == [(5, "checkpoint-5"), (10, "checkpoint-10"), (100, "checkpoint-100")]


def test_a_checkpoint_instead_of_its_run_is_a_remark() -> None:
    run = open_run(RUNS / "trl_grpo" / "checkpoint-10")
    assert steps(run) == [(10, "checkpoint-10")]
    assert run.series("reward").index.tolist() == list(range(1, 11))
    assert run.remarks == [f"this is one checkpoint of a run; name {RUNS / 'trl_grpo'} for all of it"]


def damage_nothing_yet(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def damage_cut(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_shards(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


def damage_empty(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")


def damage_staging(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name("tmp-checkpoint-12"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_nothing_yet, "no weights in it"),
        (damage_cut, "truncated"),
        (damage_shards, "model-00002-of-00002.safetensors, which is not there"),
        (damage_empty, "0 bytes is too short"),
        (damage_staging, "is still being written"),
    ],
)
def test_half_a_checkpoint_is_left_out_with_a_line(copy: Any, damage: Any, reason: str) -> None:
    folder = copy("trl_grpo")
    damage(folder / "checkpoint-12")
    run = open_run(folder)
    assert steps(run) == [(5, "checkpoint-5"), (10, "checkpoint-10")]
    assert len(run.notes) == 1
    assert "checkpoint-12" in run.notes[0]
    assert reason in run.notes[0]
    assert ": checkpoint left out: " in run.notes[0]
    assert "\n" not in run.notes[0]


def test_half_a_state_gives_way_to_the_one_before(copy: Any) -> None:
    folder = copy("trl_grpo")
    state = folder / "checkpoint-12" / "trainer_state.json"
    state.write_text(state.read_text()[:300])
    run = open_run(folder)
    assert run.series("reward").index.tolist() == list(range(1, 11))
    assert [note for note in run.notes if "trainer_state.json: is not valid JSON" in note] == run.notes != []


def test_the_final_model_is_the_last_checkpoint_if_it_is_none_of_them(copy: Any) -> None:
    folder = copy("trl_sft")
    shutil.rmtree(folder / "checkpoint-12")
    assert steps(open_run(folder)) == [(4, "checkpoint-4"), (8, "checkpoint-8"), (12, "trl_sft")], "its own state says its step"
    (folder / "trainer_state.json").unlink()
    shutil.rmtree(folder / "logs")
    assert steps(open_run(folder))[-1] == (12, "trl_sft"), "the last step of the schedule"


def test_a_final_model_that_is_an_earlier_checkpoint_is_a_remark(copy: Any) -> None:
    folder = copy("trl_sft")
    shutil.copy(folder / "checkpoint-4" / "model.safetensors", folder)
    run = open_run(folder)
    assert steps(run) == [(4, "checkpoint-4"), (8, "checkpoint-8"), (12, "checkpoint-12")]
    assert run.remarks == ["the model in the folder itself is that of checkpoint-4, not that of the last checkpoint"]


def test_a_final_model_of_the_same_step_as_another_is_a_remark(copy: Any) -> None:
    folder = copy("trl_sft")
    shutil.copy(RUNS / "trl_base" / "model.safetensors", folder)
    run = open_run(folder)
    assert len(run.checkpoints) == 3
    assert run.remarks == ["the model in the folder itself differs from checkpoint-12 of the same step, by its dtype or a merge"]


def test_settings_that_contradict_the_weights_are_a_remark(copy: Any) -> None:
    folder = copy("trl_grpo")
    edit(folder / "checkpoint-12" / "config.json", dtype="float32")
    run = open_run(folder)
    assert run.settings.storage_dtype == "float32"
    assert run.settings.master_dtype == "bfloat16"
    assert run.remarks == [f"{folder / 'checkpoint-12'}: config.json says float32, but most weights are bfloat16"]


def test_a_log_with_nan_and_null(copy: Any) -> None:
    folder = copy("trl_grpo")
    state = folder / "checkpoint-12" / "trainer_state.json"
    history = [{"step": 1, "loss": math.nan, "reward": None, "entropy": math.inf, "note": "text"}, {"step": 2, "loss": 1, "reward": 0.5}]
    edit(state, log_history=[*history, {"loss": 3.0}, {"step": 10**30, "loss": 1.0}, 7])
    run = open_run(folder)
    assert math.isnan(run.series("loss")[1])
    assert math.isnan(run.series("reward")[1])
    assert run.series("reward")[2] == 0.5
    assert run.series("entropy")[1] == math.inf
    assert "note" not in set(run.metrics["name"])
    assert run.notes == [f"{state}: 3 of 5 entries of log_history have no step; they were left out"]


@pytest.mark.parametrize("state", ["[]", "{}", '{"log_history": 3}', '{"log_history": [1e999]}', ""])
def test_a_state_of_another_kind_is_no_traceback(copy: Any, state: str) -> None:
    folder = copy("trl_dpo")
    (folder / "checkpoint-4" / "trainer_state.json").write_text(state)
    run = open_run(folder)
    assert len(run.metrics) == 0
    assert (len(run.notes) == 1) == (state != "{}")


def test_a_base_that_is_not_there_keeps_its_name(copy: Any) -> None:
    folder = copy("trl_lora")
    assert open_run(folder).base == "trl_base", "no folder of this name lies above the run"
    for config in folder.rglob("adapter_config.json"):
        edit(config, base_model_name_or_path=None)
    for card in folder.rglob("README.md"):
        card.write_text(card.read_text().replace("base_model: trl_base", "base_model:\n- Qwen/Qwen3-4B\n- other/model"))
    run = open_run(folder)
    assert (run.base, run.base_from) == ("Qwen/Qwen3-4B", "README.md, base_model")
    for card in folder.rglob("README.md"):
        card.unlink()
    assert (open_run(folder).base, open_run(folder).base_from) == (None, "")


def test_a_base_in_the_configuration_that_older_versions_of_transformers_wrote(copy: Any) -> None:
    folder = copy("trainer")
    for config in folder.rglob("config.json"):
        edit(config, _name_or_path="Qwen/Qwen3-4B")
    edit(folder / "checkpoint-12" / "config.json", _name_or_path="trainer/checkpoint-5")  # of a resumed run
    assert (open_run(folder).base, open_run(folder).base_from) == ("Qwen/Qwen3-4B", "checkpoint-5/config.json, _name_or_path")
    edit(folder / "checkpoint-5" / "config.json", _name_or_path="runs/sft/checkpoint-5")
    assert open_run(folder).base == "runs/sft/checkpoint-5", "a checkpoint of another run"


def test_a_log_of_later_steps_than_the_newest_state_goes_on(copy: Any) -> None:
    pytest.importorskip("tensorboard")
    folder = copy("trainer")
    shutil.rmtree(folder / "checkpoint-12")
    run = open_run(folder)
    assert run.series("loss").index.tolist() == list(range(1, 13)), "the state ends at step 10; the event files at 12"
    assert (
        run.series("loss").iloc[9] == json.loads((RUNS / "trainer/checkpoint-10/trainer_state.json").read_text())["log_history"][9]["loss"]
    )
    assert run.settings.steps == 12


def test_a_resumed_log_counts_as_logged_last(copy: Any) -> None:
    folder = copy("llamafactory")
    for state in folder.rglob("trainer_state.json"):
        state.unlink()
    line = {"total_steps": 6, "lr": 0.1}
    resumed = [{"current_steps": step, "loss": loss, **line} for step, loss in [(1, 5.0), (2, 4.0), (3, 3.0), (4, 9.0), (3, 2.0)]]
    write_json_lines(folder / "trainer_log.jsonl", resumed)
    with open(folder / "trainer_log.jsonl", "a") as file:
        file.write('{"current_steps": 4, "lo')
    run = open_run(folder)
    assert run.series("loss").to_dict() == {1: 5.0, 2: 4.0, 3: 2.0}, "step 4 was not made again yet"
    assert run.metric_names["learning_rate"] == "lr"
    assert run.notes == [], "the last line is being written"


def test_the_evaluation_after_the_last_step(copy: Any) -> None:
    folder = copy("llamafactory_lora")
    edit(folder / "all_results.json", eval_loss=3.25, eval_accuracy=None, train_loss=9.0)
    run = open_run(folder)
    assert run.series("held_out_loss").to_dict() == {6: 3.25}
    assert "train_loss" in set(run.metrics["name"]), "of the state"
    assert run.series("train_loss").tolist() != [9.0]
    folder = copy("llamafactory")
    edit(folder / "all_results.json", eval_loss=9.0)
    assert open_run(folder).series("held_out_loss")[6] != 9.0, "the log of the step itself stays"


def test_a_log_that_goes_back_without_end_is_cut(copy: Any) -> None:
    folder = copy("llamafactory")
    for state in folder.rglob("trainer_state.json"):
        state.unlink()
    write_json_lines(folder / "trainer_log.jsonl", [{"current_steps": 2 - n % 2, f"m{n}": 1.0} for n in range(2010)])
    assert any("goes back to earlier steps over 1000 times" in note for note in open_run(folder).notes)


def test_checkpoints_of_an_earlier_run_in_the_same_directory_are_a_remark(copy: Any) -> None:
    folder = copy("trl_grpo")
    state = folder / "checkpoint-5" / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    history[-1]["loss"] += 1
    edit(state, log_history=history)
    assert open_run(folder).remarks == [
        "checkpoint-5: of another run than the newest checkpoint, whose log differs at the same step; use a directory for each run"
    ]


def pickled(name: str, state: dict[str, Any], arguments: tuple[Any, ...] = ()) -> bytes:
    """Pickle an instance of a class that need not exist, or, with arguments, the call of a function."""
    module, function = name.split()
    made = pickle.dumps(arguments, 2)[2:-1] + (b"R" if arguments else b"\x81")
    body = b"" if arguments else pickle.dumps(state, 2)[2:-1] + b"b"
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + made + body + b"."


def write_pickle(path: Path, data: bytes) -> None:
    """Write a pickle as ``torch.save`` does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("training_args/data.pkl", data)
        archive.writestr("training_args/byteorder", "little")
        archive.writestr("training_args/version", "3\n")


@pytest.mark.parametrize("name", ["posix system", "os system", "builtins eval", "__builtin__ exec", "subprocess Popen"])
def test_hostile_settings_run_nothing(copy: Any, tmp_path: Path, name: str) -> None:
    folder = copy("trl_dpo")
    proof = tmp_path / "proof"
    write_pickle(folder / "checkpoint-4" / "training_args.bin", pickled(name, {}, (f"touch {proof}",)))
    run = open_run(folder)
    assert not proof.exists()
    assert len(run.notes) == 1
    assert "which is not on the list of harmless names; nothing was run" in run.notes[0]
    assert (run.trainer, run.method) == ("TRL", "dpo"), "the model card says so much"
    assert run.config == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a pickle", "is not a file of torch.save"),
        (b"", "is empty"),
        (b"PK\x03\x04 cut", "is cut short or damaged"),
        (b"\x80" * (1 << 21), "over 1048576 bytes"),
    ],
)
def test_damaged_settings_are_a_note(copy: Any, data: bytes, reason: str) -> None:
    folder = copy("trl_dpo")
    (folder / "checkpoint-4" / "training_args.bin").write_bytes(data)
    run = open_run(folder)
    assert reason in run.notes[0]
    assert len(run.checkpoints) == 1


def test_completions_of_several_steps_are_a_remark(copy: Any) -> None:
    folder = copy("trl_grpo")
    for args in folder.rglob("training_args.bin"):
        args.unlink()
    settings = {"num_iterations": 3, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    write_pickle(folder / "training_args.bin", pickled("trl.trainer.grpo_config GRPOConfig", settings))
    assert open_run(folder).remarks == ["completions: each is used for 6 steps, and stands in the file of each of them that was logged"]


def test_settings_that_hold_themselves_end(copy: Any) -> None:
    folder = copy("trl_dpo")
    itself: dict[str, Any] = {"a": 1}
    itself |= {f"key {number}": itself for number in range(200)}
    write_pickle(folder / "checkpoint-4" / "training_args.bin", pickled("trl.trainer.x DPOConfig", itself))
    assert open_run(folder).notes == [
        f"{folder / 'checkpoint-4' / 'training_args.bin'}: holds over 20000 values; it is not the settings of a Trainer"
    ]


def test_settings_of_ones_own_class_without_their_secrets(copy: Any) -> None:
    folder = copy("trainer")
    state = {"learning_rate": 1e-4, "hub_token": "hf_secret", "max_steps": -1, "per_device_train_batch_size": 2}
    for args in folder.rglob("training_args.bin"):
        args.unlink()
    write_pickle(folder / "training_args.bin", pickled("my.project ScriptArguments", state | {"nested": {"a": [1, "x"]}, 3: None}))
    run = open_run(folder)
    assert run.trainer == "transformers Trainer with settings my.project.ScriptArguments"
    assert run.config["nested.a"] == '[1, "x"]'
    assert "hf_secret" not in str(run.config)
    assert run.settings.batch_size is None, "nothing says the number of processes"
    assert run.settings.steps == 12
    for rank in range(4):
        (folder / "checkpoint-12" / f"rng_state_{rank}.pth").touch()
    assert open_run(folder).settings.batch_size is None, "nothing says the parts of a step"
    args = pickled("my.project ScriptArguments", state | {"gradient_accumulation_steps": 3})
    write_pickle(folder / "training_args.bin", args)
    assert open_run(folder).settings.batch_size == 2 * 3 * 4


@pytest.mark.parametrize(("kind", "master"), [("MULTI_GPU", "bfloat16"), ("FSDP", None), ("DEEPSPEED", None)])
def test_masters_are_not_guessed_where_the_optimizer_may_keep_its_own(copy: Any, kind: str, master: str | None) -> None:
    folder = copy("trl_grpo")
    for args in folder.rglob("training_args.bin"):
        args.unlink()
    shared = pickled("accelerate.state PartialState", {"num_processes": 2, "distributed_type": kind})[2:-1]
    state = b"}" + pickle.dumps("distributed_state", 2)[2:-1] + shared + b"s"
    write_pickle(folder / "training_args.bin", b"\x80\x02ctrl.trainer.x\nGRPOConfig\n)\x81" + state + b"b.")
    run = open_run(folder)
    assert run.notes == []
    assert run.settings.master_dtype == master
    assert run.settings.storage_dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trl_sft", "trl_grpo", "trl_lora", "trainer"])
def test_the_libraries_still_write_what_is_recorded(tmp_path: Path, name: str) -> None:
    for package in ("trl", "peft", "tensorboard"):
        pytest.importorskip(package)
    subprocess.run([sys.executable, RUNS / "make_trl.py", tmp_path, name], check=True, capture_output=True, timeout=600)
    written, recorded = open_run(tmp_path / name), open_run(RUNS / name)
    assert (written.trainer, written.method, written.settings) == (recorded.trainer, recorded.method, recorded.settings)
    assert written.metric_names == recorded.metric_names
    assert steps(written) == steps(recorded)
    assert len(written.rollouts) == len(recorded.rollouts)


def test_other_directories_are_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"is not the output directory of a known trainer; looked for .*checkpoint-N"):
        open_run(tmp_path)


def test_a_directory_of_which_only_the_models_are_left(tmp_path: Path) -> None:
    for step in (5, 10):
        shutil.copytree(RUNS / "trl_base", tmp_path / f"checkpoint-{step}")
    run = open_run(tmp_path)
    assert (run.trainer, run.evidence) == ("transformers Trainer", "checkpoint-5/")
    assert steps(run) == [(5, "checkpoint-5"), (10, "checkpoint-10")]
    assert run.settings == Settings(master_dtype="float32", storage_dtype="float32")


def test_a_url_as_base_is_not_opened_unasked(copy: Any) -> None:
    folder = copy("trl_lora")
    for path in folder.rglob("adapter_config.json"):
        edit(path, base_model_name_or_path="http://127.0.0.1:9/model.safetensors")
    run = open_run(folder)
    assert run.base is None
    assert any("names the base http://127.0.0.1:9/model.safetensors, a URL" in note for note in run.notes)


def test_a_link_to_itself_and_a_name_that_is_no_path_are_no_hindrance(copy: Any) -> None:
    folder = copy("trl_lora")
    (folder / "checkpoint-99").symlink_to("checkpoint-99")
    for path in folder.rglob("adapter_config.json"):
        edit(path, base_model_name_or_path="x" * 5000)
    assert (open_run(folder).base or "").startswith("xxx")


@pytest.mark.parametrize("gathered", [True, False])
def test_a_trainer_under_deepspeed(copy: Any, gathered: bool) -> None:
    """``checkpoint-N`` has DeepSpeed's ``latest`` and ``global_stepN``, and a model unless ZeRO-3 does not gather it: see its engine.

    The states are those of another model, recorded from DeepSpeed.
    """
    folder = copy("trl_sft")
    for checkpoint in folder.glob("checkpoint-*"):
        if not gathered:
            (checkpoint / "model.safetensors").unlink()
        shutil.copytree(RUNS.parent / "checkpoints/deepspeed/zero1", checkpoint, dirs_exist_ok=True)
        (checkpoint / "zero_to_fp32.py").write_text("raise SystemExit  # never executed")
    run = open_run(folder)
    assert (run.trainer, run.notes) == ("TRL SFTTrainer", [])
    assert [saved.step for saved in run.checkpoints] == [4, 8, 12]
    names = open_checkpoint(run.checkpoints[0].path).tensors.keys()
    assert (names == open_checkpoint(RUNS / "trl_sft/checkpoint-4").tensors.keys()) is gathered
    aside = "3 states of DeepSpeed, with the weights in float32, left aside: the saved models are read"
    assert (aside in run.remarks) is gathered


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_trainer_under_fsdp(copy: Any) -> None:
    """accelerate saves ``pytorch_model_fsdp_0`` and ``optimizer_0`` as distributed checkpoints of torch, the weights under ``model``."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from torch.distributed import checkpoint as distributed

    folder = copy("trl_sft")
    for checkpoint in folder.glob("checkpoint-*"):
        weights = load_file(checkpoint / "model.safetensors")
        (checkpoint / "model.safetensors").unlink()
        distributed.save({"model": weights}, checkpoint_id=checkpoint / "pytorch_model_fsdp_0", no_dist=True)
        moments = {name: {"exp_avg": torch.ones_like(value)} for name, value in weights.items()}
        distributed.save({"optimizer": {"state": moments}}, checkpoint_id=checkpoint / "optimizer_0", no_dist=True)
    run = open_run(folder)
    assert (run.trainer, run.notes, run.settings.master_dtype) == ("TRL SFTTrainer", [], "float32")
    assert [saved.step for saved in run.checkpoints] == [4, 8, 12]
    sharded, whole = (sparsity.compare(RUNS / "trl_base", path) for path in (run.checkpoints[-1].path, RUNS / "trl_sft/checkpoint-12"))
    assert not sharded.incomplete
    assert (sharded.total.numel, sharded.total.changed) == (whole.total.numel, whole.total.changed)
    (folder / "checkpoint-12/pytorch_model_fsdp_0/__0_0.distcp").unlink()
    run = open_run(folder)
    assert [saved.step for saved in run.checkpoints][:2] == [4, 8]
    assert [note for note in run.notes if "checkpoint-12: checkpoint left out:" in note and "__0_0.distcp" in note]
