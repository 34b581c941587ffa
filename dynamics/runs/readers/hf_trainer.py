"""Output directories of transformers' ``Trainer`` and of what is built on it: TRL, LLaMA-Factory, axolotl, Unsloth.

They share ``checkpoint-N`` with ``trainer_state.json`` and ``training_args.bin``, a final model in the folder itself, and a model card. The
class of the settings tells the library and the method; each library also leaves marks of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.yaml import parse_yaml
from dynamics.runs.nearby import nearby
from dynamics.runs.readers.hf_checkpoints import NAME as CHECKPOINT
from dynamics.runs.readers.hf_checkpoints import Saved, complete, numbered, own_model, weight_files, with_own_model
from dynamics.runs.readers.hf_completions import completions
from dynamics.runs.readers.hf_files import Card, json_file, named, read_card
from dynamics.runs.readers.hf_log import LLAMA_FACTORY, STATE, Log, read_log
from dynamics.runs.readers.looking import entries, exists, is_file
from dynamics.runs.readers.metric_names import repeated_steps
from dynamics.runs.readers.settings import flat, number, text, whole
from dynamics.runs.readers.training_arguments import NAME, Arguments, read_arguments
from dynamics.runs.readers.weights import numbered as numbered_by
from dynamics.runs.view import Run, SavedCheckpoint, Settings

LOOKED_FOR = "checkpoint-N, trainer_state.json or training_args.bin (transformers, TRL, LLaMA-Factory, axolotl, Unsloth)"
#: settings that LLaMA-Factory's page writes
PAGE, PAGE_ARGUMENTS = "llamaboard_config.yaml", "training_args.yaml"
#: LLaMA-Factory's stages, as its settings and its page call them -> method
STAGES = {
    "pt": "pretraining", "sft": "sft", "rm": "reward", "ppo": "ppo", "dpo": "dpo", "kto": "kto",
    "Pre-Training": "pretraining", "Supervised Fine-Tuning": "sft", "Reward Modeling": "reward", "PPO": "ppo", "DPO": "dpo", "KTO": "kto",
}  # fmt: skip
#: methods of TRL whose ``beta`` is the weight of the divergence from the reference policy
WITH_BETA = frozenset(["grpo", "rloo", "dpo", "kto", "onlinedpo", "xpo", "nashmd"])
_CONFIG = re.compile(r"(?:Unsloth|Axolotl)?(?:Fast)?(?:Async)?([A-Z]\w*?)Config")
#: ways to share the work in which the optimizer may keep weights of its own, other than those that are saved
OWN_MASTERS = frozenset(["FSDP", "DEEPSPEED", "MEGATRON_LM"])
#: folder of the states of DeepSpeed in a checkpoint
DEEPSPEED = r"global_step(\d+)"
_RANK = re.compile(r"rng_state_\d+\.pth")


@dataclass(frozen=True)
class _Directory:
    """The files of a directory.

    Attributes
    ----------
    path : the directory.
    saved : complete checkpoints.
    own : the model in the directory itself, if it is complete.
    checkpoints : folders of all checkpoints, also of those that are not complete, the newest first.
    arguments : of the newest ``training_args.bin``; None if there is none.
    page : settings of LLaMA-Factory's page.
    card : model card.
    log : metrics.
    """

    path: Path
    saved: list[Saved]
    own: Saved | None
    checkpoints: list[Path]
    arguments: Arguments | None
    page: dict[str, Any]
    card: Card
    log: Log


def read(folder: Path) -> Run | None:
    """Read the output directory of a Trainer; None if it is none."""
    evidence = _evidence(folder)
    if evidence is None:
        return None
    run = Run(folder, "", evidence=evidence)
    saved = complete(folder, run.notes)
    checkpoints = [path for _, path in reversed(numbered(folder))]
    states = [folder, *checkpoints] if _is_newest(folder, checkpoints) else [*checkpoints, folder]
    page = _page(folder, run.notes)
    card = next((card for parent in (folder, *checkpoints) if (card := read_card(parent)).text), Card())
    arguments = _arguments([folder, *checkpoints], run.notes)
    log = read_log(folder, states, run.notes)
    directory = _Directory(folder, saved, own_model(folder, run.notes), checkpoints, arguments, page, card, log)
    run.trainer, run.method = _trainer(directory)
    base, run.base_from = _base(directory)
    run.base = base and nearby(base, folder)
    run.config = _config(directory)
    run.checkpoints = _checkpoints(directory, run.config, run.remarks)
    run.settings = _settings(directory, run)
    run.metrics, run.metric_names = directory.log.table(run.method)
    run.remarks += filter(None, [repeated_steps(run.metrics, directory.log.dropped)])
    run.rollouts = completions(folder, directory.log.rows, run.config, run.notes)
    run.remarks += _of_other_runs(directory) + _states(directory) + _reused(run) + _one_checkpoint(folder)
    return run


def _evidence(folder: Path) -> str | None:
    """Return the file that shows that a Trainer wrote a directory; None if there is none."""
    for parent in (folder, *(path for _, path in numbered(folder))):
        for name in (STATE, NAME):
            if is_file(parent / name):
                return str((parent / name).relative_to(folder))
    if is_file(folder / LLAMA_FACTORY):
        return LLAMA_FACTORY
    saved = [path for _, path in numbered(folder) if is_file(path / "config.json") or is_file(path / "adapter_config.json")]
    return f"{saved[0].name}/" if saved else None


def _is_newest(folder: Path, checkpoints: list[Path]) -> bool:
    """Tell whether the state in the directory itself is of as late a step as that of the last checkpoint."""
    if not exists(folder / STATE):
        return False
    steps = [json_file(parent / STATE).get("global_step") for parent in (folder, *checkpoints[:1])]
    known = [step if type(step) is int else -1 for step in steps]
    return known[0] >= max(known[1:], default=-1)


def _arguments(folders: list[Path], notes: list[str]) -> Arguments | None:
    """Read the settings of the directory itself, or of the newest checkpoint that has them; a note for those that cannot be read."""
    for path in (folder / NAME for folder in folders):
        if is_file(path) and (arguments := _readable(path, notes)) is not None:
            return arguments
    return None


def _readable(path: Path, notes: list[str]) -> Arguments | None:
    try:
        return read_arguments(path)
    except InputError as error:
        notes.append(str(error))
        return None


def _page(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Read the settings that LLaMA-Factory's page has written."""
    settings: dict[str, Any] = {}
    for name in (PAGE, PAGE_ARGUMENTS):
        if is_file(folder / name):
            try:
                document = parse_yaml(folder / name)
            except InputError as error:
                notes.append(str(error))
            else:
                settings |= flat(document) if isinstance(document, dict) else {}
    return settings


def _trainer(directory: _Directory) -> tuple[str, str | None]:
    """Return the library with its class or program, and the method."""
    arguments, tags = directory.arguments, directory.card.tags
    kind, name = (arguments.kind, arguments.name) if arguments else ("", "")
    method = _method(directory, name)
    if kind.startswith("llamafactory.") or is_file(directory.path / LLAMA_FACTORY) or "llama-factory" in tags:
        return "LLaMA-Factory", method
    if kind.startswith("axolotl.") or "axolotl version: `" in directory.card.text or "axolotl" in tags:
        return "axolotl", method
    trl = f"TRL {name.removeprefix('Unsloth').removesuffix('Config')}Trainer" if _is_trl(kind, name) else ""
    marked = any(setting.startswith("unsloth_") for setting in (arguments.values if arguments else ()))
    if marked or name.startswith("Unsloth") or "unsloth" in tags:
        return f"Unsloth{f' with {trl}' if trl else ''}", method
    if trl:
        return trl, method
    if not kind and "trl" in tags:
        return "TRL", method
    own = "" if not kind or kind.startswith("transformers.") else f" with settings {kind}"
    return f"transformers Trainer{own}", method


def _is_trl(kind: str, name: str) -> bool:
    return kind.startswith("trl.") or (name.startswith("Unsloth") and name.endswith("Config"))


def _method(directory: _Directory, name: str) -> str | None:
    """Return the method, from LLaMA-Factory's stage, the class of the settings, or the tags of the model card."""
    for setting in ("stage", "train.training_stage"):
        if (stage := directory.page.get(setting)) in STAGES:
            return STAGES[stage]
    if match := _CONFIG.fullmatch(name):
        return match[1].lower()
    known = {"sft", "grpo", "dpo", "kto", "rloo", "orpo", "cpo", "ppo", "gkd", "online-dpo", "xpo", "nash-md", "reward-trainer"}
    return next((tag.removesuffix("-trainer").replace("-", "") for tag in directory.card.tags if tag in known), None)


def _base(directory: _Directory) -> tuple[str | None, str]:
    """Return the model that training started from, and where that stands."""
    for parent in (directory.path, *directory.checkpoints):
        name = named(json_file(parent / "adapter_config.json"), "base_model_name_or_path")
        if name:
            return name, f"{_relative(parent / 'adapter_config.json', directory.path)}, base_model_name_or_path"
    if name := named(directory.page, "model_name_or_path"):
        return name, f"{PAGE_ARGUMENTS}, model_name_or_path"
    for parent in (*reversed(directory.checkpoints), directory.path):
        name = named(json_file(parent / "config.json"), "_name_or_path")
        if name and not _inside(name, directory):
            return name, f"{_relative(parent / 'config.json', directory.path)}, _name_or_path"
    if directory.card.base:
        return directory.card.base, "README.md, base_model"
    name = named(directory.log.settings, "_name_or_path")
    return (name, "settings in the logs, _name_or_path") if name and not _inside(name, directory) else (None, "")


def _inside(name: str, directory: _Directory) -> bool:
    """Tell whether a name is that of a checkpoint of the run itself, as after a resume."""
    path = Path(name)
    output = text(directory.arguments.values, "output_dir") if directory.arguments else None
    beside = path.name in {parent.name for parent in directory.checkpoints} and path.parent.name == directory.path.name
    return beside or (output is not None and Path(output) != Path() and Path(output) in (path, *path.parents))


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _config(directory: _Directory) -> dict[str, Any]:
    """Return all settings by name: of the logs, of the Trainer, and, under ``page.``, of LLaMA-Factory's page."""
    logged = flat(directory.log.settings) if directory.arguments is None else {}
    values = directory.arguments.values if directory.arguments else {}
    return logged | values | {f"page.{name}": value for name, value in directory.page.items()}


def _checkpoints(directory: _Directory, config: dict[str, Any], remarks: list[str]) -> list[SavedCheckpoint]:
    """List the checkpoints, and the model in the directory itself unless it is one of them."""
    if directory.own is None:
        return [SavedCheckpoint(saved.step, saved.path, saved.adapter) for saved in directory.saved]
    return with_own_model(directory.saved, directory.own, _own_step(directory, config), remarks)


def _own_step(directory: _Directory, config: dict[str, Any]) -> int | None:
    """Return the step of the model in the directory itself: that of its state, the last that was logged, or the last that was planned."""
    state = json_file(directory.path / STATE)
    if config.get("load_best_model_at_end") is True and (best := whole(state or directory.log.state, "best_global_step")):
        return best
    if step := whole(state, "global_step"):
        return step
    last = directory.saved[-1].step if directory.saved else 0
    if directory.log.last > (last or 0):
        return directory.log.last
    return whole(directory.log.state, "max_steps")


def _settings(directory: _Directory, run: Run) -> Settings:
    """Return the settings that many trainers share."""
    values = run.config
    logged = [value for _, name, value in directory.log.rows if name in ("learning_rate", "lr") and value == value]
    planned = whole(directory.log.state, "max_steps") or whole(values, "max_steps")
    return Settings(
        learning_rate=number(values, "learning_rate") or max(logged, default=None),
        steps=directory.log.steps or planned,
        batch_size=_batch_size(directory, values),
        group_size=whole(values, "num_generations"),
        master_dtype=_master_dtype(directory, values),
        storage_dtype=_storage_dtype(directory, run.remarks),
        temperature=number(values, "temperature"),
        kl_coef=number(values, "beta") if run.method in WITH_BETA else None,
        seed=whole(values, "seed"),
    )


def _batch_size(directory: _Directory, values: dict[str, Any]) -> int | None:
    """Return the samples per optimizer step; None if the number of processes, or of parts of a step, is not known."""
    per_process = whole(directory.log.state, "train_batch_size") or whole(values, "per_device_train_batch_size")
    parts = whole(values, "gradient_accumulation_steps")
    processes = _processes(directory)
    split = any(value not in (None, 1, False) for name, value in values.items() if name.startswith("parallelism_config"))
    return None if per_process is None or parts is None or processes is None or split else per_process * parts * processes


def _processes(directory: _Directory) -> int | None:
    """Return the number of processes: the settings hold it, and each process saves the state of its random numbers."""
    if directory.arguments is not None and directory.arguments.processes:
        return directory.arguments.processes
    ranks = sum(bool(_RANK.fullmatch(path.name)) for path in (entries(directory.checkpoints[0]) if directory.checkpoints else ()))
    return ranks or (1 if directory.checkpoints and exists(directory.checkpoints[0] / "rng_state.pth") else None)


def _master_dtype(directory: _Directory, values: dict[str, Any]) -> str | None:
    """Return the dtype of the weights that the optimizer updates.

    A Trainer saves these, except under FSDP and DeepSpeed, whose optimizers may update float32 copies of what is saved in fewer bits.
    """
    stored = _stored(directory)
    arguments = directory.arguments
    copies = arguments is None or arguments.distributed in OWN_MASTERS or values.get("fsdp") or values.get("deepspeed")
    return None if copies and stored != "float32" else stored


def _newest(directory: _Directory) -> Saved | None:
    return directory.saved[-1] if directory.saved else directory.own


def _stored(directory: _Directory) -> str | None:
    """Return the dtype of most of the weights of the newest checkpoint; None if there is none, or they are quantised."""
    newest = _newest(directory)
    counts = newest.dtypes if newest else {}
    return max((name for name in counts if "float" in name), key=lambda name: counts[name], default=None)


def _storage_dtype(directory: _Directory, remarks: list[str]) -> str | None:
    """Return the dtype that the newest ``config.json`` states; a remark if the weights have another."""
    newest = _newest(directory)
    if newest is None or newest.adapter:
        return None
    stated = text(json_file(newest.path / "config.json"), "dtype", "torch_dtype")
    stored = _stored(directory)
    if stated and stored and stated != stored:
        remarks.append(f"{printable(newest.path)}: config.json says {stated}, but most weights are {stored}")
    return stated


def _of_other_runs(directory: _Directory) -> list[str]:
    """Name checkpoints that another run left in the directory: their logs differ from the newest one's at the same step.

    The first, the middle and the last but one are compared: a state holds the log since the beginning, and may be large.
    """
    known = {step: value for step, name, value in directory.log.rows if name == "loss"}
    older = directory.saved[:-1]
    compared = {saved.step: saved for saved in (*older[:1], *older[len(older) // 2 :][:1], *older[-1:])}
    names: list[str] = []
    for saved in compared.values():
        history = json_file(saved.path / STATE).get("log_history")
        entries = [entry for entry in history if isinstance(entry, dict) and "loss" in entry] if isinstance(history, list) else []
        step, loss = (entries[-1].get("step"), entries[-1]["loss"]) if entries else (None, None)
        if type(step) is int and isinstance(loss, float) and step in known and loss == loss and known[step] != loss:
            names.append(saved.path.name)
    message = "of another run than the newest checkpoint, whose log differs at the same step; use a directory for each run"
    return [f"{', '.join(names)}: {message}"] if names else []


def _states(directory: _Directory) -> list[str]:
    """Say that DeepSpeed's states, whose weights are those that the optimizer updates, lie beside the models that are read."""
    beside = [saved for saved in directory.saved if weight_files(saved.path) and numbered_by(saved.path, DEEPSPEED)]
    if not beside:
        return []
    return [f"{plural(len(beside), 'state')} of DeepSpeed, with the weights in float32, left aside: the saved models are read"]


def _reused(run: Run) -> list[str]:
    """Say how often the files of completions repeat, which TRL does while it makes several steps from the same ones."""
    settings = run.config
    names = ("num_iterations", "steps_per_generation", "gradient_accumulation_steps")
    iterations, generated, parts = (whole(settings, name) or 1 for name in names)
    steps = iterations * generated // parts
    if not run.rollouts or steps < 2:
        return []
    return [f"completions: each is used for {steps} steps, and stands in the file of each of them that was logged"]


def _one_checkpoint(folder: Path) -> list[str]:
    """Say that a checkpoint was named instead of the run that it is of."""
    above = folder.resolve().parent
    if not CHECKPOINT.fullmatch(folder.name) or len(numbered(above)) < 2:
        return []
    return [f"this is one checkpoint of a run; name {printable(above)} for all of it"]
