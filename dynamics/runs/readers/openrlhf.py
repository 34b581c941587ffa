"""Directories of OpenRLHF: PPO and its kin, SFT, DPO and reward models.

``--ckpt.path`` has ``global_stepN_hf`` in the format of transformers, with ``--ckpt.save_hf``, and states of DeepSpeed, in PPO in
``_actor``, else beside them. ``--ckpt.output_dir``, which holds ``--ckpt.path`` unless told otherwise, has the weights after the last step.
OpenRLHF writes neither its settings nor its samples; settings are known if W&B recorded them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.paths import natural_key
from dynamics.runs.readers.hf_checkpoints import same_weights, weight_files
from dynamics.runs.readers.logs import Log, event_logs, learning_rate
from dynamics.runs.readers.looking import folders, is_file, is_folder
from dynamics.runs.readers.settings import number, text, whole
from dynamics.runs.readers.weights import base_of_adapter, base_of_config, complete, local_base, numbered, shown
from dynamics.runs.view import Run, Settings

LOOKED_FOR = "global_stepN_hf/ or _actor/ (OpenRLHF)"

#: key of ``METRICS`` -> OpenRLHF's names
NAMES = {
    "reward": ("train/rollout/reward_mean", "train/reward"),
    "reward_std": ("train/rollout/reward_std",),
    "held_out": ("mean of eval/*_pass1",),
    "loss": ("train/policy_loss", "train/loss_mean", "train/loss", "train/gpt_loss"),
    "held_out_loss": ("eval/eval gpt_loss", "eval/eval_loss"),
    "entropy": ("train/entropy_loss",),
    "kl": ("train/kl",),
    "length": ("train/rollout/response_length_mean", "train/response_length"),
    "truncated": ("train/rollout/truncated_rate",),
    "clip_fraction": ("train/ppo_clip_ratio",),
    "mismatch": ("train/vllm_kl",),
    "grad_norm": ("train/actor_grad_norm", "train/grad_norm"),
    "learning_rate": ("train/actor_lr", "train/lr"),
}
HF_FOLDER, STATE_FOLDER = r"(?:best_)?global_step(\d+)_hf", r"(?:best_)?global_step(\d+)"
#: settings that name the estimator of advantages
ESTIMATORS = ("algo.advantage.estimator", "advantage_estimator")
#: before the name of the checkpoint of a step that has another one
BEST = "best_"
#: folder of ``--ckpt.path`` by default -> method
METHODS = {"checkpoints_sft": "sft", "checkpoints_dpo": "dpo", "checkpoints_rm": "rm", "checkpoints_ppo_ray": "ppo"}


def read(folder: Path) -> Run | None:
    """Read a directory of OpenRLHF; None if another trainer wrote it."""
    checkpoints = _checkpoints(folder)
    if checkpoints is None:
        return None
    run = Run(folder, "OpenRLHF", evidence=shown(checkpoints / _evidence(checkpoints), folder))
    log = Log(NAMES)
    event_logs([folder, checkpoints], run.notes, log)
    run.config = log.settings
    if not run.config:
        run.remarks.append("settings are what the log shows: OpenRLHF does not write them, and W&B recorded none in this folder")
    _add_checkpoints(run, checkpoints)
    _add_base(run)
    log.mean_of("mean of eval/*_pass1", re.compile(r"eval/.+_pass1"), run.remarks)
    log.write_to(run)
    run.method = _method(run, checkpoints)
    if run.method and not text(run.config, *ESTIMATORS):
        run.remarks.append("the method is taken from the names of folders and of metrics")
    if not log.rows:
        run.remarks.append("no log of metrics was found: expected events of TensorBoard (--logger.tensorboard_dir) or an offline W&B run")
    run.remarks.append("OpenRLHF does not keep its samples")
    run.settings = _shared(run)
    return run


def _is_checkpoints(folder: Path) -> bool:
    if numbered(folder, HF_FOLDER) or numbered(folder / "_actor", STATE_FOLDER):
        return True
    return folder.name in METHODS and bool(numbered(folder, STATE_FOLDER))


def _checkpoints(folder: Path) -> Path | None:
    """Find the folder of ``--ckpt.path``: the given one, or the only one in it."""
    if _is_checkpoints(folder.absolute()):
        return folder
    found = [child for child in folders(folder) if _is_checkpoints(child)]
    if len(found) > 1:
        names = ", ".join(printable(child.name) for child in sorted(found, key=natural_key)[:6])
        raise InputError(f"{printable(folder)}: holds {len(found)} runs of OpenRLHF: {names}; name one of them")
    return found[0] if found else None


def _evidence(checkpoints: Path) -> str:
    if numbered(checkpoints, HF_FOLDER):
        return "global_stepN_hf"
    return "_actor" if is_folder(checkpoints / "_actor") else "global_stepN"


def _add_checkpoints(run: Run, checkpoints: Path) -> None:
    """List the checkpoints of transformers' format, or those of DeepSpeed if there are none, and the weights after the last step."""
    states = _by_step(checkpoints / "_actor", STATE_FOLDER) or _by_step(checkpoints, STATE_FOLDER)
    steps = _by_step(checkpoints, HF_FOLDER)
    if steps and states:
        count = plural(len(states), "state")
        run.remarks.append(f"{count} of DeepSpeed, with the weights in float32, left aside: the saved models are read")
        run.settings = replace(run.settings, master_dtype="float32")
    chosen = steps or states
    found: list[tuple[int | None, Path]] = [*chosen]
    if is_file(run.path / "config.json") and weight_files(run.path) and not (chosen and same_weights(run.path, chosen[-1][1])):
        found.append((None, run.path))
    run.checkpoints = complete(found, run.notes)


def _by_step(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """List the folders of checkpoints by step, without the best one if its step has another."""
    listed = numbered(folder, pattern)
    others = {step for step, path in listed if not path.name.startswith(BEST)}
    return [(step, path) for step, path in listed if step not in others or not path.name.startswith(BEST)]


def _add_base(run: Run) -> None:
    """Find the base: in W&B's record of the settings, else in what the checkpoints say of themselves."""
    names = ("actor.model_name_or_path", "model.model_name_or_path", "pretrain")
    name = next((name for name in names if text(run.config, name)), None)
    if name is not None:
        run.base, run.base_from = local_base(str(run.config[name]), run.path), f"W&B: {name}"
        return
    for saved in run.checkpoints:
        file, key = ("adapter_config.json", "base_model_name_or_path") if saved.adapter else ("config.json", "_name_or_path")
        base = base_of_adapter(saved.path) if saved.adapter else base_of_config(saved.path)
        if base is not None:
            run.base, run.base_from = base, f"{shown(saved.path / file, run.path)}: {key}"
            return


def _method(run: Run, checkpoints: Path) -> str | None:
    estimator = text(run.config, *ESTIMATORS)
    if estimator:
        return {"gae": "ppo", "group_norm": "grpo"}.get(estimator, estimator.lower())
    if checkpoints.name in METHODS:
        return METHODS[checkpoints.name]
    names = set(run.metric_names.values())
    return "sft" if "train/gpt_loss" in names | set(run.metrics["name"]) else "ppo" if is_folder(checkpoints / "_actor") else None


def _shared(run: Run) -> Settings:
    settings: dict[str, Any] = run.config
    saved = max((saved.step or 0 for saved in run.checkpoints), default=0)
    last = int(run.metrics["step"].max()) if len(run.metrics) else saved
    bf16 = settings.get("bf16")
    stored = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(str(settings.get("ds.param_dtype")))
    return Settings(
        learning_rate=learning_rate(run, number(settings, "actor.adam.lr", "adam.lr", "actor_learning_rate", "learning_rate")),
        steps=last or None,
        batch_size=whole(settings, "train.batch_size", "train_batch_size"),
        group_size=whole(settings, "rollout.n_samples_per_prompt", "n_samples_per_prompt"),
        master_dtype="float32" if stored or bf16 is True else run.settings.master_dtype,
        storage_dtype=stored or ("bfloat16" if bf16 is True else None),
        temperature=number(settings, "rollout.temperature", "temperature"),
        kl_coef=number(settings, "algo.kl.init_coef", "init_kl_coef"),
        seed=whole(settings, "train.seed", "seed"),
    )
