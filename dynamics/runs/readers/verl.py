"""Directories of verl: PPO and its kin, and SFT.

verl writes checkpoints to ``checkpoints/PROJECT/EXPERIMENT/global_step_N``, its settings to ``outputs/DATE/TIME/.hydra/config.yaml``, and
logs to ``PROJECT/EXPERIMENT.jsonl`` and ``tensorboard_log/PROJECT/EXPERIMENT``, all below the folder that it was started in. Either that
folder or the one with the checkpoints can be given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.paths import natural_key
from dynamics.runs.readers.logs import Log, console_log, event_logs, first_record, json_log, learning_rate
from dynamics.runs.readers.looking import entries, folders, is_file, is_folder
from dynamics.runs.readers.settings import dtype, flat, number, read_settings, resolved, text, whole
from dynamics.runs.readers.wandb_files import read_runs, run_files
from dynamics.runs.readers.weights import (
    WRITING,
    base_of_adapter,
    base_of_config,
    complete,
    local_base,
    numbered,
    opened_or_fault,
    read_pointer_number,
    shown,
)
from dynamics.runs.view import RolloutFile, Run, Settings

LOOKED_FOR = "global_step_N/ or .hydra/config.yaml with actor_rollout_ref (verl)"

#: key of ``METRICS`` -> verl's names
NAMES = {
    "reward": ("critic/score/mean", "critic/rewards/mean"),
    "held_out": ("mean of val-core/*/mean@*", "mean of val/test_score/*"),
    "loss": ("actor/pg_loss", "train/loss"),
    "held_out_loss": ("val/loss",),
    "entropy": ("actor/entropy", "actor/entropy_loss"),
    "kl": ("actor/kl_loss", "actor/reward_kl_penalty", "critic/kl"),
    "length": ("response_length/mean",),
    "truncated": ("response_length/clip_ratio",),
    "clip_fraction": ("actor/pg_clipfrac",),
    "mismatch": ("rollout_corr/kl", "rollout_corr/k3_kl", "training/rollout_probs_diff_mean"),
    "grad_norm": ("actor/grad_norm", "train/grad_norm"),
    "learning_rate": ("actor/lr", "train/lr"),
}
#: metrics of evaluations whose mean over the data sources is the held-out reward
VALIDATION = (
    ("mean of val-core/*/mean@*", re.compile(r"val-core/.+/mean@\d+")),
    ("mean of val/test_score/*", re.compile(r"val/test_score/.+")),
)
STEP_FOLDER = r"global_step_(\d+)"
DUMP = re.compile(r"(\d{1,15})\.jsonl")
#: prefix of the settings of the policy
ACTOR = "actor_rollout_ref.actor"
#: number of configurations of one working folder that are read
CONFIGURATIONS = 50


@dataclass(frozen=True)
class Layout:
    """Where the parts of a run are.

    Attributes
    ----------
    given : the folder that was named.
    checkpoints : the folder with ``global_step_N``; None if there are none.
    root : the folder that verl was started in; None if the names of the folders do not show it.
    """

    given: Path
    checkpoints: Path | None
    root: Path | None

    @property
    def names(self) -> tuple[str, str] | None:
        """Project and experiment, as the names of the folders say."""
        return (self.checkpoints.parent.name, self.checkpoints.name) if self.root and self.checkpoints else None

    @property
    def own(self) -> list[Path]:
        """The folders that hold nothing of other runs: verl's working folder may have logs of several."""
        return [self.checkpoints] if self.root and self.checkpoints else self.folders

    @property
    def folders(self) -> list[Path]:
        """The folders in which a file of the run may lie, each once."""
        return list(dict.fromkeys(folder for folder in (self.given, self.checkpoints) if folder is not None))


def read(folder: Path) -> Run | None:
    """Read a directory of verl; None if another trainer wrote it."""
    layout = _layout(folder)
    notes: list[str] = []
    where, settings = _settings(layout, notes)
    if layout.checkpoints is None and where is None:
        return None
    run = Run(folder, "verl", _method(settings), notes=notes, config=settings)
    run.evidence = shown(layout.checkpoints / "global_step_N", folder) if layout.checkpoints else shown(where or folder, folder)
    if where is None:
        run.remarks.append("no configuration of verl was found, so that settings and base are not known")
    _add_checkpoints(run, layout, settings)
    _add_base(run, layout, where, settings)
    _add_samples(run, layout, settings)
    _add_metrics(run, layout)
    run.settings = _shared(run, settings)
    minibatch, batch = whole(settings, f"{ACTOR}.ppo_mini_batch_size"), whole(settings, "data.train_batch_size")
    updates = (batch // minibatch if batch and minibatch else 1) * (whole(settings, f"{ACTOR}.ppo_epochs") or 1)
    if updates > 1:
        run.remarks.append(f"a step of verl is {updates} optimizer steps")
    return run


def _layout(folder: Path) -> Layout:
    """Find the folder with the checkpoints: the given one, or the only one below it."""
    path = folder.absolute()
    if numbered(path, STEP_FOLDER):
        in_root = path.parent.parent.name == "checkpoints"
        return Layout(path, path, path.parents[2] if in_root else None)
    below = [path, path / "checkpoints"]
    below += [child for parent in below for child in folders(parent) if not child.name.startswith(".")]
    below += folders(path / "checkpoints")
    found = {child: None for parent in below for child in folders(parent) if numbered(child, STEP_FOLDER)}
    if len(found) > 1:
        names = ", ".join(printable(child.relative_to(path)) for child in sorted(found, key=natural_key)[:6])
        raise InputError(f"{printable(folder)}: holds {len(found)} runs of verl: {names}; name one of them")
    if not found:
        return Layout(path, None, None)
    checkpoints = next(iter(found))
    return Layout(path, checkpoints, path if checkpoints.parent.parent == path / "checkpoints" else None)


def _settings(layout: Layout, notes: list[str]) -> tuple[Path | None, dict[str, Any]]:
    """Read the configuration of the run: the file, and its settings; None if there is none."""
    for path in _configurations(layout):
        try:
            settings = resolved(read_settings(path))
        except InputError as error:
            notes.append(str(error))
            continue
        names = layout.names
        own = path.parent in layout.folders or path.parent.parent in layout.folders
        if not own and names and (settings.get("trainer.project_name"), settings.get("trainer.experiment_name")) != names:
            continue
        if any(name.startswith("actor_rollout_ref.") for name in settings) or "trainer.default_local_dir" in settings:
            return path, settings
    return None, {}


def _configurations(layout: Layout) -> Iterator[Path]:
    """Yield the files that may hold the configuration, those in the run's own folders first."""
    for folder in layout.folders:
        for name in ("config.yaml", ".hydra/config.yaml", "config.json"):
            if is_file(folder / name):
                yield folder / name
    root = layout.root or layout.given
    found = [
        time / ".hydra" / "config.yaml"
        for day in reversed(folders(root / "outputs"))
        for time in reversed(folders(day))
        if is_file(time / ".hydra" / "config.yaml")
    ]
    yield from found[:CONFIGURATIONS]


def _method(settings: dict[str, Any]) -> str | None:
    estimator = text(settings, "algorithm.adv_estimator")
    if estimator:
        return "ppo" if estimator == "gae" else estimator.lower()
    return "sft" if settings and not any(name.startswith("actor_rollout_ref.") for name in settings) else None


def _add_checkpoints(run: Run, layout: Layout, settings: dict[str, Any]) -> None:
    """List the checkpoints: the shards, which hold the weights that are trained; if there are none, those in the format of transformers."""
    if layout.checkpoints is None:
        return
    last = read_pointer_number(layout.checkpoints / "latest_checkpointed_iteration.txt")
    found: list[tuple[int | None, Path]] = []
    for step, folder in numbered(layout.checkpoints, STEP_FOLDER):
        path = folder / "actor" if is_folder(folder / "actor") else folder
        if last is not None and step > last and settings.get(f"{ACTOR}.checkpoint.async_save") is not True:
            run.notes.append(f"{printable(folder)}: checkpoint left out: latest_checkpointed_iteration.txt names step {last}{WRITING}")
            continue
        adapter = next((path / name for name in ("lora_adapter", "huggingface/lora_adapter") if is_folder(path / name)), None)
        if adapter is not None:
            found.append((step, adapter))
        elif not any(name.suffix == ".pt" for name in entries(path)) and not isinstance(opened_or_fault(path / "huggingface"), str):
            found.append((step, path / "huggingface"))
        else:
            found.append((step, path))
    run.checkpoints = complete(found, run.notes)


def _add_base(run: Run, layout: Layout, where: Path | None, settings: dict[str, Any]) -> None:
    """Find the base: in the configuration, else in what the checkpoints say of themselves."""
    names = ("actor_rollout_ref.model.path", "model.path", "model.partial_pretrain")
    name = next((name for name in names if text(settings, name)), None)
    if name is not None and where is not None:
        run.base, run.base_from = local_base(str(settings[name]), layout.root), f"{shown(where, run.path)}: {name}"
        return
    for saved in run.checkpoints:
        folder = saved.path if saved.adapter or saved.path.name == "huggingface" else saved.path / "huggingface"
        base = base_of_adapter(folder) if saved.adapter else base_of_config(folder)
        if base is not None:
            run.base, run.base_from = (
                base,
                f"{printable(folder)}: {'adapter_config.json' if saved.adapter else 'config.json: _name_or_path'}",
            )
            return


def _add_samples(run: Run, layout: Layout, settings: dict[str, Any]) -> None:
    """List the dumps of rollouts and of evaluations: where the configuration says, else where files of such names are."""
    dumps = {
        held_out: _dumps(layout, text(settings, f"trainer.{name}"))
        for held_out, name in ((False, "rollout_data_dir"), (True, "validation_data_dir"))
    }
    if not any(dumps.values()):
        for parent in layout.folders:
            for child in folders(parent):
                if child not in dumps.values() and _files(child) and _is_dump(_files(child)[0][1]):
                    dumps[bool(re.search(r"val|test|eval", child.name.lower()))] = child
    for held_out, folder in dumps.items():
        if folder is not None:
            run.rollouts += [RolloutFile(step, path, held_out) for step, path in _files(folder)]
    run.rollouts.sort(key=lambda file: (file.step or 0, file.held_out))
    run.evals = [file.path for file in run.rollouts if file.held_out]
    run.texts = [file.path for file in run.rollouts if not file.held_out] or list(run.evals)


def _dumps(layout: Layout, named: str | None) -> Path | None:
    """Return the folder that a setting names: as it is written, below the folder verl was started in, or beside the checkpoints."""
    if not named or "\0" in named or "${" in named:
        return None
    path = Path(named)
    candidates = [path] if path.is_absolute() else [base / path for base in (layout.root, *layout.folders) if base is not None]
    candidates += [folder / path.name for folder in layout.folders]
    return next((candidate for candidate in candidates if is_folder(candidate) and _files(candidate)), None)


def _files(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(match[1]), entry) for entry in entries(folder) if (match := DUMP.fullmatch(entry.name)) and is_file(entry))


def _is_dump(path: Path) -> bool:
    record = first_record(path)
    return isinstance(record, dict) and {"input", "output"} <= record.keys()


def _add_metrics(run: Run, layout: Layout) -> None:
    """Read the log of JSON lines; if there is none, events of TensorBoard or of W&B; if there are none, what verl printed."""
    log = Log(NAMES)
    path = _json_log(layout)
    if path is not None:
        json_log(path, run.notes, _line, log)
    elif layout.root and layout.names:
        events = layout.root / "tensorboard_log" / layout.names[0] / layout.names[1]
        event_logs([*layout.own, events], run.notes, log, _wandb_files(layout.root, layout.names))
    else:
        event_logs(layout.own, run.notes, log)
    if not log.rows:
        _add_printed(run, layout, log)
    for mean, pattern in VALIDATION:
        log.mean_of(mean, pattern, run.remarks)
    log.write_to(run)
    if not log.rows:
        run.remarks.append("no log of metrics was found: expected PROJECT/EXPERIMENT.jsonl, events of TensorBoard, or a log of the output")


def _add_printed(run: Run, layout: Layout, log: Log) -> None:
    """Read what verl printed, if it was written to files; if they are several, say which."""
    read: list[str] = []
    for entry in [entry for folder in layout.folders for entry in entries(folder) if entry.suffix in (".log", ".out", ".txt")]:
        before = len(log.rows)
        if is_file(entry):
            console_log(entry, run.notes, log)
        read += [printable(entry.name)] * (len(log.rows) > before)
    if len(read) > 1:
        run.remarks.append(f"the metrics are those of {len(read)} files of output, of which later ones count: {', '.join(read[:6])}")


def _wandb_files(root: Path, names: tuple[str, str]) -> list[Path]:
    """List the files of W&B in the folder that verl was started in whose settings name the run's project and experiment."""
    files = run_files(root)
    try:
        recorded = {path: flat(read_runs([path], []).settings) for path in files}
    except InputError:  # wandb is not installed, which is told when they are read
        return files
    keys = ("trainer.project_name", "trainer.experiment_name")
    return [path for path, settings in recorded.items() if tuple(settings.get(key) for key in keys) == names]


def _line(record: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the step of a line and its values; verl writes NaN as null."""
    data = record.get("data")
    values = data if isinstance(data, dict) else {}
    return (record.get("step") if values is data else None), {name: math.nan if value is None else value for name, value in values.items()}


def _json_log(layout: Layout) -> Path | None:
    """Find the log of verl's logger ``file``, whose lines hold a step and its data."""
    candidates = [entry for folder in layout.own for entry in entries(folder) if entry.suffix == ".jsonl"]
    if layout.root and layout.names:
        candidates.append(layout.root / layout.names[0] / f"{layout.names[1]}.jsonl")
    else:
        candidates += [entry for child in folders(layout.given) for entry in entries(child) if entry.suffix == ".jsonl"]
    for path in dict.fromkeys(candidates):
        record = first_record(path) if is_file(path) else None
        if isinstance(record, dict) and isinstance(record.get("data"), dict) and "step" in record:
            return path
    return None


def _shared(run: Run, settings: dict[str, Any]) -> Settings:
    last = int(run.metrics["step"].max()) if len(run.metrics) else None
    group = whole(settings, "actor_rollout_ref.rollout.n")
    prompts = whole(settings, f"{ACTOR}.ppo_mini_batch_size")
    kl = number(settings, f"{ACTOR}.kl_loss_coef") if settings.get(f"{ACTOR}.use_kl_loss") is True else None
    if kl is None and settings.get("algorithm.use_kl_in_reward") is True:
        kl = number(settings, "algorithm.kl_ctrl.kl_coef")
    if kl is None and f"{ACTOR}.use_kl_loss" in settings:
        kl = 0.0
    stored = dtype(settings, f"{ACTOR}.fsdp_config.model_dtype", "engine.model_dtype")
    return Settings(
        learning_rate=learning_rate(run, number(settings, f"{ACTOR}.optim.lr", "optim.lr")),
        steps=last or whole(settings, "trainer.total_training_steps", f"{ACTOR}.optim.total_training_steps"),
        batch_size=prompts * (group or 1) if prompts else whole(settings, "data.train_batch_size"),
        group_size=group,
        master_dtype=stored,
        storage_dtype=stored,
        temperature=number(settings, "actor_rollout_ref.rollout.temperature"),
        kl_coef=kl,
        seed=whole(settings, "data.seed", "trainer.seed", f"{ACTOR}.data_loader_seed"),
    )
