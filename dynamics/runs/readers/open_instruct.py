"""Directories of open-instruct: GRPO, SFT and DPO.

GRPO writes the model after the last step into its output directory OUT, earlier ones into ``OUT_checkpoints/step_N``, each with the file
``.checkpoint_complete``, and with ``--save_traces`` samples into ``*_rollouts_NNNNNN.jsonl``. SFT and DPO write states of accelerate into
``step_N`` or ``epoch_N``, with the file ``COMPLETED``, and the last model into OUT. Settings are known if W&B recorded them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dynamics.runs.readers.hf_checkpoints import same_weights
from dynamics.runs.readers.logs import Log, event_logs, first_record, learning_rate
from dynamics.runs.readers.looking import entries, folders, is_file
from dynamics.runs.readers.settings import number, text, whole
from dynamics.runs.readers.weights import WRITING, base_of_config, complete, local_base, numbered, shown
from dynamics.runs.view import RolloutFile, Run, Settings

LOOKED_FOR = ".checkpoint_complete, step_N/COMPLETED or *_rollouts_000000.jsonl (open-instruct)"

#: key of ``METRICS`` -> open-instruct's names
NAMES = {
    "reward": ("scores", "objective/scores"),
    "held_out": ("eval/scores",),
    "loss": ("loss/total_avg", "loss/policy_avg", "train_loss"),
    "entropy": ("policy/entropy_avg", "objective/entropy"),
    "kl": ("objective/kl3_avg", "objective/kl_avg", "objective/kl2_avg"),
    "length": ("val/sequence_lengths",),
    "clip_fraction": ("policy/clipfrac_avg",),
    "truncated": ("1 - val/stop_rate",),
    "mismatch": ("debug/vllm_local_reverse_kl", "debug/vllm_vs_local_logprob_diff_mean"),
    "grad_norm": ("optim/grad_norm", "grad_norm"),
    "learning_rate": ("lr", "learning_rate"),
}
MARKER, COMPLETED = ".checkpoint_complete", "COMPLETED"
ROLLOUTS = re.compile(r"(.+)_rollouts_(\d{6})\.jsonl")
STEP, EPOCH = r"step_(\d+)", r"epoch_(\d+)"


def read(folder: Path) -> Run | None:
    """Read a directory of open-instruct; None if another trainer wrote it."""
    out, saved = _folders(folder)
    if not _is_ours(folder, out, saved):
        return None
    run = Run(folder, "open-instruct")
    log = Log(NAMES)
    event_logs([out], run.notes, log)
    run.config = log.settings
    if not run.config:
        run.remarks.append("settings are what the log shows: open-instruct does not write them, and W&B recorded none in this folder")
    _add_samples(run, out)
    _add_checkpoints(run, out, saved)
    _add_base(run, out)
    log.combine("1 - val/stop_rate", ("val/stop_rate",), lambda wide: 1 - wide["val/stop_rate"])
    log.write_to(run)
    if not log.rows:
        run.remarks.append("no log of metrics was found: expected events of TensorBoard or an offline W&B run")
    run.method = _method(run, out, saved)
    run.settings = _shared(run)
    return run


def _folders(folder: Path) -> tuple[Path, Path]:
    """Return the output directory and the folder of the earlier checkpoints; either can be given."""
    path = folder.absolute()
    if path.name.endswith("_checkpoints") and numbered(path, STEP):
        return path.with_name(path.name.removesuffix("_checkpoints")), path
    beside = path.with_name(f"{path.name}_checkpoints")
    return path, beside if numbered(beside, STEP) else path


def _is_ours(folder: Path, out: Path, saved: Path) -> bool:
    if is_file(out / MARKER) or any(is_file(path / MARKER) for _, path in numbered(saved, STEP)):
        return True
    if any(is_file(path / COMPLETED) for pattern in (STEP, EPOCH) for _, path in numbered(folder, pattern)):
        return True
    return any(ROLLOUTS.fullmatch(entry.name) and _is_rollout(entry) for entry in entries(folder))


def _is_rollout(path: Path) -> bool:
    record = first_record(path)
    return isinstance(record, dict) and {"prompt_tokens", "response_tokens", "reward"} <= record.keys()


def _add_samples(run: Run, out: Path) -> None:
    """List the shards of samples, each of which has samples of several steps."""
    places = [out, *folders(out)]
    shards = sorted(
        (int(match[2]), entry)
        for folder in places
        for entry in entries(folder)
        if (match := ROLLOUTS.fullmatch(entry.name)) and _is_rollout(entry)
    )
    run.rollouts = [RolloutFile(None, entry) for _, entry in shards]
    if shards:
        run.remarks.append("open-instruct keeps the token ids of its samples, not their text")


def _add_checkpoints(run: Run, out: Path, saved: Path) -> None:
    found: list[tuple[int | None, Path]] = []
    for pattern in (STEP, EPOCH):
        for number_, path in numbered(saved, pattern):
            if is_file(path / MARKER) or is_file(path / COMPLETED):
                found.append((number_ if pattern == STEP else None, path))
            else:
                missing = MARKER if saved != out else COMPLETED
                run.notes.append(f"{shown(path, run.path)}: checkpoint left out: it has no file {missing}, which is written last{WRITING}")
    if is_file(out / "config.json") or is_file(out / "adapter_config.json"):
        if found and same_weights(out, found[-1][1]):
            pass  # listed already
        elif is_file(out / MARKER) or saved == out:
            found.append((None, out))
        else:
            run.notes.append(f"{shown(out, run.path)}: checkpoint left out: it has no file {MARKER}, which is written last{WRITING}")
    run.checkpoints = complete(found, run.notes)
    if any(checkpoint.step is None for checkpoint in run.checkpoints):
        run.evidence = MARKER if is_file(out / MARKER) else COMPLETED
    elif run.checkpoints:
        run.evidence = shown(run.checkpoints[0].path, run.path)
    else:
        run.evidence = shown(run.rollouts[0].path, run.path) if run.rollouts else MARKER


def _add_base(run: Run, out: Path) -> None:
    """Find the base: in W&B's record, in the metadata beside samples, or in ``config.json``."""
    if name := text(run.config, "model_name_or_path"):
        run.base, run.base_from = local_base(name, out.parent), "W&B: model_name_or_path"
        return
    for shard in run.rollouts:
        match = ROLLOUTS.fullmatch(shard.path.name)
        path = shard.path.with_name(f"{match[1] if match else ''}_metadata.jsonl")
        record = first_record(path) if is_file(path) else None
        if isinstance(record, dict) and (name := text(record, "model_name")) and name != "unknown":
            run.base, run.base_from = local_base(name, out.parent), f"{shown(path, run.path)}: model_name"
            return
    for checkpoint in run.checkpoints:
        if base := base_of_config(checkpoint.path):
            run.base, run.base_from = base, f"{shown(checkpoint.path / 'config.json', run.path)}: _name_or_path"
            return


def _method(run: Run, out: Path, saved: Path) -> str | None:
    if run.rollouts or saved != out or is_file(out / MARKER):
        return "grpo"
    if text(run.config, "loss_type") or "dpo_beta" in run.config or "dpo_config.beta" in run.config:
        return "dpo"
    return "sft" if run.config or "train_loss" in run.metric_names.values() else None


def _shared(run: Run) -> Settings:
    settings: dict[str, Any] = run.config
    last = int(run.metrics["step"].max()) if len(run.metrics) else max((saved.step or 0 for saved in run.checkpoints), default=0)
    prompts = whole(settings, "num_unique_prompts_rollout")
    group = whole(settings, "num_samples_per_prompt_rollout")
    return Settings(
        learning_rate=learning_rate(run, number(settings, "learning_rate")),
        steps=last or None,
        batch_size=prompts * group if prompts and group else None,
        group_size=group,
        temperature=number(settings, "temperature"),
        kl_coef=number(settings, "beta"),
        seed=whole(settings, "seed"),
    )
