"""Run directories of this project, and those that ``dynamics.recorder`` writes inside other trainers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.regular import open_regular
from dynamics.io.side_files import ADVICE, read_json
from dynamics.runs.logged_names import FROM_TRAINER, OWN
from dynamics.runs.matching import SUMMED, matching, totals
from dynamics.runs.readers.hf_completions import completions
from dynamics.runs.readers.logs import Log, first_record, is_step, json_log, learning_rate, records
from dynamics.runs.readers.looking import entries, is_file, is_folder
from dynamics.runs.readers.settings import dtype, flat, number, text, whole
from dynamics.runs.readers.weights import complete, numbered
from dynamics.runs.schema import KNOWN, current_document, current_metrics, values_of
from dynamics.runs.view import RolloutFile, Run, Settings

LOOKED_FOR = "run.json or metrics.jsonl with sparsity/ (this project's training and recorder)"

#: file of an evaluation: what was evaluated, and the temperature
EVAL = re.compile(r"(?:base|.*,_(\d{1,15})_steps)_(T[\d.]+|greedy)\.jsonl")
#: what the schemas of ``run.json`` begin with, and bytes of a damaged one in which it is looked for
SCHEMAS, BEGINNING = "dynamics.run/", 4096
#: end of the note on a ``run.json`` that cannot be read
LOST = "restore the file from a copy: it holds the settings, the method and the base, which --base names as well"
#: fields of ``run.json`` that are not settings
NO_SETTINGS = ("schema", "config", "notes", "packages", "machines", "time", "probe_prompts", "probes", "pool", "matching")


def read(folder: Path) -> Run | None:
    """Read a run directory of ``dynamics.train`` or ``dynamics.recorder``; None if another trainer wrote it."""
    document = _document(folder)
    if document is None:
        if not _is_recorded(folder):
            return None
        document = {}
    unreadable = document.pop("unreadable", None)
    notes: list[str] = [f"{unreadable}; {LOST}"] if unreadable else []
    settings = flat(document.get("config") or {})
    run = Run(folder, "dynamics.train or dynamics.recorder" if unreadable else _trainer(document), _method(document, settings), notes=notes)
    run.evidence = "run.json" if is_file(folder / "run.json") else "metrics.jsonl"
    run.config = {**flat({name: value for name, value in document.items() if name not in NO_SETTINGS}), **settings}
    run.remarks += [printable(note, 500) for note in document.get("notes") or [] if isinstance(note, str)]
    if document.get("status") in ("interrupted", "failed", "running"):
        run.remarks.append(f"run.json says that the run is {document['status']}")
    elsewhere = _trainers_folder(folder, settings)
    _add_checkpoints(run, document, elsewhere)
    run.evals = [entry for entry in entries(folder / "evals") if entry.name.endswith(".jsonl") and not entry.name.startswith(".")]
    _add_metrics(run)
    _add_samples(run, elsewhere, settings)
    run.settings = _settings(run, document, settings)
    if run.trainer.startswith("dynamics.train") and not unreadable:
        run.matching = matching(document, _totals(run))
    return run


def _totals(run: Run) -> dict[str, float]:
    """Sum the columns of the metrics that the table of matching needs."""
    wide = {name: run.series(name) for name in SUMMED}
    steps = sorted(set(run.metrics["step"]))
    return totals({"step": step} | {name: values.get(step) for name, values in wide.items()} for step in steps)


def _document(folder: Path) -> dict[str, Any] | None:
    """Read ``run.json``; None if there is none of ours. If it is damaged, only ``unreadable`` says why."""
    path = folder / "run.json"
    if not is_file(path):
        return None
    try:
        document = read_json(path, surrogates=True)
    except InputError as error:
        return {"unreadable": str(error).removesuffix(f"; {ADVICE}")} if _is_ours(folder) else None
    if not str(document.get("schema")).startswith(SCHEMAS):
        return {"unreadable": f"{printable(path)}: does not say the schema of a run, {SCHEMAS}N"} if _is_recorded(folder) else None
    if document["schema"] not in KNOWN:
        what = f"its schema {printable(document['schema'], 60)} is unknown; install a later version of this package"
        return {"unreadable": f"{printable(path)}: {what}"}
    try:
        return current_document(document)
    except (ValueError, TypeError, AttributeError) as error:
        return {"unreadable": f"{printable(path)}: is not that of a run: {printable(str(error))}"}


def _is_ours(folder: Path) -> bool:
    """Tell whether a ``run.json`` that cannot be read is that of this project: by its beginning, or by the files beside it."""
    try:
        with open(open_regular(folder / "run.json"), "rb") as file:
            start = file.read(BEGINNING)
    except (InputError, OSError):
        start = b""
    return SCHEMAS.encode() in start or _is_recorded(folder) or bool(numbered(folder / "checkpoints", r"step_(\d{6})"))


def _is_recorded(folder: Path) -> bool:
    """Tell whether a recorder wrote ``metrics.jsonl``, which also stands alone."""
    first = first_record(folder / "metrics.jsonl") if is_file(folder / "metrics.jsonl") else None
    if not isinstance(first, dict) or not is_step(first.get("step")):
        return False
    return any(name.startswith(("sparsity/", "factors/sparsity/", "time/recorder_seconds", "validation/pass@1/")) for name in first)


def _trainer(document: dict[str, Any]) -> str:
    packages = document.get("packages") or {}
    if "preset" in document or "checksums" in document:
        return f"dynamics.train {printable(document.get('method') or '', 40)}".strip()
    if "trl" in packages:
        return "TRL, recorded by dynamics.recorder"
    return "transformers, recorded by dynamics.recorder" if "transformers" in packages else "dynamics.recorder"


def _method(document: dict[str, Any], settings: dict[str, Any]) -> str | None:
    method = document.get("method")
    if method == "rlvr":
        return (text(settings, "advantage", "loss_type") or method).lower()
    return printable(method, 40).lower() if isinstance(method, str) and method else None


def _trainers_folder(folder: Path, settings: dict[str, Any]) -> Path:
    """Return the output directory of the trainer in which a recorder ran, if it is another one and is there; else the run directory."""
    named = text(settings, "output_dir")
    other = Path(named) if named and "\0" not in named else folder
    return other if is_folder(other) and numbered(other, r"checkpoint-(\d+)") else folder


def _add_checkpoints(run: Run, document: dict[str, Any], elsewhere: Path) -> None:
    """List the checkpoints; that of step 0 holds the weights before training, and is the base."""
    own = numbered(run.path / "checkpoints", r"step_(\d+)")
    found = complete(own, run.notes) + complete(numbered(elsewhere, r"checkpoint-(\d+)"), run.notes)
    half = [entry.name for entry in entries(run.path / "checkpoints") if entry.name.startswith(".step_")]
    run.notes += [f"{printable(run.path / 'checkpoints' / name)}: checkpoint left out: it was not written to its end" for name in half]
    model = document.get("model")
    if isinstance(model, str) and model:
        run.base, run.base_from = printable(model, 4096), "run.json: model"
    start = next((saved for saved in found if saved.step == 0 and saved.path.parent.name == "checkpoints"), None)
    if start is not None:
        run.base, run.base_from = str(start.path), "the checkpoint of step 0, saved before training"
        if isinstance(model, str) and model:
            run.base_from += f"; run.json: model {printable(model)}"
        found.remove(start)
    elif run.base == "tiny":
        run.base = None
        run.remarks.append(
            "run.json names the embedded model, tiny, and the run has no checkpoint of step 0: name the base by its folder in "
            "~/.cache/dynamics"
        )
    run.checkpoints = found
    if elsewhere != run.path and found:
        run.remarks.append(f"the checkpoints are those in {printable(elsewhere)}, which run.json names")


def _add_samples(run: Run, elsewhere: Path, settings: dict[str, Any]) -> None:
    """List rollouts, or the completions that TRL kept, and what the model can be measured on."""
    run.rollouts, run.validation = _by_step(run.path / "rollouts"), _by_step(run.path / "validation")
    if not run.rollouts:
        rows = run.metrics.itertuples(index=False, name=None)
        logged = ((step, name.removeprefix(FROM_TRAINER), value) for step, name, value in rows)
        run.rollouts = completions(elsewhere, logged, settings, run.notes)
    run.texts = [file.path for file in run.rollouts] or list(run.evals)


def _by_step(folder: Path) -> list[RolloutFile]:
    """List the files ``step_N.jsonl`` of a folder, by N."""
    matches = [(re.fullmatch(r"step_(\d{1,15})\.jsonl", entry.name), entry) for entry in entries(folder)]
    held_out = folder.name == "validation"
    return sorted((RolloutFile(int(match[1]), entry, held_out) for match, entry in matches if match), key=lambda file: file.step or 0)


def _add_metrics(run: Run) -> None:
    path = run.path / "metrics.jsonl"
    log = Log(OWN)
    if is_file(path):
        json_log(path, run.notes, _line, log)
    elif run.evidence == "run.json":
        run.notes.append(f"{printable(path)}: is missing; the run has no training curves")
    log.combine(OWN["clip_fraction"][0], ("clip/low", "clip/high"), lambda wide: wide.sum(axis=1, skipna=False))
    for step, score in _held_out(run):
        log.add(step, [(OWN["held_out"][0], score)])
    log.write_to(run)


def _line(record: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    current = current_metrics(values_of(record))
    return current.pop("step", None), current


def _held_out(run: Run) -> Iterator[tuple[int, float]]:
    """Yield the steps of evaluations and their mean scores, at the highest temperature at which the trained model was evaluated."""
    files: dict[str, list[tuple[int, Path]]] = {}
    for path in run.evals:
        if match := EVAL.fullmatch(path.name):
            files.setdefault(match[2], []).append((int(match[1] or 0), path))
    several = [temperature for temperature, pairs in files.items() if len(pairs) > 1]
    for step, path in sorted(files[max(several, key=_temperature)]) if several else ():
        given = [record["score"] for record in records(path, run.notes) if isinstance(record, dict) and "score" in record]
        scores = [score for score in given if _is_score(score)]
        if lost := len(given) - len(scores):
            run.remarks.append(f"{printable(path)}: {lost:,} of {len(given):,} scores are not finite; left out of the held-out score")
        if scores:
            yield step, math.fsum(scores) / len(scores)


def _temperature(name: str) -> float:
    try:
        return float(name.removeprefix("T"))
    except ValueError:
        return 0.0  # greedy


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


#: methods of which a step has proposals, or altered steps, too: how many are valid differs from step to step
_WITHOUT_BATCH_SIZE = ("selfplay", "spc", "pasodoble", "populora")


def _settings(run: Run, document: dict[str, Any], settings: dict[str, Any]) -> Settings:
    made = run.metrics["step"].max() if len(run.metrics) else None
    prompts, group = whole(settings, "prompts_per_step"), whole(settings, "group_size", "num_generations")
    batch = prompts * (group or 1) if prompts else whole(settings, "batch_size", "generation_batch_size")
    if document.get("method") in _WITHOUT_BATCH_SIZE:
        batch = None
    processes, per_process = whole(document, "ranks"), whole(settings, "per_device_train_batch_size")
    if batch is None and processes and per_process:
        batch = per_process * (whole(settings, "gradient_accumulation_steps") or 1) * processes
    return Settings(
        learning_rate=learning_rate(run, number(settings, "learning_rate")),
        steps=int(made) if made is not None else whole(settings, "steps", "max_steps"),
        batch_size=batch,
        group_size=group,
        master_dtype=dtype(document, "master_dtype"),
        storage_dtype=dtype(document, "storage_dtype", "master_dtype"),
        temperature=number(settings, "temperature"),
        kl_coef=number(settings, "kl_coef", "beta"),
        seed=whole({**settings, "run": document.get("seed")}, "run", "seed"),
    )
