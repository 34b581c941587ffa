"""Readers of run directories for the analyses, and the selection of runs by their settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.presets import BASE_RUN, METHODS
from dynamics import InputError
from dynamics.errors import printable
from dynamics.io import json_lines
from dynamics.runs.directory import RunDirectory
from dynamics.runs.open import open_run
from dynamics.runs.schema import current_metrics
from dynamics.runs.view import METRICS
from dynamics.runs.view import Run as TrainerRun

#: settings in which runs of one method may differ -> how a label names the value
VARIED_SETTINGS = {
    "learning_rate": "learning rate {:g}",
    "master_dtype": "{} masters",
    "proposer_reward": "{} reward",
    "proposer": "{} proposer",
    "advantage": "{} advantage",
    "advantage_cells": "{} cells",
    "data_order": "{} order",
    "pool": "on {}",
    "players": "{} players",
    "adversary": "{} adversary",
    "frozen": "frozen {}",
    "population": "{} agent",
}
#: prefix of a task that a run directory follows -> what the run trains on
POOLS = {"proposed": "proposed programs", "correct": "correct samples"}
#: those of them that belong to the optimizer, and those that belong to the self-play game
OPTIMIZER_SETTINGS = ("learning_rate", "master_dtype")
GAME_SETTINGS = ("proposer_reward", "proposer", "players", "adversary", "frozen", "population")


def describe(varied: Mapping[str, Any]) -> str:
    """Return a display text of settings, such as ``learning rate 3e-05, bfloat16 masters``."""
    values = {name: "no" if value == "none" else value for name, value in varied.items()}
    return ", ".join(text.format(values[name]) for name, text in VARIED_SETTINGS.items() if name in values)


def make_label(method: str, varied: Mapping[str, Any]) -> str:
    """Return the label of runs of a method that differ from its usual runs in the settings ``varied``."""
    return ", ".join(part for part in (method, describe(varied)) if part)


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes
    ----------
    path : the directory.
    document : its ``run.json``.
    usual : optimizer settings that the runs it is compared with have in common; they take the place of the method's defaults.
    default_seed : the seed of a run whose ``run.json`` gives none.
    view : what the files of another trainer say, of a directory without ``run.json``; None for a run of this project or its recorder.
    """

    path: Path
    document: dict[str, Any]
    usual: dict[str, Any] = field(default_factory=dict)
    default_seed: int = 0
    view: TrainerRun | None = None

    @property
    def method(self) -> str:
        """Name of the training method."""
        return str(self.document.get("method", "unknown"))

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.document.get("seed") or self.default_seed)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config as it was recorded; empty where another trainer recorded none."""
        return self.document.get("config") or {}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved config, with a model inside the folder of the runs named relative to that folder."""
        settings = dict(self.config)
        if settings.get("model") and (model := Path(str(settings["model"]))).is_relative_to(self.path.parent):
            settings["model"] = str(model.relative_to(self.path.parent))
        return settings

    @property
    def learning_rate(self) -> float:
        """The learning rate; NaN where none was recorded."""
        value = self.config.get("learning_rate") or math.nan
        if not is_number(value):
            raise InputError(f"{self.path / 'run.json'}: has a learning rate that is not a number; restore the file from a copy")
        return float(value)

    @property
    def has_evals(self) -> bool:
        """Whether it has graded samples of held-out problems."""
        return any((self.path / "evals").glob("*.jsonl"))

    @property
    def has_weights(self) -> bool:
        """Whether it kept the base and a later checkpoint; another trainer's recorder need not."""
        return len(self._saved) > 1

    @property
    def base_checksum(self) -> str:
        """Checksum of the weights that the run began with; empty if none was recorded, as by other trainers."""
        return str((self.document.get("checksums") or {}).get("base") or "")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The method's default values of ``VARIED_SETTINGS``."""
        from dynamics.train import settings

        if self.method not in settings.METHODS:
            return {}
        preset = settings.size_preset(self.document.get("preset"), self.config.get("model", "tiny"))
        return _varied_settings(self.method, preset)

    @cached_property
    def varied(self) -> dict[str, Any]:
        """Settings in which the run differs from the usual runs of its method, with its own values."""
        usual = self.defaults | self.usual
        own = {name: self.config[name] for name in VARIED_SETTINGS if name in self.config and name in usual}
        prefix, colon, _ = str(self.config.get("task", "")).partition(":")
        if colon and prefix in POOLS:
            own["pool"], usual["pool"] = POOLS[prefix], None
        return {name: value for name, value in own.items() if value != usual[name]}

    @cached_property
    def label(self) -> str:
        """Method and varied settings, for display; runs are selected by ``method`` and ``varied``."""
        return make_label(self.method, self.varied)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; with validation during training, that of step 0 has the validation before it.

        Of another trainer, what it logged under the names of ``dynamics.runs.view.METRICS``.
        """
        if self.view is not None:
            known = self.view.metrics[self.view.metrics["name"].isin(METRICS)]
            wide = known.pivot_table(index="step", columns="name", values="value", aggfunc="last").reset_index()
            return [{str(name): value for name, value in row.items() if value == value} for row in wide.to_dict("records")]
        return [current_metrics(row) for row in read_json_lines(self.path / "metrics.jsonl", {"step": is_number})]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per step of training."""
        file = self.path / "metrics.jsonl"
        rows = [line for line in self.lines if line["step"] or not any(name.startswith("validation/") for name in line)]
        if not rows:
            raise InputError(f"{file}: contains no steps")
        metrics = pd.DataFrame(rows)
        if text := [name for name in MEASURED if name in metrics and not metrics[name].dropna().map(is_number).all()]:
            raise InputError(f"{file}: {text[0]} is not a number in every line; restore the file from a copy")
        return metrics

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoints from the base to the last."""
        if not self.has_weights:
            raise InputError(f"{self.path / 'checkpoints'}: needs the base as step_000000 and a later checkpoint")
        return self._saved

    @cached_property
    def players(self) -> dict[str, Path]:
        """The last checkpoint of each player of a game by its name, the graded one first; of other methods that of the model, as ``""``."""
        others = {folder.name: _steps(folder) for folder in sorted((self.path / "players").glob("*"))}
        return {str(self.document.get("graded") or ""): self.checkpoints[-1]} | {name: steps[-1] for name, steps in others.items() if steps}

    @property
    def lacks(self) -> list[str]:
        """Return what an analysis may need and the run does not have, each with the reason."""
        lacking = []
        if not self.has_weights and self.view is None:
            lacking.append("no base as checkpoints/step_000000 with a later checkpoint")
        elif not self.has_weights:
            adapters = self.view is not None and bool(self.view.checkpoints) and all(saved.adapter for saved in self.view.checkpoints)
            where = f"its files name {printable(self.view.base, 80)}" if self.view and self.view.base else "its files name none"
            lacking.append("adapters as checkpoints, to be merged into their base" if adapters else f"no base on this machine ({where})")
        if not self.has_evals:
            lacking.append("no graded samples (evals/)")
        if self.view is not None:
            lacking.append(f"no metrics but those that {self.view.trainer} logged")
        return lacking

    @cached_property
    def _saved(self) -> list[Path]:
        if self.view is not None:
            base = Path(self.view.base) if self.view.base else None
            return [base, *(saved.path for saved in self.view.checkpoints if not saved.adapter)] if base and base.is_dir() else []
        return _steps(self.path / "checkpoints")

    def samples(self) -> Iterator[dict[str, Any]]:
        """Read the rows of ``evals/``, one per graded sample."""
        for file in sorted((self.path / "evals").glob("*.jsonl")):
            yield from read_json_lines(file, SAMPLE)

    @cached_property
    def evals(self) -> pd.DataFrame:
        """One row per graded sample: name, of_base, temperature, problem, asked, program, split, task, correct.

        ``name`` is that of the base at its temperature (``base, T=1``), or the label of the run; with the temperature if that is another
        than the first of the evaluation. ``problem`` is told apart by seed, as seeds may ask other problems of the same name; ``asked`` is
        its name alone, and ``program`` what it shares with others, if that was recorded.
        """
        rows = [
            {
                "name": sample["model"] if is_of_base(sample) else self._name(_temperature(sample)),
                "of_base": is_of_base(sample),
                "temperature": _temperature(sample),
                "problem": f"seed {self.seed}: {sample['problem']}",
                "asked": sample["problem"],
                "program": sample.get("program"),
            }
            | {name: sample[name] for name in ("split", "task", "correct")}
            for sample in self.samples()
        ]
        return pd.DataFrame(rows, columns=["name", "of_base", "temperature", "problem", "asked", "program", "split", "task", "correct"])

    def _name(self, temperature: float) -> str:
        """Name the trained model at a temperature."""
        from dynamics.train import evaluate

        first = self.config.get("eval_temperatures", [temperature])[0]
        return self.label if temperature == first else evaluate.label(self.label, temperature)


def _steps(folder: Path) -> list[Path]:
    """List the checkpoints ``step_N`` in a folder by N."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{1,18}", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def is_of_base(sample: Mapping[str, Any]) -> bool:
    """Whether a graded sample is from the base model rather than the trained model."""
    from dynamics.train import evaluate

    return bool(sample["model"] == evaluate.label("base", _temperature(sample)))


def token_ids(sample: Mapping[str, Any]) -> tuple[list[int], list[int]] | None:
    """Return the token ids of the prompt and of the completion of a graded sample; None if they are not recorded, or one is empty."""
    prompt, completion = sample.get("prompt_ids"), sample.get("completion_ids")
    if not prompt or not completion:
        return None
    for ids in (prompt, completion):
        if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
            raise InputError(f"a sample of {printable(sample['problem'], 80)} has token ids that are no whole numbers; restore its file")
    return prompt, completion


def _temperature(sample: Mapping[str, Any]) -> float:
    """Temperature of a graded sample; 1 where none was recorded."""
    value = sample.get("temperature", 1.0)
    if not is_number(value):
        raise InputError(f"a sample of {sample['problem']} has a temperature that is not a number")
    return float(value)


def first_and_last_fifth(metrics: pd.DataFrame, column: str) -> tuple[float, float]:
    """Average a column over the first and the last fifth of the steps at which it was recorded; NaN with fewer than two steps."""
    values = metrics[column].dropna() if column in metrics else pd.Series(dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    size = max(1, len(values) // 5)
    return float(values.iloc[:size].mean()), float(values.iloc[-size:].mean())


def is_number(value: object) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


#: columns of ``metrics.jsonl`` that analyses compute with
MEASURED = ("reward", "entropy", "nll_sampled", "grad_norm", "loss", "tokens", "learning_rate")
#: fields of a graded sample, and what each must be
SAMPLE: dict[str, Callable[[object], bool]] = {
    "model": is_text,
    "problem": is_text,
    "split": is_text,
    "task": is_text,
    "correct": lambda value: isinstance(value, (bool, int, float)),
}


def read_json_lines(path: Path, fields: Mapping[str, Callable[[object], bool]] | None = None) -> list[dict[str, Any]]:
    """Read the rows of a file, ignoring an incomplete last row of a killed run.

    Parameters
    ----------
    path : path of the file.
    fields : what each row must have: field -> whether its value is one.

    Raises
    ------
    InputError : the file does not exist or cannot be read, or a row is not as expected.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist; is the run finished?")
    rows = []
    for number, row in json_lines.read_json_lines(path, unfinished=[]):
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: is not an object")
        if missing := [name for name, is_one in (fields or {}).items() if not is_one(row.get(name))]:
            raise InputError(f"{path}, line {number}: has no {missing[0]}, or one of another type; restore the file from a copy")
        rows.append(row)
    return rows


def find(paths: Sequence[Path]) -> list[Run]:
    """Find the runs at some paths, in the order of methods, then labels, then seeds.

    Parameters
    ----------
    paths : run directories, also output directories of other trainers that ``dynamics.runs`` reads, or folders of run directories with a
        ``run.json``. In a folder of several the one called ``base`` is left out: it is what the others start from.

    Raises
    ------
    InputError : a path without a run; two runs of the same method, settings and seed, which would count as two seeds.
    """
    runs = [_open(folder) for folder in _run_folders(paths)]
    runs = [replace(run, usual=_usual_settings([other for other in runs if other.method == run.method])) for run in runs]
    known: dict[tuple[str, int], Run] = {}
    for run in runs:
        if run.document.get("seed") is None:
            run = replace(run, default_seed=sum(other.label == run.label for other in known.values()))
        key = (run.label, run.seed)
        if key in known:
            raise InputError(f"{run.path}: is {run.label}, seed {run.seed}, as {known[key].path} is; compare one of them at a time")
        known[key] = run
    order = {method: position for position, method in enumerate(METHODS)}
    return sorted(known.values(), key=lambda run: (order.get(run.method, len(order)), run.label, run.seed))


def _open(folder: Path) -> Run:
    """Open a run directory, or the output directory of another trainer."""
    if (folder / "run.json").exists():
        return Run(folder, RunDirectory(folder).read_run())
    view = open_run(folder)
    names = ("learning_rate", "master_dtype", "steps", "temperature")
    known = {name: getattr(view.settings, name) for name in names if getattr(view.settings, name) is not None}
    document = {"method": view.method or "unknown", "seed": view.settings.seed, "config": known, "model": view.base}
    return Run(folder, document | {"master_dtype": view.settings.master_dtype}, view=view)


def _run_folders(paths: Sequence[Path]) -> list[Path]:
    """List the run directories at some paths, each once."""
    folders: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if (path / "run.json").exists() else sorted(file.parent for file in path.glob("*/run.json"))
        compared = inside if len(inside) == 1 else [folder for folder in inside if folder.name != BASE_RUN]
        if not compared:
            open_run(path)  # says what it is not, if it is not the output directory of another trainer
            compared = [path]
        folders |= {folder.resolve(): folder for folder in compared}
    return list(folders.values())


def _varied_settings(method: str, preset: str) -> dict[str, Any]:
    """Return the values of ``VARIED_SETTINGS`` that a preset of a method has."""
    from dynamics.train import settings

    values = asdict(settings.METHODS[method](**settings.preset_values(method, preset)))
    return {name: values[name] for name in VARIED_SETTINGS if name in values}


def _settings_of_preset(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the values of ``VARIED_SETTINGS`` of the preset that all runs of one method name; none if they name a size, or several."""
    from dynamics.train import settings
    from dynamics.train.config import SIZES

    names = {str(run.document.get("preset")) for run in runs}
    method, name = runs[0].method, min(names)
    known = settings.METHODS[method].presets if method in settings.METHODS else ()
    return _varied_settings(method, name) if len(names) == 1 and name in known and name not in SIZES else {}


def _usual_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Find the settings that runs of one method have in common: those of a preset that all of them name, and of the optimizer.

    The latter are those of the runs with evaluations, if there are any; else the defaults, if any run has them; else the most frequent.
    """
    usual = _settings_of_preset(runs)
    for name in OPTIMIZER_SETTINGS:
        values = [run.config[name] for run in runs if name in run.config]
        evaluated = [run.config[name] for run in runs if name in run.config and run.has_evals]
        default = runs[0].defaults.get(name)
        if values:
            candidates = evaluated or values
            usual[name] = default if not evaluated and default in values else max(candidates, key=candidates.count)
    return usual


def same_base(first: Run, second: Run) -> bool:
    """Whether two runs with weights began with the same ones: by their checksums; where one was not recorded, the weights are compared."""
    from dynamics import sparsity

    if first.base_checksum and second.base_checksum:
        return first.base_checksum == second.base_checksum
    return sparsity.compare(first.checkpoints[0], second.checkpoints[0]).total.sparsity["exact"] == 1.0


def default_settings(runs: Sequence[Run]) -> list[Run]:
    """Select the runs with the usual settings of their method; of a method without such a run, all."""
    methods = {run.method for run in runs if not run.varied}
    return [run for run in runs if not run.varied or run.method not in methods]


def default_optimizer(runs: Sequence[Run]) -> list[Run]:
    """Select the runs with the usual learning rate and master dtype of their method; all if there is none."""
    return [run for run in runs if not run.varied.keys() & set(OPTIMIZER_SETTINGS)] or list(runs)


def default_game(runs: Sequence[Run]) -> list[Run]:
    """Select the runs with the usual reward and proposer of their method."""
    return [run for run in runs if not run.varied.keys() & set(GAME_SETTINGS)]


def lowest_lr(runs: Sequence[Run]) -> list[Run]:
    """Select the runs at the lowest learning rate that all methods were trained at, all else as usual.

    None if that is not below the usual learning rates.
    """
    by_rate: dict[float, list[Run]] = {}
    for run in runs:
        if set(run.varied) == {"learning_rate"}:
            by_rate.setdefault(run.learning_rate, []).append(run)
    methods = {run.method for run in runs}
    shared = [rate for rate, group in by_rate.items() if {run.method for run in group} == methods]
    usual = min((run.learning_rate for run in default_settings(runs)), default=math.nan)
    lowest = min(shared, default=math.nan)
    if lowest >= usual or math.isnan(lowest):
        return []
    return [run for method in dict.fromkeys(run.method for run in by_rate[lowest]) for run in by_rate[lowest] if run.method == method]


def reasons(runs: Sequence[Run]) -> str:
    """Say what each run lacks, of three at most."""
    told = [f"{run.path.name} has {run.lacks[0]}" for run in runs if run.lacks]
    return "; ".join([*told[:3], *([f"and {len(told) - 3} more"] if len(told) > 3 else [])]) or "there are none"


def with_weights(runs: Sequence[Run]) -> list[Run]:
    """Select the runs that kept their base and a later checkpoint."""
    selected = [run for run in runs if run.has_weights]
    if not selected:
        raise InputError(f"none of the runs has weights of its base and of a later checkpoint: {reasons(runs)}")
    return selected
