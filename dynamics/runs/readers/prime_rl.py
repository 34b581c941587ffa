"""Directories of prime-rl: RL and SFT.

A run has ``configs/`` with the settings of its parts, ``metrics.jsonl``, ``rollouts/step_N`` with episodes of verifiers,
``checkpoints/step_N/trainer`` with torch's distributed checkpoints, and ``broadcasts/step_N`` with weights for inference. Before August
2026 it also had ``weights/step_N`` in the format of transformers, and before July 2026 a file of rollouts per step.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics.errors import InputError, printable
from dynamics.runs.readers.logs import Log, event_logs, first_record, json_log, learning_rate
from dynamics.runs.readers.looking import entries, exists, is_file, is_folder
from dynamics.runs.readers.settings import dtype, number, read_settings, text, whole
from dynamics.runs.readers.weights import WRITING, complete, local_base, numbered, opened_or_fault, shown
from dynamics.runs.view import RolloutFile, Run, Settings

LOOKED_FOR = "configs/trainer.json, rl.json or sft.json, weights/step_N/STABLE, broadcasts/step_N/STABLE (prime-rl)"

#: key of ``METRICS`` -> prime-rl's names; the newest first
NAMES = {
    "reward": ("mean of train/agg/all/*/reward/mean", "reward/all/mean", "reward/mean"),
    "zero_variance": ("solved_none + solved_all", "batch/solve_none + batch/solve_all"),
    "held_out": ("mean of eval/*/avg@*", "val_reward/mean"),
    "loss": ("loss/mean",),
    "held_out_loss": ("val/loss",),
    "entropy": ("entropy/all/mean", "entropy/mean"),
    "length": ("train/agg/all/num_output_tokens/mean", "completion_len/mean"),
    "truncated": ("mean of train/agg/all/*/is_truncated/mean", "is_truncated/mean"),
    "clip_fraction": ("is_masked/all/mean", "is_masked/mean"),
    "mismatch": ("mismatch_kl/all/mean", "mismatch_kl/mean"),
    "grad_norm": ("optim/grad_norm",),
    "learning_rate": ("optim/lr",),
}
#: metrics that are means over agents or environments
MEANS = {
    "mean of train/agg/all/*/reward/mean": re.compile(r"train/agg/all/[^/]+/reward/mean"),
    "mean of train/agg/all/*/is_truncated/mean": re.compile(r"train/agg/all/[^/]+/is_truncated/mean"),
    "mean of eval/*/avg@*": re.compile(r"eval/[^/]+/(?:effective/[^/]+/)?avg@\d+"),
}
STEP = r"step_(\d+)"
PARTS = ("rl", "sft", "trainer", "orchestrator")


def read(folder: Path) -> Run | None:
    """Read a directory of prime-rl; None if another trainer wrote it."""
    notes: list[str] = []
    files, settings = _settings(folder, notes)
    steps = [step for name in ("weights", "broadcasts") for _, step in numbered(folder / name, STEP)]
    stable = next((step for step in steps if is_file(step / "STABLE")), None)
    if not files and stable is None and not _is_ours(folder):
        return None
    rl = any(name.startswith("orchestrator.") for name in settings) or is_folder(folder / "rollouts")
    method = (text(settings, "orchestrator.algo.type") or "grpo").lower() if rl else "sft"
    run = Run(folder, "prime-rl", method, notes=notes, config=settings)
    run.evidence = shown(files[0] if files else stable or folder, folder)
    _add_checkpoints(run)
    names = ("trainer.model.name", "model.name", "orchestrator.model.name")
    name = next((name for name in names if text(settings, name)), None)
    if name is not None:
        run.base, run.base_from = local_base(str(settings[name]), folder.parent), f"{shown(files[0], folder)}: {name}"
    _add_samples(run)
    _add_metrics(run)
    run.settings = _shared(run, settings)
    return run


def _is_ours(folder: Path) -> bool:
    """Tell whether states of the trainer lie beside rollouts or settings, also if these cannot be read."""
    if not any(is_folder(path / "trainer") for _, path in numbered(folder / "checkpoints", STEP)):
        return False
    return exists(folder / "configs") or any(is_folder(path / "train") for _, path in numbered(folder / "rollouts", STEP))


def _settings(folder: Path, notes: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """Read the settings of the parts; those of ``trainer`` and ``orchestrator`` get the names that they have in ``rl``."""
    files: list[Path] = []
    settings: dict[str, Any] = {}
    for parent in (folder / "configs", folder):
        for part in PARTS:
            path = next((parent / f"{part}{suffix}" for suffix in (".json", ".toml") if is_file(parent / f"{part}{suffix}")), None)
            if path is None or (files and parent == folder):
                continue
            try:
                values = read_settings(path)
            except InputError as error:
                notes.append(str(error))
                continue
            files.append(path)
            prefix = f"{part}." if part in ("trainer", "orchestrator") else ""
            settings = {f"{prefix}{name}": value for name, value in values.items()} | settings
    return (files, settings) if "model.name" in settings or any(name.startswith("trainer.") for name in settings) else ([], {})


def _add_checkpoints(run: Run) -> None:
    """List the checkpoints of one kind: saved weights, else the trainer's states, else what was sent to inference."""
    weights = [(step, _adapter(path)) for step, path in numbered(run.path / "weights", STEP) if _is_stable(run, path)]
    states = [(step, path / "trainer") for step, path in numbered(run.path / "checkpoints", STEP) if is_folder(path / "trainer")]
    sent = [(step, path) for step, path in numbered(run.path / "broadcasts", STEP) if _was_sent(path)]
    kinds = [(name, found) for name, found in (("weights", weights), ("checkpoints", states), ("broadcasts", sent)) if found]
    if kinds:
        run.checkpoints = complete(kinds[0][1], run.notes)
        if others := [f"{len(found)} in {name}/" for name, found in kinds[1:]]:
            run.remarks.append(f"the checkpoints are those in {kinds[0][0]}/; {' and '.join(others)} are left aside")


def _was_sent(path: Path) -> bool:
    """Tell whether weights were sent whole and are still there: the trainer removes earlier ones."""
    return is_file(path / "STABLE") and not isinstance(opened_or_fault(path), str)


def _adapter(path: Path) -> Path:
    return path / "lora_adapters" if is_file(path / "lora_adapters" / "adapter_config.json") else path


def _is_stable(run: Run, path: Path) -> bool:
    if is_file(path / "STABLE"):
        return True
    run.notes.append(f"{printable(path)}: checkpoint left out: it has no file STABLE, which is written last{WRITING}")
    return False


def _add_samples(run: Run) -> None:
    """List the episodes: all that were sampled, not only those that were trained on, where both are kept."""
    for step, folder in numbered(run.path / "rollouts", STEP):
        for kind, held_out in (("train", False), ("eval", True)):
            subsets = [folder / kind / name / "traces.jsonl" for name in ("all", "effective")]
            run.rollouts += [RolloutFile(step, path, held_out) for path in [path for path in subsets if is_file(path)][:1]]
            older = [entry for entry in entries(folder) if re.fullmatch(rf"{kind}_rollouts.*\.jsonl", entry.name)]
            run.rollouts += [RolloutFile(step, entry, held_out) for entry in older]
    run.evals = [file.path for file in run.rollouts if file.held_out]
    exports = [entry for _, folder in numbered(run.path / "token_exports", STEP) for entry in entries(folder) if entry.suffix == ".jsonl"]
    run.texts = exports


def _add_metrics(run: Run) -> None:
    log = Log(NAMES)
    for path in (run.path / "metrics.jsonl", run.path / "run_default" / "metrics.jsonl"):
        if is_file(path) and isinstance(first_record(path), dict):
            json_log(path, run.notes, _line, log)
    if not log.rows:
        event_logs([run.path], run.notes, log)
    for name, pattern in MEANS.items():
        log.mean_of(name, pattern, run.remarks)
    for none, every in ((r"train/agg/all/[^/]+/solved_none", r"train/agg/all/[^/]+/solved_all"), ("batch/solve_none", "batch/solve_all")):
        parts = [name for name in log.own_names() if re.fullmatch(none, name) or re.fullmatch(every, name)]
        if len(parts) == 2:
            name = "solved_none + solved_all" if parts[0].startswith("train") else "batch/solve_none + batch/solve_all"
            log.combine(name, parts, _sum)
    log.write_to(run)
    if not log.rows:
        run.remarks.append("no log of metrics was found: expected metrics.jsonl or an offline W&B run")


def _line(record: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    values = {name: value for name, value in record.items() if name not in ("step", "time")}
    return record.get("step"), values


def _sum(wide: pd.DataFrame) -> pd.Series[float]:
    return wide.sum(axis=1, skipna=False)


def _shared(run: Run, settings: dict[str, Any]) -> Settings:
    made = int(run.metrics["step"].max()) if len(run.metrics) else None
    return Settings(
        learning_rate=learning_rate(run, number(settings, "trainer.optim.lr", "optim.lr")),
        steps=made if made is not None else whole(settings, "max_steps", "trainer.max_steps", "orchestrator.max_steps"),
        batch_size=whole(settings, "orchestrator.batch_size", "data.batch_size"),
        group_size=whole(settings, "orchestrator.group_size", "orchestrator.rollouts_per_example"),
        master_dtype=dtype(settings, "trainer.model.optimization_dtype", "model.optimization_dtype"),
        temperature=number(settings, "orchestrator.train.sampling.temperature", "orchestrator.sampling.temperature"),
        seed=whole(settings, "data.seed", "orchestrator.seed", "seed"),
    )
