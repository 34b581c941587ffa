"""Output directories of transformers' ``Trainer`` and of what is built on it: TRL, LLaMA-Factory, axolotl, Unsloth.

They share ``checkpoint-N`` with ``trainer_state.json`` and ``training_args.bin``, a final model in the folder itself, and a model card. The
class of the settings tells the library and the method; each library also leaves marks of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.yaml import parse_yaml
from dynamics.runs.readers.hf_checkpoints import NAME as CHECKPOINT
from dynamics.runs.readers.hf_checkpoints import Saved, complete, numbered, own_model, with_own_model
from dynamics.runs.readers.hf_completions import completions
from dynamics.runs.readers.hf_files import Card, json_file, named, read_card
from dynamics.runs.readers.hf_log import LLAMA_FACTORY, STATE, Log, read_log
from dynamics.runs.readers.settings import flat, number, text, whole
from dynamics.runs.readers.training_arguments import NAME, Arguments, read_arguments
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
#: folders above a run in which a base is looked for that is named by a relative path
ABOVE = 4
_CONFIG = re.compile(r"(?:Unsloth|Axolotl|AxolotlAsync|FastAsync)?([A-Z]\w*?)(?:Config|TrainingArguments)")
#: ways to share the work in which the optimizer may keep weights of its own, other than those that are saved
OWN_MASTERS = frozenset(["FSDP", "DEEPSPEED", "MEGATRON_LM"])
_RANK = re.compile(r"rng_state_\d+\.pth")


@dataclass(frozen=True)
class _Found:
    """The files of a directory.

    Attributes
    ----------
    folder : the directory.
    saved : complete checkpoints.
    own : the model in the directory itself, if it is complete.
    places : the directory and all its checkpoints, also those that are not complete, the newest first.
    arguments : of the newest ``training_args.bin``; None if there is none.
    page : settings of LLaMA-Factory's page.
    card : model card.
    log : metrics.
    """

    folder: Path
    saved: list[Saved]
    own: Saved | None
    places: list[Path]
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
    places = [path for _, path in reversed(numbered(folder))]
    states = [folder, *places] if _is_newest(folder, places) else [*places, folder]
    page = _page(folder, run.notes)
    card = next((card for place in (folder, *places) if (card := read_card(place)).text), Card())
    arguments = _arguments([folder, *places], run.notes)
    found = _Found(folder, saved, own_model(folder, run.notes), places, arguments, page, card, read_log(folder, states, run.notes))
    run.trainer, run.method = _trainer(found)
    base, run.base_from = _base(found)
    run.base = base and _beside(base, folder)
    run.config = _config(found)
    run.checkpoints = _checkpoints(found, run.config, run.remarks)
    run.settings = _settings(found, run)
    run.metrics, run.metric_names = found.log.table(run.method)
    run.rollouts = completions(folder, found.log.rows, run.config, run.notes)
    run.remarks += _of_other_runs(found) + _reused(run) + _one_checkpoint(folder)
    return run


def _evidence(folder: Path) -> str | None:
    """Return the file that shows that a Trainer wrote a directory; None if there is none."""
    for place in (folder, *(path for _, path in numbered(folder))):
        for name in (STATE, NAME):
            if (place / name).is_file():
                return str((place / name).relative_to(folder))
    if (folder / LLAMA_FACTORY).is_file():
        return LLAMA_FACTORY
    saved = [path for _, path in numbered(folder) if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()]
    return f"{saved[0].name}/" if saved else None


def _is_newest(folder: Path, places: list[Path]) -> bool:
    """Tell whether the state in the directory itself is of as late a step as that of the last checkpoint."""
    if not (folder / STATE).exists():
        return False
    steps = [json_file(place / STATE, []).get("global_step") for place in (folder, *places[:1])]
    known = [step if type(step) is int else -1 for step in steps]
    return known[0] >= max(known[1:], default=-1)


def _arguments(places: list[Path], notes: list[str]) -> Arguments | None:
    """Read the settings of the directory itself, or of the newest checkpoint that has them."""
    for place in places:
        if (path := place / NAME).is_file():
            try:
                return read_arguments(path)
            except InputError as error:
                notes.append(str(error))
                return None
    return None


def _page(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Read the settings that LLaMA-Factory's page has written."""
    settings: dict[str, Any] = {}
    for name in (PAGE, PAGE_ARGUMENTS):
        if (folder / name).is_file():
            try:
                document = parse_yaml(folder / name)
            except InputError as error:
                notes.append(str(error))
            else:
                settings |= flat(document) if isinstance(document, dict) else {}
    return settings


def _trainer(found: _Found) -> tuple[str, str | None]:
    """Return the library with its class or program, and the method."""
    arguments, tags = found.arguments, found.card.tags
    kind, name = (arguments.kind, arguments.name) if arguments else ("", "")
    method = _method(found, name)
    if kind.startswith("llamafactory.") or (found.folder / LLAMA_FACTORY).is_file() or "llama-factory" in tags:
        return "LLaMA-Factory", method
    if kind.startswith("axolotl.") or "axolotl version: `" in found.card.text or "axolotl" in tags:
        return "axolotl", method
    trl = "TRL " + _CONFIG.sub(r"\1Trainer", name) if _is_trl(kind, name) else ""
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


def _method(found: _Found, name: str) -> str | None:
    """Return the method, from LLaMA-Factory's stage, the class of the settings, or the tags of the model card."""
    for setting in ("stage", "train.training_stage"):
        if (stage := found.page.get(setting)) in STAGES:
            return STAGES[stage]
    match = _CONFIG.fullmatch(name)
    if match and match[1] not in ("Seq2Seq", "Training", "Axolotl") and name.endswith("Config"):
        return match[1].lower()
    known = {"sft", "grpo", "dpo", "kto", "rloo", "orpo", "cpo", "ppo", "gkd", "online-dpo", "xpo", "nash-md", "reward-trainer"}
    return next((tag.removesuffix("-trainer").replace("-", "") for tag in found.card.tags if tag in known), None)


def _base(found: _Found) -> tuple[str | None, str]:
    """Return the model that training started from, and where that stands."""
    for place in (found.folder, *found.places):
        name = named(json_file(place / "adapter_config.json", []), "base_model_name_or_path")
        if name:
            return name, f"{_relative(place / 'adapter_config.json', found.folder)}, base_model_name_or_path"
    if name := named(found.page, "model_name_or_path"):
        return name, f"{PAGE_ARGUMENTS}, model_name_or_path"
    for place in (*reversed(found.places), found.folder):
        name = named(json_file(place / "config.json", []), "_name_or_path")
        if name and not _inside(name, found):
            return name, f"{_relative(place / 'config.json', found.folder)}, _name_or_path"
    if found.card.base:
        return found.card.base, "README.md, base_model"
    name = named(found.log.settings, "_name_or_path")
    return (name, "settings in the logs, _name_or_path") if name and not _inside(name, found) else (None, "")


def _inside(name: str, found: _Found) -> bool:
    """Tell whether a name is that of a checkpoint of the run itself, as after a resume."""
    path = Path(name)
    output = text(found.arguments.values, "output_dir") if found.arguments else None
    beside = path.name in {place.name for place in found.places} and path.parent.name == found.folder.name
    return beside or (output is not None and Path(output) != Path() and Path(output) in (path, *path.parents))


def _beside(name: str, folder: Path) -> str:
    """Return the path of a base that is relative to a folder above the run, where training was started; any other name as it is."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path.exists():
        return name
    above = [parent / path for parent in folder.resolve().parents[:ABOVE]]
    return next((str(place) for place in above if (place / "config.json").is_file()), name)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _config(found: _Found) -> dict[str, Any]:
    """Return all settings by name: of the logs, of the Trainer, and, under ``page.``, of LLaMA-Factory's page."""
    logged = flat(found.log.settings) if found.arguments is None else {}
    values = found.arguments.values if found.arguments else {}
    return logged | values | {f"page.{name}": value for name, value in found.page.items()}


def _checkpoints(found: _Found, config: dict[str, Any], remarks: list[str]) -> list[SavedCheckpoint]:
    """List the checkpoints, and the model in the directory itself unless it is one of them."""
    if found.own is None:
        return [SavedCheckpoint(saved.step, saved.path, saved.adapter) for saved in found.saved]
    return with_own_model(found.saved, found.own, _own_step(found, config), remarks)


def _own_step(found: _Found, config: dict[str, Any]) -> int | None:
    """Return the step of the model in the directory itself: that of its state, the last that was logged, or the last that was planned."""
    state = json_file(found.folder / STATE, [])
    if config.get("load_best_model_at_end") is True and (best := whole(state or found.log.state, "best_global_step")):
        return best
    if step := whole(state, "global_step"):
        return step
    last = found.saved[-1].step if found.saved else 0
    if found.log.last > (last or 0):
        return found.log.last
    return whole(found.log.state, "max_steps")


def _settings(found: _Found, run: Run) -> Settings:
    """Return the settings that many trainers share."""
    values = run.config
    logged = [value for _, name, value in found.log.rows if name in ("learning_rate", "lr") and value == value]
    planned = whole(found.log.state, "max_steps") or whole(values, "max_steps")
    return Settings(
        learning_rate=number(values, "learning_rate") or max(logged, default=None),
        steps=found.log.steps or planned,
        batch_size=_batch_size(found, values),
        group_size=whole(values, "num_generations"),
        master_dtype=_master_dtype(found, values),
        storage_dtype=_storage_dtype(found, run.remarks),
        temperature=number(values, "temperature"),
        kl_coef=number(values, "beta") if run.method in WITH_BETA else None,
        seed=whole(values, "seed"),
    )


def _batch_size(found: _Found, values: dict[str, Any]) -> int | None:
    """Return the samples per optimizer step; None if the number of processes, or of parts of a step, is not known."""
    one = whole(found.log.state, "train_batch_size") or whole(values, "per_device_train_batch_size")
    parts = whole(values, "gradient_accumulation_steps")
    processes = _processes(found)
    split = any(value not in (None, 1, False) for name, value in values.items() if name.startswith("parallelism_config"))
    return None if one is None or parts is None or processes is None or split else one * parts * processes


def _processes(found: _Found) -> int | None:
    """Return the number of processes: the settings hold it, and each process saves the state of its random numbers."""
    if found.arguments is not None and found.arguments.processes:
        return found.arguments.processes
    ranks = sum(bool(_RANK.fullmatch(path.name)) for path in (found.places[0].iterdir() if found.places else ()))
    return ranks or (1 if found.places and (found.places[0] / "rng_state.pth").exists() else None)


def _master_dtype(found: _Found, values: dict[str, Any]) -> str | None:
    """Return the dtype of the weights that the optimizer updates.

    A Trainer saves these, except under FSDP and DeepSpeed, whose optimizers may update float32 copies of what is saved in fewer bits.
    """
    stored = _stored(found)
    arguments = found.arguments
    copies = arguments is None or arguments.distributed in OWN_MASTERS or values.get("fsdp") or values.get("deepspeed")
    return None if copies and stored != "float32" else stored


def _newest(found: _Found) -> Saved | None:
    return found.saved[-1] if found.saved else found.own


def _stored(found: _Found) -> str | None:
    """Return the dtype of most of the weights of the newest checkpoint; None if there is none, or they are quantised."""
    newest = _newest(found)
    counts = newest.dtypes if newest else {}
    return max((name for name in counts if "float" in name), key=lambda name: counts[name], default=None)


def _storage_dtype(found: _Found, remarks: list[str]) -> str | None:
    """Return the dtype that the newest ``config.json`` states; a remark if the weights have another."""
    newest = _newest(found)
    if newest is None or newest.adapter:
        return None
    stated = text(json_file(newest.path / "config.json", []), "dtype", "torch_dtype")
    stored = _stored(found)
    if stated and stored and stated != stored:
        remarks.append(f"{printable(newest.path)}: config.json says {stated}, but most weights are {stored}")
    return stated


def _of_other_runs(found: _Found) -> list[str]:
    """Name checkpoints that another run left in the directory: their logs differ from the newest one's at the same step.

    The first, the middle and the last but one are compared: a state holds the log since the beginning, and may be large.
    """
    known = {step: value for step, name, value in found.log.rows if name == "loss"}
    older = found.saved[:-1]
    compared = {saved.step: saved for saved in (*older[:1], *older[len(older) // 2 :][:1], *older[-1:])}
    names: list[str] = []
    for saved in compared.values():
        history = json_file(saved.path / STATE, []).get("log_history")
        entries = [entry for entry in history if isinstance(entry, dict) and "loss" in entry] if isinstance(history, list) else []
        step, loss = (entries[-1].get("step"), entries[-1]["loss"]) if entries else (None, None)
        if type(step) is int and isinstance(loss, float) and step in known and loss == loss and known[step] != loss:
            names.append(saved.path.name)
    message = "of another run than the newest checkpoint, whose log differs at the same step; use a directory for each run"
    return [f"{', '.join(names)}: {message}"] if names else []


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
