"""What a run needs before it starts: its folder, device, model, task, sandbox and optional packages. Nothing is made or downloaded.

``loop.run`` and ``--dry-run`` call ``check_run``, so that both refuse the same things, with the same messages.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, did_you_mean, printable
from dynamics.extras import optional_import
from dynamics.models import check_model
from dynamics.runs.directory import RunDirectory
from dynamics.train import built_in, sources, state, tasks
from dynamics.train.config import CORRECT, EARLIER, PROPOSED, TaskMakingConfig, TrainConfig, as_recorded
from dynamics.train.games.languages import language
from dynamics.train.lab import shipped
from dynamics.train.settings import METHODS
from dynamics.train.tasks.laboratory import NAMES as LAB_TASKS
from dynamics.train.tasks.laboratory import Laboratory
from dynamics.train.tasks.prompt_formats import LanguageName

#: settings that a resumed run may change, and what that does to its results
MAY_CHANGE = {"gradient_checkpointing": "the results are the same", "max_tokens_per_microbatch": "the order of sums changes"}


def check_run(method: str, config: TrainConfig, out: Path, resume: bool, tensorboard: bool = False, wandb: str | None = None) -> list[str]:
    """Check everything that is known before the model is loaded.

    Parameters
    ----------
    method, config, out, resume, tensorboard, wandb
        See ``loop.Run``.

    Returns
    -------
    list of str
        Where answers are judged that other packages judge.

    Raises
    ------
    InputError
        The run cannot start; the message says why, in one line.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: unknown; there are {', '.join(METHODS)}")
    check_folder(method, config, out, resume)
    _check_logging(tensorboard, wandb)
    _check_model(config.model)
    _check_device(config.device)
    name = built_in.language_of_model(config.model)
    executors = _check_task(config, name)
    if isinstance(config, TaskMakingConfig):
        language(name, config.allow_unconfined).close()
    return executors


def refuse_busy(out: Path) -> None:
    """Refuse a run directory that another process works on."""
    raise InputError(f"{out}: another process is working on this run; wait for it, or choose another folder")


def check_folder(method: str, config: TrainConfig, out: Path, resume: bool) -> dict[str, Any] | None:
    """Check the run directory, which need not exist.

    Returns
    -------
    dict or None
        The document of the run to resume; None for a new run.
    """
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{printable(out)}: {'' if existing == out else f'{printable(existing)} '}is not a folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{printable(out)}: the folder {printable(existing)} is not writable; choose another")
    if existing != out:
        return None
    if (out / "run.json").exists():
        return _document_to_resume(method, config, out, resume)
    if not RunDirectory(out).is_before_a_run():
        raise InputError(f"{out}: is not empty and contains no run; choose another folder")
    return None


def _document_to_resume(method: str, config: TrainConfig, out: Path, resume: bool) -> dict[str, Any]:
    """Load and validate the existing ``run.json``: its settings must equal those of this run."""
    if not resume:
        raise InputError(f"{out}: already contains a run; continue it with --resume, or choose another folder")
    document = RunDirectory(out).read_run()
    asked = {"method": method, **as_recorded(config)}
    begun = {"method": document.get("method"), **EARLIER, **(document.get("config") or {})}
    for name, value in asked.items():
        if value != begun.get(name) and name not in MAY_CHANGE:
            raise InputError(
                f"{out}: was started with {name} = {begun.get(name)!r}, not {value!r}; resume with the same settings, "
                "or choose another folder"
            )
    if document.get("status") == "finished" and state.latest(out / "state") is None:
        raise InputError(f"{out}: is finished and has no state/ to resume from; choose another folder")
    threads = document.get("threads")
    if type(threads) is not int or threads < 1:
        raise InputError(f"{out / 'run.json'}: does not say with how many threads the run began; restore it, or choose another folder")
    return document | {"status": "running"}


def _check_logging(tensorboard: bool, wandb: str | None) -> None:
    """Check that the packages of the further outputs are installed."""
    if tensorboard:
        with optional_import("writing events for TensorBoard"):
            importlib.import_module("tensorboard")
    if wandb:
        with optional_import("logging to Weights & Biases"):
            importlib.import_module("wandb")


def _check_model(name: str) -> None:
    """Check a model, and suggest a similar built-in name; the embedded model can always be made."""
    if name in built_in.NAMES:
        if name == "lab":
            shipped.find()
        return
    try:
        check_model(name)
    except InputError as error:
        suggestion = "" if "did you mean" in str(error) else did_you_mean(name, (*built_in.NAMES, "smollm2"))
        raise InputError(f"{error}{suggestion}") from None


def _check_device(device: str) -> None:
    """Check that torch has the device; torch raises several kinds of errors."""
    if device == "auto":
        return
    with optional_import("training"):
        import torch
    try:
        torch.empty(0, device=device)
    except Exception as error:
        reason = printable(str(error).strip().partition("\n")[0] or type(error).__name__, 160)
        raise InputError(f"--device {printable(device)}: cannot be used here ({reason})") from None


def check_language(config: TrainConfig, source: tasks.Source, name: LanguageName) -> None:
    """Refuse a task that the model cannot read: the laboratory's notation is read by its bases, and these read nothing else."""
    of_laboratory = [isinstance(part, Laboratory) for part in sources.parts(source)]
    task, model = f"--task {printable(config.task, 80)}", f"--model {printable(config.model, 200)}"
    if name == "lab" and not all(of_laboratory):
        forms = ", ".join(LAB_TASKS)
        raise InputError(f"{task}: {model} reads the notation of the laboratory only; choose another model, or one of the tasks {forms}")
    if name != "lab" and any(of_laboratory):
        raise InputError(
            f"{task}: {model} has another tokenizer than the laboratory's, whose notation it does not read; use --model lab, or the folder "
            "of a model trained from it"
        )


def _check_task(config: TrainConfig, name: LanguageName) -> list[str]:
    """Check that the task exists, has problems to train on and to evaluate, and can grade them; say where other packages grade them."""
    _check_recorded(config)
    source = sources.find(config.task, name, config.allow_unconfined)
    try:
        return _check_source(config, source, name)
    finally:
        sources.close(source)


def _check_recorded(config: TrainConfig) -> None:
    """Refuse a method that cannot train on what a run has recorded."""
    if isinstance(config, TaskMakingConfig) and config.task.startswith((PROPOSED, CORRECT)):
        raise InputError(f"--task {printable(config.task, 80)}: the method trains on its own proposals; give the task to be evaluated on")
    if config.judged_problems and config.task.startswith(CORRECT):
        raise InputError(f"--task {printable(config.task, 80)}: are answers to imitate; use sft, or give the task of that run")


def _check_source(config: TrainConfig, source: tasks.Source, name: LanguageName) -> list[str]:
    """Check that the problems of a source can be read, trained on and graded; say where other packages grade them."""
    check_language(config, source, name)
    config.check_source(source, name)
    trains = not isinstance(config, TaskMakingConfig)  # self-play trains on its own proposals
    for split, count in (("training", trains), ("test", config.eval_problems)):
        if count:
            source.questions(split, 1, config.seed)
    if config.validate_every:
        validation_questions(source, config, 1)
    for part in scored_parts(config, source):
        if config.judged_problems:
            part.check_gradable("training", config.judged_problems)
        if config.validate_every:
            part.check_gradable("validation", config.validation_problems)
        if config.eval_problems:
            part.check_gradable("test", config.eval_problems)
    return list(dict.fromkeys(part.executor() for part in scored_parts(config, source)))


def validation_questions(source: tasks.Source, config: TrainConfig, count: int, needed_by: str = "") -> list[tasks.Question]:
    """Draw validation problems of a task; ``InputError``, which names the option or what else needs them, if it has none."""
    what = needed_by or f"--validate-every {config.validate_every}"
    try:
        questions = source.questions("validation", count, config.seed)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    if not questions:
        raise InputError(f"{what}: {source.name} has no validation problems; {'choose another task' if needed_by else 'leave it out'}")
    return questions


def scored_parts(config: TrainConfig, source: tasks.Source) -> list[tasks.ScoredSource]:
    """List the parts of a source whose answers other packages judge, if the run judges any."""
    judges = config.judged_problems or config.eval_problems or config.validate_every
    return [part for part in sources.parts(source) if isinstance(part, tasks.ScoredSource)] if judges else []
