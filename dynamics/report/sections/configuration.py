"""Which settings differ between runs, and could explain that their results do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dynamics.errors import printable
from dynamics.report.labels import run_labels
from dynamics.report.section import Doubt, Finding, Options, Section, Table
from dynamics.runs import Run

#: what differs between any two runs and explains nothing: names, folders, times, machines, logging
NAMES = re.compile(
    r"(^|[._])(out|output|log|logging|cache|run|save|experiment|project|hub|report|resume|local|default)\w*(_dir|_name|_to|_path|_id|_folder)"
    r"|(^|[._])(uuid|host|hostname|time|date|started|seconds|packages|pid|rank|wandb|port|output|out|argv)([._]|$)"
)
#: settings that are known to change how far the weights move
STRONG = ("learning_rate", "steps", "batch_size", "master_dtype", "storage_dtype")


def make(runs: Sequence[Run], options: Options) -> Section:  # noqa: ARG001 - all sections are made alike
    """List the settings that are not the same in all runs."""
    section = Section("configuration", "Which settings differ between the runs?")
    if len(runs) < 2:
        section.lacks = "needs several runs"
        section.missing = "one run only; name several runs to see how their settings differ"
        section.doubts = [
            Doubt(
                "Cause: this is one run without a control. It shows what changed, and not why: only another seed, or another method with "
                "the same learning rate, steps and dtypes, tells the method from chance and from the settings.",
                3.0,
            )
        ]
        return section
    labels = [f"run {label}" if label in ("setting", "source") else label for label in run_labels(runs)]
    shared = [_shared(run) for run in runs]
    frame = pd.DataFrame([*_different(shared, labels, "setting"), *_different([_flat(run.config) for run in runs], labels, "config")])
    if frame.empty:
        frame = pd.DataFrame(columns=["source", "setting", *labels])
    shown = {"setting": "setting", "source": "from"} | {label: label for label in labels}
    note = "setting: what trainers have in common; config: by the trainer's own name. Names, folders and times are left out."
    section.tables = [Table("configuration_differences", "Settings that are not the same", frame, shown, 60, note)]
    section.findings = _findings(frame, labels)
    unknown = [label for label, run in zip(labels, runs, strict=True) if not run.config and not any(_shared(run).values())]
    if unknown:
        section.incomplete.append(f"no settings could be read of {', '.join(unknown)}")
    return section


def _shared(run: Run) -> dict[str, Any]:
    return {"trainer": run.trainer, "method": run.method, "base": _base(run), **asdict(run.settings)}


def _base(run: Run) -> Any:
    """Return the base; of one that the run itself saved, whose path is another in every run, the model that the settings name."""
    own = run.base is not None and Path(run.base).is_relative_to(run.path)
    return (run.config.get("model") if own else None) or run.base


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in config.items() if not NAMES.search(str(name).lower())}


def _different(settings: Sequence[dict[str, Any]], labels: Sequence[str], source: str) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(name for values in settings for name in values):
        values = [entry.get(name) for entry in settings]
        if any(value != values[0] for value in values[1:]):
            row: dict[str, Any] = {"source": source, "setting": printable(name)}
            for label, value in zip(labels, values, strict=True):
                row[label] = value if isinstance(value, (int, float, str)) or value is None else printable(value)
            rows.append(row)
    return rows


def _findings(frame: pd.DataFrame, labels: Sequence[str]) -> list[Finding]:
    settings = frame[frame["source"] == "setting"] if len(frame) else frame
    rows = {row["setting"]: [row[label] for label in labels] for row in settings.to_dict("records")}
    words = {
        name: f"{name.replace('_', ' ')} ({', '.join('unknown' if _absent(value) else printable(value, 40) for value in values)})"
        for name, values in rows.items()
    }
    strong = any(name in words for name in STRONG)
    if not words:
        text = "The settings that trainers have in common are the same in all runs, as far as the files say."
        return [Finding(text, weight=3)]
    text = f"The runs differ in {', '.join(words.values())}."
    return [Finding(text, "different_settings", float(len(rows)), weight=6.0 if strong else 3.5)]


def _absent(value: object) -> bool:
    return value is None or value != value
