"""Assemble a report: sections in order, the headline, and the facts about each run."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd

from dynamics.checkpoints import open_checkpoint
from dynamics.cli.command import TRACEBACK
from dynamics.errors import InputError, printable
from dynamics.io.locations import without_secrets
from dynamics.presentation.text import human, number, types
from dynamics.report import cache
from dynamics.report.labels import run_labels
from dynamics.report.section import FEW_PROBLEMS, PASS_AT_1, TRAINING_LOSS, Change, Doubt, Finding, Options, Section, Store
from dynamics.runs import Run, open_run
from dynamics.runs.nearby import exists, nearby

SCHEMA = "dynamics.report/1"
#: modules of ``dynamics.report.sections``, in the order of the page
SECTIONS = ("weights", "directions", "overlap", "curves", "rollouts", "passk", "uncertainty", "matching", "configuration")
#: last line of what a report leaves out if it has nothing else
NO_SECTION = "no section could be made"
#: sentences of the headline, and how many of them may come from one section if others have some
SENTENCES, OF_ONE_SECTION = 6, 2
#: how much a doubt about the largest change gains
ABOUT_THE_LARGEST = 1.5
#: how the intervals in brackets are read
BRACKETS = "Brackets hold 95 % intervals."

#: names of methods
METHODS = {
    "sft": "SFT, supervised fine-tuning",
    "grpo": "GRPO, policy gradient with advantages relative to a group",
    "rloo": "RLOO, policy gradient with a leave-one-out baseline",
    "ppo": "PPO, policy gradient with clipped ratios",
    "dpo": "DPO, direct preference optimisation",
    "rlvr": "RLVR, reinforcement learning with verifiable rewards",
    "selfplay": "self-play: the model proposes problems and solves them",
    "seirenes": "Seirênes: answers, misleading hints, and answers under them",
    "spc": "SPC: a generator writes wrong steps, a critic tells them from right ones",
    "pasodoble": "PasoDoble: one model proposes problems and claims their answers, another solves them",
    "populora": "PopuLoRA: populations of adapters on one base, of which teachers propose problems and students solve them",
}


class SectionModule(Protocol):
    """A module of ``dynamics.report.sections``."""

    def make(self, runs: Sequence[Run], options: Options) -> Section:
        """Make the section; an ``InputError`` if its inputs are bad."""


@dataclass(frozen=True)
class Fact:
    """A line of what a run is.

    Attributes
    ----------
    name : such as ``learning rate``.
    text : as it is shown.
    source : what says so; empty if it is plain.
    """

    name: str
    text: str
    source: str = ""


@dataclass
class Report:
    """What some runs did to their model.

    Attributes
    ----------
    runs : as their directories show them.
    labels : a short name of each.
    facts : what each run is.
    headline : the findings that matter most, with the key of their section.
    sections : in the order of the page.
    incomplete : what could not be read or compared, a line each; not empty makes the exit status 3.
    command : the command that makes this report.
    """

    runs: list[Run]
    labels: list[str]
    facts: list[list[Fact]]
    headline: list[tuple[str, Finding]]
    sections: list[Section]
    incomplete: list[str] = field(default_factory=list)
    command: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether no section could be made; what was matched is said of every run, and is no result."""
        return all(section.missing for section in self.sections if section.key != "matching")

    @property
    def changes(self) -> list[Change]:
        """The measured changes of behaviour, of all sections."""
        return [change for section in self.sections for change in section.changes]

    @property
    def largest_changes(self) -> list[str]:
        """What training changed most, a line for each run: of behaviour the largest clear change, and how far the weights moved."""
        runs = dict.fromkeys([*self.labels, *(change.run for change in self.changes)])
        lines = [(run, f"{changed(self.changes, run)} {self._weights(run)}".rstrip()) for run in runs]
        return [f"{run}: {line}" if len(runs) > 1 else line for run, line in lines]

    def _weights(self, run: str) -> str:
        """Say how many weights are the same, and how far they moved."""
        prefix = f"{run}." if len(self.runs) > 1 else ""
        findings = {finding.key: finding for section in self.sections for finding in section.findings}
        told = [findings.get(f"{prefix}{key}") for key in ("unchanged_bf16", "relative_update")]
        return " ".join(_sentence(lead(finding.brief)[0].removeprefix(f"{run}: ")) for finding in told if finding is not None)

    @property
    def doubts(self) -> list[str]:
        """Why the numbers could mislead, each once, the gravest first; one about the largest change comes before its like."""
        largest = {change.what for run in self.labels for change in clear_changes(self.changes, run)[:1]}
        every = [doubt for section in self.sections for doubt in section.doubts] + _unconfirmed(self.changes, self.labels)
        every.sort(key=lambda doubt: -doubt.weight - ABOUT_THE_LARGEST * (doubt.about in largest))
        return list(dict.fromkeys(doubt.text for doubt in every))

    @property
    def commands(self) -> list[str]:
        """The commands that make the numbers alone."""
        return list(dict.fromkeys(line for section in self.sections for line in section.commands))

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON document of schema ``dynamics.report/1``: every number of the page, unrounded; undefined ones are NaN."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "runs": [_run(*of) for of in zip(self.runs, self.labels, self.facts, strict=True)],
            "headline": [{"section": key} | asdict(finding) for key, finding in self.headline],
            "changes": [
                asdict(change) | {"value": change.value, "relative": change.relative, "sure": change.sure, "clear": change.is_clear}
                for change in self.changes
            ],
            "largest_changes": self.largest_changes,
            "sections": [_section(section) for section in self.sections],
            "doubts": self.doubts,
            "commands": self.commands,
            "incomplete": self.incomplete,
        }


def best_estimates(changes: Sequence[Change], run: str) -> list[Change]:
    """Return the changes of a run without those that another one estimates better; the surely largest first, see ``Change.sure``."""
    of_run = [change for change in changes if change.run == run]
    replaced = {change.replaces for change in of_run}
    return sorted((change for change in of_run if change.what not in replaced), key=lambda change: (-change.sure, -change.relative))


def clear_changes(changes: Sequence[Change], run: str) -> list[Change]:
    """Return the changes of a run whose interval does not contain 0, the largest first."""
    return [change for change in best_estimates(changes, run) if change.is_clear]


def changed(changes: Sequence[Change], run: str) -> str:
    """Name the clear change of behaviour of a run that is surely largest, relative to its ends, and which others are clear or not."""
    measured, clear = best_estimates(changes, run), clear_changes(changes, run)
    unclear = ", ".join(dict.fromkeys(change.what for change in measured if not change.is_clear))
    if not measured:
        return "No change of behaviour was measured with an interval."
    if not clear:
        return f"No measured change of behaviour is clear: the 95 % intervals of these contain 0: {unclear}."
    most = clear[0]
    moved = "rose" if most.value > 0 else "fell"
    text = (
        f"The {most.what} {moved} from {number(most.start)} to {number(most.end)}: by {most.value:+.3g}, 95 % interval {most.low:+.3g} to "
        f"{most.high:+.3g} ({most.how})."
    )
    if len(clear) > 1:
        text += f" Also clear: {', '.join(map(_small, clear[1:]))}."
    return text + (f" Not clear, as the interval contains 0: {unclear}." if unclear else "")


def _small(change: Change) -> str:
    """Name a change with its ends."""
    return f"{change.what} ({number(change.start)} to {number(change.end)})"


def lead(text: str) -> tuple[str, str]:
    """Divide a text into its first sentence and the rest.

    >>> lead("It is 0.5 %. All were counted.")
    ('It is 0.5 %.', 'All were counted.')
    """
    first, *rest = re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)
    return first, "".join(rest)


def _sentence(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]


def _unconfirmed(changes: Sequence[Change], labels: Sequence[str]) -> list[Doubt]:
    """Doubt a reward that rose, or a loss that fell, in training, if graded samples do not clearly show that the model solves more."""
    doubts = []
    for run in labels:
        solved = next((change for change in changes if change.run == run and change.what.split(" ")[0] == PASS_AT_1), None)
        for change in clear_changes(changes, run):
            better = change.value > 0 if "reward" in change.what else change.value < 0 and change.what == TRAINING_LOSS
            if better and solved is not None and not solved.low > 0:
                of = f" of {run}" if len(labels) > 1 else ""
                text = (
                    f"The {change.what}{of} {'rose' if change.value > 0 else 'fell'}, but {solved.what} did not clearly rise: "
                    f"{solved.value:+.3g} [{solved.low:+.3g}, {solved.high:+.3g}] ({solved.how}). So what was learned may hold for the "
                    "training problems only; more problems or samples would tell."
                )
                doubts.append(Doubt(text, 9.0 if solved.units >= FEW_PROBLEMS else 7.9, change.what))
    return doubts


def open_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Read run directories.

    Returns
    -------
    runs : those that can be read, in order; a directory that is named twice is read once.
    problems : why others cannot, a line each.

    Raises
    ------
    InputError : none can be read.
    """
    runs: dict[Path, Run] = {}
    problems = []
    for path in paths:
        run, problem = _opened(path)
        if run is None:
            problems.append(problem)
        else:
            runs.setdefault(Path(path).resolve(), run)
    if not runs:
        raise InputError("; ".join(problems) or "no run is named")
    return list(runs.values()), problems


def _opened(path: str | Path) -> tuple[Run | None, str]:
    try:
        return open_run(path), ""
    except InputError as error:
        return None, str(error)


def report(runs: Sequence[Run], options: Options | None = None) -> Report:
    """Make all sections of a report that can be made.

    Parameters
    ----------
    runs : from ``dynamics.runs.open_run``.
    options : what is asked for; the defaults if None.

    Examples
    --------
    >>> result = report([Run(Path("runs/grpo"), "TRL GRPOTrainer")])
    >>> [section.key for section in result.sections if section.missing][:2]
    ['weights', 'directions']
    """
    options = replace(options or Options(), store=Store())
    labels = run_labels(runs)
    _measure_weights(runs, options)
    sections = [_made(name, runs, options) for name in SECTIONS]
    incomplete = [f"{label}: {note}" if len(runs) > 1 else note for run, label in zip(runs, labels, strict=True) for note in run.notes]
    incomplete += [line for section in sections for line in section.incomplete]
    facts = [_facts(run, options) for run in runs]
    cache.bound(options.cache, options.store)
    result = Report(list(runs), labels, facts, _headline(sections), sections, list(dict.fromkeys(incomplete)))
    result.incomplete += [NO_SECTION] if result.is_empty else []
    return result


def _measure_weights(runs: Sequence[Run], options: Options) -> None:
    """Measure what several sections need while each file is read once; the sections measure what is not there."""
    from dynamics.report import one_pass

    try:
        one_pass.take(runs, options)
    except Exception:  # an InputError, or a fault here: the section that it concerns meets it again, and says it
        if os.environ.get(TRACEBACK):
            raise


def _made(name: str, runs: Sequence[Run], options: Options) -> Section:
    module = cast(SectionModule, importlib.import_module(f"dynamics.report.sections.{name}"))
    try:
        return module.make(runs, options)
    except InputError as error:
        return _failed(name, str(error))
    except OSError as error:  # a file that was deleted, or closed to us, after the run was read
        return _failed(name, f"{printable(error.filename or 'a file of the run')}: {error.strerror or error}")
    except Exception as error:  # a fault here, which must not cost the other sections
        if os.environ.get(TRACEBACK):
            raise
        what = f"internal error ({type(error).__name__}: {printable(error, 200)}); please report it with what {TRACEBACK}=1 shows"
        return _failed(name, what)


def _failed(name: str, why: str) -> Section:
    return Section(name, name.capitalize(), missing=why, incomplete=[f"{name}: {why}"])


def _headline(sections: Sequence[Section]) -> list[tuple[str, Finding]]:
    """Choose the findings with the largest weights, at first at most two of a section."""
    findings = [(section.key, finding) for section in sections for finding in section.findings if finding.weight > 0]
    findings.sort(key=lambda entry: -entry[1].weight)
    taken: dict[str, int] = {}
    first: list[tuple[str, Finding]] = []
    rest: list[tuple[str, Finding]] = []
    for key, finding in findings:
        taken[key] = taken.get(key, 0) + 1
        (first if taken[key] <= OF_ONE_SECTION else rest).append((key, finding))
    return sorted([*first, *rest][:SENTENCES], key=lambda entry: -entry[1].weight)


def _facts(run: Run, options: Options) -> list[Fact]:
    """Say what a run is: trainer, method, base, checkpoints, dtypes and the settings that matter."""
    settings = run.settings
    facts = [
        Fact("trainer", run.trainer, run.evidence),
        Fact("method", _method(run)),
        _base(run, options),
        Fact("checkpoints", _checkpoints(run)),
        Fact("dtype of the optimizer's weights", settings.master_dtype or "not said by any file"),
        Fact("dtype of the saved weights", _storage(run)),
    ]
    for name in ("learning_rate", "steps", "batch_size", "group_size", "temperature", "kl_coef", "seed"):
        value = getattr(settings, name)
        if value is not None:
            text = f"{value:,}" if isinstance(value, int) and name != "seed" else f"{value:g}"
            facts.append(Fact("KL coefficient" if name == "kl_coef" else name.replace("_", " "), text))
        elif name in ("learning_rate", "steps"):
            facts.append(Fact(name.replace("_", " "), "not said by any file"))
    return facts


def _method(run: Run) -> str:
    """Name the method as the field does, and whether it trained adapters."""
    if not run.method:
        return "not said by any file"
    adapters = ", with LoRA adapters" if run.checkpoints and all(saved.adapter for saved in run.checkpoints) else ""
    return METHODS.get(run.method, run.method) + adapters


def _base(run: Run, options: Options) -> Fact:
    """Name the base that is asked for, or else the one that the run's files name."""
    if options.base:
        said = f"; {run.base_from} says {without_secrets(run.base)}" if run.base and run.base != options.base else ""
        return Fact("base", _named(options.base, run, options), f"--base{said}")
    if not run.base:
        return Fact("base", "not said by any file; --base MODEL names it")
    return Fact("base", _named(run.base, run, options), run.base_from)


def _named(base: str, run: Run, options: Options) -> str:
    """Name a base: by its name on the Hub, or a folder by its path and by what it holds."""
    where = nearby(base, run.path)
    own = base != options.base and exists(where) and Path(where).resolve().is_relative_to(run.path.resolve())
    name = Path(where).resolve().relative_to(run.path.resolve()).as_posix() if own else without_secrets(base)
    try:
        checkpoint = open_checkpoint(where) if exists(where) else None
    except InputError:
        checkpoint = None
    if checkpoint is None:
        return name
    config = checkpoint.config or {}
    kind, origin = config.get("model_type"), config.get("_name_or_path")
    parts = [f"{printable(kind, 40)} model" if isinstance(kind, str) and kind else "model"]
    parts[0] += f" of {human(sum(checkpoint.dtypes.values()))} weights"
    origin = (run.config.get("model") if own else None) or origin
    if isinstance(origin, str) and origin and origin != base and not Path(origin).is_absolute():
        parts.append(f"from {printable(without_secrets(origin), 100)}")
    return f"{name} ({', '.join(parts)})"


def _checkpoints(run: Run) -> str:
    kinds = "LoRA adapter" if run.checkpoints and all(saved.adapter for saved in run.checkpoints) else "checkpoint"
    steps = [saved.step for saved in run.checkpoints if saved.step is not None]
    count = f"{len(run.checkpoints):,} {kinds}{'' if len(run.checkpoints) == 1 else 's'}"
    if not steps:
        return count
    listed = ", ".join(f"{step:,}" for step in steps) if len(steps) <= 6 else f"{steps[0]:,}, {steps[1]:,}, ... {steps[-1]:,}"
    return f"{count}, step{'' if len(steps) == 1 else 's'} {listed}"


def _storage(run: Run) -> str:
    """Name the dtypes of the last checkpoint, from its headers; what the settings say if it cannot be opened."""
    said = run.settings.storage_dtype
    if run.checkpoints:
        try:
            checkpoint = open_checkpoint(run.checkpoints[-1].path)
        except InputError:
            return f"{said}, say the settings" if said else "not known"
        if checkpoint.tensors:
            return types(checkpoint.dtypes)
        if checkpoint.adapter is not None:
            return f"{types(checkpoint.adapter.dtypes)} (the adapter's factors)"
    return f"{said}, say the settings" if said else "not known"


def _run(run: Run, label: str, facts: Sequence[Fact]) -> dict[str, Any]:
    return {
        "label": label,
        "path": printable(run.path, 1000),
        "trainer": run.trainer,
        "method": run.method,
        "evidence": run.evidence,
        "base": without_secrets(run.base) if run.base else None,
        "base_from": run.base_from,
        "checkpoints": [{"step": saved.step, "path": str(saved.path), "adapter": saved.adapter} for saved in run.checkpoints],
        "settings": asdict(run.settings),
        "config": run.config,
        "facts": [asdict(fact) for fact in facts],
        "remarks": run.remarks,
        "notes": run.notes,
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "key": section.key,
        "title": section.title,
        "findings": [asdict(finding) for finding in section.findings],
        "doubts": [doubt.text for doubt in section.doubts],
        "tables": [
            {"name": table.name, "title": table.title, "note": table.note, "rows": records(table.frame)} for table in section.tables
        ],
        "figures": [
            {"name": picture.name, "title": picture.title, "table": picture.table, "alternative": picture.alternative}
            for picture in section.pictures
        ],
        "samples": [
            {"title": sample.title, "prompt": sample.prompt, "completions": [list(pair) for pair in sample.completions]}
            for sample in section.samples
        ],
        "missing": section.missing,
        "incomplete": section.incomplete,
        "commands": section.commands,
        "document": section.document,
    }


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain records; what is missing, or no finite number, is None."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else printable(value, 1000)
